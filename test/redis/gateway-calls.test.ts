// Calls over HTTP, sync and async, with a real Redis and a real dispatcher.

import { once } from 'node:events'
import { request } from 'node:http'
import { connect } from 'node:net'
import { Readable } from 'node:stream'
import t from 'tap'
import { OUTCOME_RULES, OUTCOMES } from '../../services/contract/outcome.ts'
import { BODY_MAX_BYTES, startTestGateway } from '../helpers/gateway.ts'
import { startRedis } from '../helpers/redis.ts'

const redis = await startRedis()
t.teardown(() => redis.close())
const client = redis.client()

t.test('sync calls', async (t) => {
  const endings = OUTCOMES.filter((outcome) => outcome !== 'ok').map((outcome) => `ends-${outcome}`)
  const { send, deploy, url, prefix } = await startTestGateway(t, redis.url, {
    functions: ['echo', 'hang', ...endings],
    queueWaitMs: 60_000,
  })

  await t.test('the function receives the request, and the reply has id, outcome and phases', async (t) => {
    const reply = await send('PATCH', '/function/echo/a%20b/c?x=1&y', {
      body: 'hi',
      headers: { 'x-custom': 'v', 'x-wherry-outcome': 'ok', 'x-call-id': 'order-1' },
    })
    t.equal(reply.status, 200, reply.text)
    const seen = JSON.parse(reply.text)
    t.match(seen, {
      method: 'PATCH',
      path: '/a%20b/c',
      query: 'x=1&y',
      body: 'hi',
      headers: { 'x-custom': 'v' },
    })
    t.notHas(seen.headers, 'x-wherry-outcome')
    t.match(reply.headers, {
      'content-type': 'application/json',
      'x-call-id': 'order-1',
      'x-wherry-outcome': 'ok',
      'x-duration-seconds': /^\d+\.\d+$/,
      'x-start-time': /^\d{19}$/,
      'server-timing':
        /^queue;dur=[\d.]+, pull;dur=0, create;dur=1, init;dur=0, run;dur=2, settle;dur=[\d.]+, total;dur=[\d.]+$/,
    })
  })
  await t.test('every method works, and a call without an id is given one', async (t) => {
    for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS']) {
      const reply = await send(method, '/function/echo')
      t.equal(JSON.parse(reply.text).method, method)
      t.match(reply.headers['x-call-id'], /^[0-9a-f-]{36}$/)
    }
    t.match(await send('HEAD', '/function/echo'), {
      status: 200,
      text: '',
      headers: { 'x-wherry-outcome': 'ok' },
    })
  })
  await t.test('a used call id is refused', async (t) => {
    t.match(await send('POST', '/function/echo', { headers: { 'x-call-id': 'order-1' } }), {
      status: 409,
      text: /ERR_CALL_EXISTS/,
    })
  })
  await t.test('bytes return unchanged, even above the inline limit', async (t) => {
    const body = Buffer.from(Uint8Array.from({ length: BODY_MAX_BYTES }, (_, i) => (i * 7) % 256))
    const reply = await send('POST', '/function/echo/bytes', {
      body,
      headers: { 'content-type': 'image/png' },
    })
    t.ok(reply.body.equals(body))
    t.equal(reply.headers['content-type'], 'application/octet-stream')
  })
  await t.test('a nonzero exit code with output is 500 with that output', async (t) => {
    t.match(await send('POST', '/function/echo/fail'), {
      status: 500,
      text: 'no such order',
      headers: { 'x-wherry-outcome': 'app_error', 'content-type': 'text/plain' },
    })
  })
  for (const outcome of OUTCOMES.filter((outcome) => outcome !== 'ok')) {
    await t.test(`a call that ends ${outcome} has the outcome in status, header and body`, async (t) => {
      const reply = await send('POST', `/function/ends-${outcome}`)
      t.equal(reply.status, OUTCOME_RULES[outcome].httpStatus)
      t.equal(reply.headers['x-wherry-outcome'], outcome)
      t.match(JSON.parse(reply.text), {
        error: {
          code: `ERR_FUNCTION_${outcome.toUpperCase()}`,
          outcome,
          callId: reply.headers['x-call-id'],
          log: 'last words\n',
        },
      })
    })
  }
  await t.test('an unknown function is 404, and nothing reaches Redis', async (t) => {
    for (const path of [
      '/function/nope',
      '/function/nope/a/b',
      '/async-function/nope',
      '/function/a%3Ab',
      `/function/${'x'.repeat(150)}`,
    ]) {
      t.match(await send('POST', path, { body: 'x' }), { status: 404, text: /ERR_FUNCTION_NOT_FOUND/ }, path)
    }
    t.same(
      (await client.keys(`${prefix}:*`)).filter((key) => /nope|a:b|xxx/.test(key)),
      [],
    )
  })
  await t.test('a body over the limit is 413 and too_large, with or without Content-Length', async (t) => {
    const body = Buffer.alloc(BODY_MAX_BYTES + 1)
    for (const sent of [body, Readable.from([body.subarray(0, 1000), body.subarray(1000)])]) {
      const reply = await send('POST', '/function/echo', { body: sent })
      t.match(reply, {
        status: 413,
        headers: { 'x-wherry-outcome': 'too_large' },
        text: /ERR_TOO_LARGE.*65536 bytes/,
      })
    }
  })
  await t.test(
    '"Expect: 100-continue" is answered with 100, or with 413 before any byte of the body',
    async (t) => {
      const { hostname, port } = new URL(url)
      for (const [length, answer] of [
        [5, /^HTTP\/1\.1 100 /],
        [BODY_MAX_BYTES + 1, /^HTTP\/1\.1 413 /],
      ] as const) {
        const socket = connect(Number(port), hostname)
        socket.write(
          `POST /function/echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: ${length}\r\n\r\n`,
        )
        const [first] = await once(socket, 'data')
        t.match(String(first), answer)
        socket.destroy()
      }
    },
  )
  await t.test('invalid HTTP gets the same error shape', async (t) => {
    const { hostname, port } = new URL(url)
    for (const [text, answer] of [
      ['GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n', /^HTTP\/1\.1 400 .*ERR_INVALID_REQUEST/s],
      [`GET / HTTP/1.1\r\nHost: x\r\nA: ${'a'.repeat(20_000)}\r\n\r\n`, /^HTTP\/1\.1 431 /],
      [
        'POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        /^HTTP\/1\.1 400 /,
      ],
    ] as const) {
      const socket = connect(Number(port), hostname)
      socket.write(text)
      t.match(Buffer.concat(await socket.toArray()).toString(), answer)
    }
  })
  await t.test('too many headers and a bad path are 400, a bad content type is 415', async (t) => {
    const many = Object.fromEntries(Array.from({ length: 101 }, (_, i) => [`x-${i}`, '1']))
    t.match(await send('POST', '/function/echo', { headers: many }), { status: 400, text: /at most 100/ })
    t.match(await send('POST', '/function/echo', { body: 'x', headers: { 'content-type': 'nonsense' } }), {
      status: 415,
      text: /Content-Type/,
    })
  })
  await t.test(
    'the longest path, query and header that the gateway accepts reach the function',
    async (t) => {
      for (const [path, headers] of [
        [`/${'p'.repeat(12_000)}`, {}],
        [`?${'q'.repeat(12_000)}`, {}],
        ['', { 'x-long': 'v'.repeat(12_000) }],
        ['', { ['h'.repeat(300)]: 'v' }],
      ] as const) {
        t.match(await send('POST', `/function/echo${path}`, { headers }), { status: 200 })
      }
      t.match(await send('POST', '/function/echo', { headers: { 'x-long': 'v'.repeat(20_000) } }), {
        status: 431,
      })
    },
  )
  await t.test('a call that no worker takes in time is 503 no_capacity with Retry-After', async (t) => {
    const slow = await startTestGateway(t, redis.url, { queueWaitMs: 50 })
    await slow.deploy(t, 'lonely')
    const reply = await slow.send('POST', '/function/lonely')
    t.match(reply, { status: 503, headers: { 'retry-after': '1', 'x-wherry-outcome': 'no_capacity' } })
    t.match(JSON.parse((await slow.send('GET', '/system/function/lonely')).text).queue, {
      waiting: 0,
      active: 0,
    })
  })
  await t.test('when the caller goes away before a worker takes the call, it is taken back', async (t) => {
    await deploy(t, 'later')
    const gone = new AbortController()
    const req = request(new URL('/function/later', url), {
      method: 'POST',
      signal: gone.signal,
      headers: { 'x-call-id': 'gone-1' },
    })
    req.on('error', () => {})
    req.end()
    while ((await client.llen(`${prefix}:later:wait`)) !== 1);
    gone.abort()
    while ((await client.llen(`${prefix}:later:wait`)) !== 0);
    t.pass('the job is deleted')
  })
})

t.test('async calls', async (t) => {
  const { send, deploy, prefix } = await startTestGateway(t, redis.url, { functions: ['echo'] })

  await t.test('202 returns an id, whose record has everything else', async (t) => {
    const reply = await send('POST', '/async-function/echo/a?b=c', {
      body: 'hi',
      headers: { 'x-call-id': 'later-1' },
    })
    t.match(reply, {
      status: 202,
      text: '',
      headers: { 'x-call-id': 'later-1', location: '/system/calls/later-1' },
    })
    let record = JSON.parse((await send('GET', '/system/calls/later-1')).text)
    while (record.state !== 'finished') record = JSON.parse((await send('GET', '/system/calls/later-1')).text)
    t.match(record, {
      callId: 'later-1',
      function: 'echo',
      outcome: 'ok',
      status: 200,
      attempt: 1,
      phases: { create: 1, run: 2 },
      result: { contentType: 'application/json', encoding: 'utf8' },
    })
    t.match(JSON.parse(record.result.body), { method: 'POST', path: '/a', query: 'b=c', body: 'hi' })
    t.match(JSON.parse((await send('GET', '/system/function/echo')).text), { invocationCount: 1 })
  })
  await t.test('202 means that Redis has the job, with or without a worker', async (t) => {
    await deploy(t, 'nobody')
    const { headers } = await send('POST', '/async-function/nobody', { body: 'x' })
    t.equal(await client.llen(`${prefix}:nobody:wait`), 1)
    t.match(JSON.parse((await send('GET', `/system/calls/${headers['x-call-id']}`)).text), {
      state: 'queued',
      function: 'nobody',
    })
    t.match(JSON.parse((await send('GET', '/system/function/nobody')).text), { queue: { waiting: 1 } })
  })
  await t.test('an unsupported option is refused, not ignored', async (t) => {
    t.match(await send('POST', '/async-function/echo', { headers: { 'x-callback-url': 'http://x' } }), {
      status: 400,
      text: /X-Callback-Url/,
    })
    t.match(await send('GET', '/async-function/echo'), { status: 405, headers: { allow: 'POST' } })
  })
  await t.test('an unknown call is 404', async (t) => {
    for (const id of ['nope', 'a%2Fb', 'a:b', 'x'.repeat(150)])
      t.match(await send('GET', `/system/calls/${id}`), { status: 404, text: /ERR_INVOCATION_NOT_FOUND/ })
  })
})
