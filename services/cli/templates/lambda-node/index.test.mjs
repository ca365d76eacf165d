import assert from 'node:assert/strict'
import { test } from 'node:test'
import { handler } from './index.mjs'

test('greets whom the event names', async () => {
  assert.deepEqual(await handler({ name: 'Wherry' }, { awsRequestId: '1' }), {
    hello: 'Wherry',
    requestId: '1',
  })
})
