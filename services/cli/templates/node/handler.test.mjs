import assert from 'node:assert/strict'
import { test } from 'node:test'
import handle from './handler.mjs'

test('greets the name in the body', async () => {
  assert.deepEqual(await handle(Buffer.from('Wherry\n'), { method: 'POST' }), {
    hello: 'Wherry',
    method: 'POST',
  })
})
