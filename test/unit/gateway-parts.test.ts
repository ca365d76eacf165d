// The gateway's pure parts: requests to invocations, results and errors to replies, hostile JSON.

import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { replyOf } from '../../services/contract/call-end.ts'
import type { CallRecord } from '../../services/contract/call-record.ts'
import {
  Conflict,
  ContentError,
  InvalidRequest,
  NotFound,
  Overloaded,
  RegistryError,
  StartError,
  TooLarge,
} from '../../services/contract/errors.ts'
import { OUTCOMES, OUTCOME_RULES } from '../../services/contract/outcome.ts'
import { createBodyBudget } from '../../services/gateway/body-budget.ts'
import { chooseCallId, HEADERS_MAX, toInvocationRequest } from '../../services/gateway/call-request.ts'
import { failureOf } from '../../services/gateway/failure.ts'
import { HttpError } from '../../services/gateway/http-error.ts'
import { parseJsonBody } from '../../services/gateway/json-body.ts'
import { createServer } from '../../services/gateway/server.ts'
import { wherryDialect } from '../../services/gateway/wherry-dialect.ts'
import { createLog } from '../../services/platform/log.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

const fastifyError = (code: string, statusCode: number): Error =>
  Object.assign(new Error('said by the server'), { code, statusCode })
const parse = (text: string | Uint8Array): unknown =>
  parseJsonBody(typeof text === 'string' ? Buffer.from(text) : text, undefined)
const deep = (open: string, close: string, levels: number): string =>
  open.repeat(levels) + '1' + close.repeat(levels)

t.test('chooseCallId takes an id that can be a job id and generates one otherwise', async (t) => {
  for (const id of ['a', 'order-17', '2026.11.22_x', 'x'.repeat(64), '1a']) t.equal(chooseCallId(id), id)
  for (const id of [
    undefined,
    '',
    '12345',
    'a:b',
    '../x',
    '.a',
    '-a',
    'x'.repeat(65),
    'a b',
    'a\0',
    ['a', 'b'],
  ])
    t.match(chooseCallId(id), UUID, JSON.stringify(id))
})

t.test('toInvocationRequest', async (t) => {
  const http = { method: 'POST', target: '/function/echo', headers: {}, headerCount: 0, body: undefined }

  t.test('path and query are what follows the name, as received', async (t) => {
    const table = [
      ['/function/echo', '/', ''],
      ['/function/echo/', '/', ''],
      ['/function/echo?a=1', '/', 'a=1'],
      ['/function/echo/a%2Fb/c?x=/y?z', '/a%2Fb/c', 'x=/y?z'],
      ['/async-function/echo/a', '/a', ''],
      ['http://other.example:80/function/echo/a?b', '/a', 'b'],
      ['/function/echo?', '/', ''],
    ] as const
    for (const [target, path, query] of table)
      t.match(toInvocationRequest({ ...http, target }), { path, query }, target)
  })

  t.test('headers of the connection, our own and ambiguous ones do not reach the function', async (t) => {
    const { headers } = toInvocationRequest({
      ...http,
      headers: {
        'content-type': 'text/plain',
        authorization: 'Bearer t',
        'set-cookie': ['a', 'b'],
        host: 'h',
        connection: 'close, X-Secret',
        'x-secret': '1',
        te: 'trailers',
        upgrade: 'h2c',
        'proxy-authorization': 'x',
        proxy: 'http://evil',
        'x-wherry-outcome': 'ok',
        x_call_id: '1',
        "a'b": '2',
      },
    })
    t.strictSame(headers, {
      'content-type': 'text/plain',
      authorization: 'Bearer t',
      'set-cookie': 'a, b',
      host: 'h',
    })
  })

  t.test('too many header lines are refused', async (t) => {
    t.throws(() => toInvocationRequest({ ...http, headerCount: HEADERS_MAX + 1 }), {
      code: 'ERR_INVALID_REQUEST',
    })
    t.equal(toInvocationRequest({ ...http, headerCount: HEADERS_MAX }).body.length, 0)
  })
})

t.test('a result in our dialect', async (t) => {
  const callReply = (record: CallRecord, body: Uint8Array, totalMs: number) =>
    wherryDialect.reply({ callId: 'c1', startedAtMs: 17, totalMs }, { ...replyOf(record)!, body })
  const record: CallRecord = {
    callId: 'c1',
    function: 'f',
    state: 'finished',
    attempt: 1,
    enqueuedAtMs: 0,
    outcome: 'ok',
    status: 200,
    log: 'why',
    message: 'it broke',
    phases: { queue: 0.4123456, pull: 0, create: 1, init: 0, run: 2, settle: 0.1 },
    result: { contentType: 'text/html', body: '', encoding: 'utf8' },
  }
  const none = new Uint8Array(0)

  t.test('ok gives the function’s own bytes and type, never sniffed', async (t) => {
    const body = Uint8Array.of(0, 255, 10)
    const reply = callReply(record, body, 4.2)
    t.equal(reply.statusCode, 200)
    t.equal(reply.body, body)
    t.match(reply.headers, {
      'x-wherry-outcome': 'ok',
      'content-type': 'text/html',
      'x-content-type-options': 'nosniff',
      'x-duration-seconds': '0.004200',
      'server-timing':
        'queue;dur=0.412, pull;dur=0, create;dur=1, init;dur=0, run;dur=2, settle;dur=0.1, total;dur=4.2',
    })
  })

  for (const outcome of OUTCOMES.filter((outcome) => outcome !== 'ok')) {
    t.test(`${outcome} gives its status and JSON that names it`, async (t) => {
      const reply = callReply({ ...record, outcome, status: 500 }, none, 1)
      const { httpStatus } = OUTCOME_RULES[outcome]
      t.equal(reply.statusCode, httpStatus)
      t.equal(reply.headers['x-wherry-outcome'], outcome)
      t.equal(reply.headers['retry-after'] !== undefined, httpStatus === 503 || httpStatus === 429)
      t.match(JSON.parse(String(reply.body)), {
        error: {
          code: `ERR_FUNCTION_${outcome.toUpperCase()}`,
          outcome,
          message: 'it broke',
          callId: 'c1',
          log: 'why',
        },
      })
    })
  }

  t.test('app_error with output gives that output', async (t) => {
    const reply = callReply({ ...record, outcome: 'app_error' }, Buffer.from('no such order'), 1)
    t.match(reply, {
      statusCode: 500,
      headers: { 'content-type': 'text/html', 'x-wherry-outcome': 'app_error' },
    })
    t.equal(String(reply.body), 'no such order')
  })

  t.test('an error shows the end of the log, bounded', async (t) => {
    const reply = callReply({ ...record, outcome: 'crash', log: `${'x'.repeat(10_000)}end` }, none, 1)
    const { error } = JSON.parse(String(reply.body))
    t.equal(error.log.length, 4096)
    t.match(error.log, /end$/)
  })

  t.test('a content type that is not a valid header value is not sent', async (t) => {
    for (const contentType of ['a\r\nset-cookie: x', '', 'ü'.repeat(3), 'x'.repeat(300)]) {
      t.equal(
        callReply({ ...record, result: { contentType, body: '', encoding: 'utf8' } }, none, 1).headers[
          'content-type'
        ],
        'application/octet-stream',
      )
    }
  })
})

t.test('failureOf', async (t) => {
  const table = [
    [
      new InvalidRequest([{ path: 'image', problem: 'is missing' }]),
      400,
      'ERR_INVALID_REQUEST',
      { faults: [{ path: 'image', problem: 'is missing' }] },
    ],
    [new NotFound('x', 'ERR_FUNCTION_NOT_FOUND'), 404, 'ERR_FUNCTION_NOT_FOUND', {}],
    [new Conflict('x', 'ERR_CALL_EXISTS'), 409, 'ERR_CALL_EXISTS', {}],
    [new TooLarge('x'), 413, 'ERR_TOO_LARGE', {}],
    [new Overloaded('x', 'ERR_REDIS_AWAY'), 503, 'ERR_REDIS_AWAY', {}],
    [
      new RegistryError('x', { registryCode: 'MANIFEST_UNKNOWN', retryable: false }),
      502,
      'ERR_REGISTRY',
      { registryCode: 'MANIFEST_UNKNOWN' },
    ],
    [new ContentError('x', 'ERR_DIGEST_MISMATCH'), 502, 'ERR_DIGEST_MISMATCH', {}],
    [new StartError('x', 'ERR_NO_COMMAND'), 500, 'ERR_NO_COMMAND', {}],
    [new HttpError(403, 'ERR_FOREIGN_ORIGIN', 'x'), 403, 'ERR_FOREIGN_ORIGIN', {}],
    [fastifyError('FST_ERR_CTP_BODY_TOO_LARGE', 413), 413, 'ERR_TOO_LARGE', { message: /10 bytes/ }],
    [fastifyError('FST_ERR_CTP_INVALID_MEDIA_TYPE', 415), 415, 'ERR_INVALID_REQUEST', {}],
    [fastifyError('FST_ERR_BAD_URL', 400), 400, 'ERR_INVALID_REQUEST', { message: 'said by the server' }],
  ] as const
  for (const [err, statusCode, code, fields] of table) {
    t.match(
      failureOf(err, 10),
      { statusCode, error: { code, ...fields }, unexpected: false },
      `${code} ${statusCode}`,
    )
  }

  t.test('an error that is not ours reveals nothing', async (t) => {
    for (const err of [
      new Error('password=hunter2'),
      'text',
      fastifyError('FST_ERR_REP_ALREADY_SENT', 500),
    ]) {
      const reply = failureOf(err, 10)
      t.match(reply, { statusCode: 500, error: { code: 'ERR_INTERNAL' }, unexpected: true })
      t.notMatch(JSON.stringify(reply), /hunter2|said by/)
    }
  })

  t.test('a retryable error says when to retry; one that ends a call names the outcome', async (t) => {
    const call = { callId: 'c1', startedAtMs: 17, totalMs: 4.2 }
    const replyTo = (err: unknown) => wherryDialect.error(failureOf(err, 1), call)
    t.match(replyTo(new Overloaded('x', 'ERR_QUEUE_FULL')), {
      headers: {
        'retry-after': '1',
        'x-wherry-outcome': 'no_capacity',
        'x-call-id': 'c1',
        'server-timing': 'total;dur=4.2',
      },
    })
    t.match(replyTo(new TooLarge('x')).headers, { 'x-wherry-outcome': 'too_large' })
    t.notHas(replyTo(new TooLarge('x')).headers, 'retry-after')
    t.notHas(replyTo(new NotFound('x', 'ERR_NOT_FOUND')).headers, 'x-wherry-outcome')
    t.strictSame(Object.keys(wherryDialect.error(failureOf(new TooLarge('x'), 1)).headers), ['content-type'])
  })
})

t.test('a request that authentication refuses reaches no route and its body is not read', async (t) => {
  let parsed = 0
  let handled = 0
  const app = createServer({
    log: createLog({ name: 'test', level: 'silent' }),
    bodyMaxBytes: 1024,
    authenticate: async ({ headers }) => {
      if (headers.authorization !== 'Bearer good') throw new HttpError(403, 'ERR_FOREIGN_ORIGIN', 'not you')
    },
    onReply() {},
    addRoutes(routes) {
      routes.addHook('preParsing', async () => {
        parsed++
      })
      routes.post('/system/x', async () => {
        handled++
        return {}
      })
    },
  })
  t.teardown(() => app.close())
  for (const url of ['/system/x', '/nowhere']) {
    const refused = await app.inject({ method: 'POST', url, payload: 'x' })
    t.match(refused, { statusCode: 403 }, url)
    t.match(refused.json(), { error: { message: 'not you' } })
  }
  t.same([parsed, handled], [0, 0])
  const headers = { authorization: 'Bearer good' }
  t.equal((await app.inject({ method: 'POST', url: '/system/x', payload: 'x', headers })).statusCode, 200)
  t.same([parsed, handled], [1, 1])
})

t.test('parseJsonBody', async (t) => {
  t.test('returns the value', async (t) => {
    t.same(parse('{"a":["}]{\\"",{}]}'), { a: ['}]{"', {}] })
  })
  t.test('says where JSON breaks', async (t) => {
    t.throws(() => parse('{"service": }'), {
      code: 'ERR_INVALID_REQUEST',
      message: /^the body is not JSON: .*(position|Unexpected)/,
    })
    t.throws(() => parse(''), { message: /is empty/ })
    t.throws(() => parse(Uint8Array.of(0x22, 0xff, 0x22)), { message: /^the body is not JSON/ })
  })
  t.test('100,000 levels are refused, 64 are not, and brackets in strings do not count', async (t) => {
    t.throws(() => parse(deep('[', ']', 100_000)), { message: /deeper than 64/ })
    t.throws(() => parse(deep('{"a":', '}', 100_000)), { message: /deeper than 64/ })
    t.ok(parse(deep('[', ']', 64)))
    t.equal(parse(JSON.stringify('['.repeat(1000))), '['.repeat(1000))
  })
  t.test('__proto__ is a key like any other and changes no object', async (t) => {
    const value = parse('{"__proto__": {"polluted": true}}')
    t.ok(Object.hasOwn(Object(value), '__proto__'))
    t.notHas({}, 'polluted')
  })
  t.test('a compressed body is refused, not decompressed', async (t) => {
    t.throws(() => parseJsonBody(Buffer.from('{}'), 'gzip'), {
      code: 'ERR_INVALID_REQUEST',
      message: /Content-Encoding "gzip"/,
    })
    t.same(parseJsonBody(Buffer.from('{}'), 'identity'), {})
  })
})

t.test('the body budget refuses what exceeds it and takes back what is released', async (t) => {
  const budget = createBodyBudget(100)
  const one = budget.take(60)
  t.throws(() => budget.take(41), { code: 'ERR_NO_SLOT', statusCode: 503 })
  one.settle(10) // a chunked body that turned out small
  const two = budget.take(90)
  t.throws(() => budget.take(1), { code: 'ERR_NO_SLOT' })
  one.release()
  one.release()
  two.release()
  t.ok(budget.take(1000), 'one body always fits')
  t.throws(() => budget.take(0 + 1), { code: 'ERR_NO_SLOT' })
})

t.test('docs/errors.md lists every code of the contract and the gateway', async (t) => {
  const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8')
  const gateway = readdirSync(new URL('../../services/gateway', import.meta.url)).filter((name) =>
    name.endsWith('.ts'),
  )
  const sources = ['services/contract/errors.ts', ...gateway.map((name) => `services/gateway/${name}`)]
    .map(read)
    .join('')
  const codes = new Set(sources.match(/(?<=')ERR_(?!HTTP_)[A-Z_]+(?=')/g))
  for (const outcome of OUTCOMES) if (outcome !== 'ok') codes.add(`ERR_FUNCTION_${outcome.toUpperCase()}`)
  const docs = read('docs/errors.md')
  t.ok(codes.size > 20)
  for (const code of codes) t.ok(docs.includes(`\`${code}\``), code)
})
