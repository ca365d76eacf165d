// Job data in both directions, without a Redis.

import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import type { Invocation } from '../../services/contract/invocation.ts'
import { preciseNowMs } from '../../services/queue/clock.ts'
import {
  callIdOfJob,
  encodeJob,
  envelopeOf,
  isCallId,
  parseJob,
  type RawJob,
} from '../../services/queue/job-data.ts'
import { inlineBody, parseRecord } from '../../services/queue/record.ts'

const LIMIT = 100_000

function call(body: Uint8Array): Invocation {
  return {
    callId: 'c-1',
    function: 'f',
    attempt: 1,
    enqueuedAtMs: 5,
    request: { method: 'GET', path: '/p', query: 'q=1', headers: { a: 'b' }, body },
  }
}

function raw(given: Partial<RawJob> = {}): RawJob {
  const { dataText = '"x"' } = given
  return {
    function: 'f',
    id: '7',
    name: 'invoke',
    dataText,
    data: JSON.parse(dataText),
    timestampMs: 9,
    ...given,
  }
}

t.test('a gateway’s job decodes to the call that it encodes', async (t) => {
  for (const body of [Buffer.from(''), Buffer.from('text ä'), Buffer.from([0xff, 0xfe, 0])]) {
    const { data, storedBody } = encodeJob(call(body), {
      acceptedAtMs: 12.5,
      replyTo: 'g-1',
      expiresAtMs: 99,
    })
    t.equal(storedBody, undefined)
    const parsed = parseJob(raw({ id: 'c-1', name: 'request', dataText: JSON.stringify(data) }), LIMIT)
    t.match(parsed, {
      callId: 'c-1',
      replyTo: 'g-1',
      acceptedAtMs: 12.5,
      expiresAtMs: 99,
      bodyStored: false,
      request: { method: 'GET', path: '/p', query: 'q=1', headers: { a: 'b' } },
    })
    t.ok(body.equals(parsed.request.body))
  }
})

t.test('a body over the inline limit is kept apart', async (t) => {
  const body = Buffer.alloc(16 * 1024 + 1, 'x')
  const { data, storedBody } = encodeJob(call(body), { acceptedAtMs: 1 })
  t.equal(storedBody, body)
  t.ok(JSON.stringify(data).length < 300)
  t.equal(
    parseJob(raw({ id: 'c-1', name: 'request', dataText: JSON.stringify(data) }), LIMIT).bodyStored,
    true,
  )
  t.equal(encodeJob(call(body.subarray(1)), { acceptedAtMs: 1 }).storedBody, undefined)
})

t.test('only a job whose id is a valid call id may name a body key or a gateway', async (t) => {
  const data = JSON.stringify({ v: 1, replyTo: 'g-1', bodyStored: true, acceptedAtMs: 1 })
  for (const id of ['7', 'a:b', '../x', 'n\0']) {
    t.match(parseJob(raw({ id, name: 'request', dataText: data }), LIMIT), {
      callId: callIdOfJob('f', id),
      replyTo: undefined,
      bodyStored: false,
    })
  }
  t.equal(
    parseJob(raw({ id: 'ok', name: 'request', dataText: JSON.stringify({ v: 1, replyTo: 'a:b' }) }), LIMIT)
      .replyTo,
    undefined,
  )
  t.match(
    parseJob(
      raw({
        id: 'ok',
        name: 'request',
        dataText: JSON.stringify({ v: 1, acceptedAtMs: 'x', expiresAtMs: 'y' }),
      }),
      LIMIT,
    ),
    { acceptedAtMs: 9, expiresAtMs: undefined },
  )
})

t.test('an invalid request still has its call id and the gateway that waits', async (t) => {
  const wrong = raw({
    id: 'c-1',
    name: 'request',
    dataText: JSON.stringify({ v: 1, replyTo: 'g-1', acceptedAtMs: 5, bodyStored: true, method: 'A B' }),
  })
  t.throws(() => parseJob(wrong, LIMIT), { code: 'ERR_INVALID_REQUEST' })
  t.same(envelopeOf(wrong), { callId: 'c-1', replyTo: 'g-1', acceptedAtMs: 5, bodyStored: true })
  for (const dataText of ['null', '[]', '""'])
    t.same(
      envelopeOf(raw({ id: 'c-1', name: 'request', dataText })),
      { callId: 'f~c-1', acceptedAtMs: 9, bodyStored: false },
      dataText,
    )
})

t.test('all faults of a request are reported at once', async (t) => {
  const dataText = JSON.stringify({
    method: 'A B',
    path: 'x',
    query: 5,
    headers: { 'a b': '1', ok: 2 },
    bodyBase64: '!',
  })
  try {
    parseJob(raw({ name: 'request', dataText }), LIMIT)
    t.fail('it was accepted')
  } catch (error) {
    t.ok(error instanceof InvalidRequest)
    if (error instanceof InvalidRequest)
      t.same(error.faults.map((fault) => fault.path).sort(), [
        'bodyBase64',
        'headers',
        'headers.ok',
        'method',
        'path',
        'query',
      ])
  }
})

t.test('the limit counts bytes, not characters, in every form', async (t) => {
  for (const job of [
    raw({ dataText: '"ää"' }),
    raw({ dataText: '[10]' }),
    raw({ name: 'request', dataText: '{"body":"ää"}' }),
    raw({ name: 'request', dataText: '{"bodyBase64":"AAAAAA=="}' }),
  ]) {
    t.throws(() => parseJob(job, 3), { code: 'ERR_TOO_LARGE' })
    t.equal(parseJob(job, 4).request.body.byteLength, 4)
  }
})

t.test('__proto__ is a header name like any other', async (t) => {
  const { request } = parseJob(
    raw({ name: 'request', dataText: '{"headers":{"__proto__":"x"},"__proto__":{"method":"PUT"}}' }),
    LIMIT,
  )
  t.same(Object.entries(request.headers), [['__proto__', 'x']])
  t.equal(request.method, 'POST')
  t.notOk('x' in {})
})

t.test('call ids', async (t) => {
  for (const good of ['a', '1a', 'a.b-c_d', 'x'.repeat(200)]) t.ok(isCallId(good), good)
  for (const bad of ['', '1', '007', 'a b', 'a:b', 'ä', 'a\n', 'x'.repeat(201)]) t.notOk(isCallId(bad), bad)
  t.equal(callIdOfJob('f', 'repeat:tick:1700'), 'f~repeat_tick_1700')
  t.equal(callIdOfJob('f', 'x'.repeat(500)).length, 200)
  t.not(callIdOfJob('a', 'b.1'), callIdOfJob('a.b', '1'), 'no two functions share one')
  t.notOk(isCallId(callIdOfJob('f', '1')), 'no HTTP caller can use it')
})

t.test('records of an unknown form are ignored', async (t) => {
  const sound = { callId: 'c', function: 'f', state: 'finished', attempt: 1, enqueuedAtMs: 1, outcome: 'ok' }
  t.same(parseRecord(JSON.stringify(sound)), sound)
  t.equal(
    inlineBody({
      result: { contentType: '', body: 'AP8=', encoding: 'base64' },
    }).byteLength,
    2,
  )
  for (const bad of [
    null,
    '',
    '{',
    '[]',
    'null',
    '5',
    JSON.stringify({ ...sound, outcome: 'great' }),
    JSON.stringify({ ...sound, state: 'done' }),
    JSON.stringify({ ...sound, outcome: undefined }),
    JSON.stringify({ ...sound, attempt: '1' }),
  ]) {
    t.equal(parseRecord(bad), undefined, String(bad))
  }
})

t.test('the precise clock follows the system clock', async (t) => {
  const difference = preciseNowMs() - Date.now()
  t.ok(Math.abs(difference) <= 3, `${difference} ms apart`)
  const realNow = Date.now
  t.teardown(() => {
    Date.now = realNow
  })
  Date.now = () => realNow() + 3_600_000
  t.ok(Math.abs(preciseNowMs() - Date.now()) <= 3, 'after a step forward')
  Date.now = realNow
  t.ok(Math.abs(preciseNowMs() - Date.now()) <= 3, 'and back')
})
