// From a finished call to an HTTP reply: status, headers and body for every outcome.  Pure.
// Knows our own HTTP dialect (docs/http-api.md); other dialects get a file beside this one.

import { PHASES, type CallRecord } from '../contract/call-record.ts'
import { OUTCOME_RULES } from '../contract/outcome.ts'
import { RETRY_AFTER_SECONDS } from './error-reply.ts'

/** How much of the function's log an error reply shows. */
const LOG_TAIL_MAX = 4096
const HEADER_VALUE = /^[\x20-\x7e]{1,255}$/

export interface CallReply {
  readonly statusCode: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array | string
}

/**
 * The reply of a sync call that took TOTALMS as the caller sees it. `ok` is the function's own bytes;
 * `app_error` too, where it printed any; all else is JSON that says what happened.
 */
export function callReply(record: CallRecord, body: Uint8Array, totalMs: number): CallReply {
  const outcome = record.outcome ?? 'crash'
  const rule = OUTCOME_RULES[outcome]
  const headers = {
    'x-wherry-outcome': outcome,
    'server-timing': serverTiming(record, totalMs),
    'x-duration-seconds': (totalMs / 1000).toFixed(6),
    ...((rule.httpStatus === 503 || rule.httpStatus === 429) && { 'retry-after': RETRY_AFTER_SECONDS }),
  }
  if (outcome === 'ok' || (outcome === 'app_error' && body.length > 0)) {
    return {
      statusCode: outcome === 'ok' ? (record.status ?? rule.httpStatus) : rule.httpStatus,
      headers: {
        ...headers,
        'content-type': safeContentType(record.result?.contentType),
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
        message: record.message ?? rule.about,
        callId: record.callId,
        ...(record.exitCode !== undefined && { exitCode: record.exitCode }),
        ...(record.signal !== undefined && { signal: record.signal }),
        log: record.log?.slice(-LOG_TAIL_MAX) ?? '',
      },
    }),
  }
}

/** "queue;dur=0.41, pull;dur=0, …, total;dur=2.1" (W3C Server Timing, milliseconds). */
export function serverTiming(record: Pick<CallRecord, 'phases'>, totalMs: number): string {
  const { phases } = record
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
