// Our own dialect, docs/http-api.md: ANY /function/NAME waits, POST /async-function/NAME does not. Its errors
// are also the errors of every route that is not a call.

import { PHASES, type Phases } from '../contract/call-record.ts'
import { defined } from '../contract/defined.ts'
import { InvalidRequest } from '../contract/errors.ts'
import { OUTCOME_RULES, type Outcome } from '../contract/outcome.ts'
import { chooseCallId, toInvocationRequest } from './call-request.ts'
import type { FinishedCall } from '../queue/producer.ts'
import type { CallFacts, Dialect, HttpReply } from './dialect.ts'

/** Retry-After of 429 and 503. */
const RETRY_AFTER_SECONDS = '1'
const HEADER_VALUE = /^[\x20-\x7e]{1,255}$/
const JSON_TYPE = 'application/json; charset=utf-8'
const SYNC = '/function/:name'
const ASYNC = '/async-function/:name'

export const wherryDialect: Dialect = {
  routes: [
    { methods: 'any', url: SYNC },
    { methods: 'any', url: `${SYNC}/*` },
    { methods: ['POST'], url: ASYNC },
    { methods: ['POST'], url: `${ASYNC}/*` },
  ],

  target: ({ route, name, headers }) => ({
    function: name,
    callId: chooseCallId(headers['x-call-id']),
    waits: !route.startsWith(ASYNC),
  }),

  toRequest(call) {
    if (!call.waits && call.headers['x-callback-url'] !== undefined) {
      throw new InvalidRequest([
        {
          path: 'X-Callback-Url',
          problem: 'callbacks are not supported; GET /system/calls/:id returns the result',
        },
      ])
    }
    return toInvocationRequest(call)
  },

  reply(call, ended) {
    return ended === undefined
      ? {
          statusCode: 202,
          headers: { ...callHeaders(call), location: `/system/calls/${call.callId}` },
        }
      : resultReply(call, ended)
  },

  error({ statusCode, error, outcome }, call) {
    return {
      statusCode,
      headers: {
        ...(call && callHeaders(call)),
        ...(call && outcome && outcomeHeaders(outcome, undefined, call.totalMs)),
        ...retryAfter(statusCode),
        'content-type': JSON_TYPE,
      },
      body: JSON.stringify({ error }),
    }
  },
}

/**
 * `ok` is the function's own bytes, `app_error` too if it printed any; every other result is JSON that says
 * what happened.
 */
function resultReply(call: CallFacts, ended: FinishedCall): HttpReply {
  const { outcome, body, callId, exitCode, signal } = ended
  const { httpStatus, about } = OUTCOME_RULES[outcome]
  const statusCode = outcome === 'ok' ? (ended.status ?? httpStatus) : httpStatus
  const headers = {
    ...callHeaders(call),
    ...outcomeHeaders(outcome, ended.phases, call.totalMs),
    'x-duration-seconds': (call.totalMs / 1000).toFixed(6),
    ...retryAfter(statusCode),
  }
  if (outcome === 'ok' || (outcome === 'app_error' && body.length > 0)) {
    return {
      statusCode,
      headers: {
        ...headers,
        'content-type': safeContentType(ended.result?.contentType),
        'x-content-type-options': 'nosniff',
      },
      body,
    }
  }
  return {
    statusCode,
    headers: { ...headers, 'content-type': JSON_TYPE },
    body: JSON.stringify({
      error: {
        code: `ERR_FUNCTION_${outcome.toUpperCase()}`,
        outcome,
        message: ended.message ?? about,
        callId,
        ...defined({ exitCode, signal }),
        log: ended.log ?? '',
      },
    }),
  }
}

const callHeaders = ({ callId, startedAtMs }: CallFacts): Record<string, string> => ({
  'x-call-id': callId,
  'x-start-time': `${startedAtMs}000000`,
})

const outcomeHeaders = (
  outcome: Outcome,
  phases: Phases | undefined,
  totalMs: number,
): Record<string, string> => ({
  'x-wherry-outcome': outcome,
  'server-timing': serverTiming(phases, totalMs),
})

const retryAfter = (statusCode: number): Record<string, string> =>
  statusCode === 503 || statusCode === 429 ? { 'retry-after': RETRY_AFTER_SECONDS } : {}

/** "queue;dur=0.41, pull;dur=0, …, total;dur=2.1" (W3C Server Timing, milliseconds). */
function serverTiming(phases: Phases | undefined, totalMs: number): string {
  const parts = phases === undefined ? [] : PHASES.map((phase) => `${phase};dur=${round(phases[phase])}`)
  return [...parts, `total;dur=${round(totalMs)}`].join(', ')
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000
}

/** The type comes from Redis, where any producer may have written it. */
function safeContentType(contentType: string | undefined): string {
  return contentType !== undefined && HEADER_VALUE.test(contentType)
    ? contentType
    : 'application/octet-stream'
}
