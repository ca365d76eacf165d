// From a finished call to an HTTP reply in our own dialect: status, headers and body for every outcome.  Pure.

import { PHASES, type Phases } from '../contract/call-record.ts'
import { defined } from '../contract/defined.ts'
import { OUTCOME_RULES } from '../contract/outcome.ts'
import type { FinishedCall } from '../queue/producer.ts'
import { RETRY_AFTER_SECONDS } from './error-reply.ts'

const HEADER_VALUE = /^[\x20-\x7e]{1,255}$/

export interface HttpReply {
  readonly statusCode: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array | string
}

/**
 * The reply of a sync call that took TOTALMS as the caller sees it.  `ok` is the function's own bytes, and so is
 * `app_error` if it wrote any; everything else is JSON that says what happened.
 */
export function callReply(call: FinishedCall, totalMs: number): HttpReply {
  const { outcome, body } = call
  const rule = OUTCOME_RULES[outcome]
  const headers = {
    'x-wherry-outcome': outcome,
    'server-timing': serverTiming(call, totalMs),
    'x-duration-seconds': (totalMs / 1000).toFixed(6),
    ...((rule.httpStatus === 503 || rule.httpStatus === 429) && { 'retry-after': RETRY_AFTER_SECONDS }),
  }
  if (outcome === 'ok' || (outcome === 'app_error' && body.length > 0)) {
    return {
      statusCode: outcome === 'ok' ? (call.status ?? rule.httpStatus) : rule.httpStatus,
      headers: {
        ...headers,
        'content-type': safeContentType(call.result?.contentType),
        'x-content-type-options': 'nosniff',
      },
      body,
    }
  }
  return {
    statusCode: rule.httpStatus,
    headers: { ...headers, 'content-type': 'application/json; charset=utf-8' },
    body: JSON.stringify({
      error: {
        code: `ERR_FUNCTION_${outcome.toUpperCase()}`,
        outcome,
        message: call.message ?? rule.about,
        callId: call.callId,
        ...defined({ exitCode: call.exitCode, signal: call.signal }),
        log: call.log ?? '',
      },
    }),
  }
}

/** "queue;dur=0.41, pull;dur=0, …, total;dur=2.1" (W3C Server Timing, milliseconds). */
export function serverTiming({ phases }: { readonly phases?: Phases }, totalMs: number): string {
  const parts = phases === undefined ? [] : PHASES.map((phase) => `${phase};dur=${round(phases[phase])}`)
  return [...parts, `total;dur=${round(totalMs)}`].join(', ')
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000
}

/** The type comes out of Redis, where any producer may have written it. */
function safeContentType(contentType: string | undefined): string {
  return contentType !== undefined && HEADER_VALUE.test(contentType)
    ? contentType
    : 'application/octet-stream'
}
