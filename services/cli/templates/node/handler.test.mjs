import assert from 'node:assert/strict'
import { test } from 'node:test'
import handle from './handler.mjs'

test('greets whom the body names', async () => {
  assert.deepEqual(await handle(Buffer.from('Wherry\n'), { method: 'POST' }), {
    hello: 'Wherry',
    method: 'POST',
  })
})
