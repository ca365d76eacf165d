import assert from 'node:assert/strict'
import { test } from 'node:test'
import { handler } from './index.mjs'

test('greets the name in the event', async () => {
  assert.deepEqual(await handler({ name: 'Wherry' }, { awsRequestId: '1' }), {
    hello: 'Wherry',
    requestId: '1',
  })
})
