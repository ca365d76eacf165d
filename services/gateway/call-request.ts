// From an HTTP request to what the function sees of it: path, query, headers, body.  Pure.
// Headers become environment variables later (`Http_X_Y`), so some names never pass: hop-by-hop ones
// (RFC 9110 §7.6.1), our own, `proxy` (many HTTP libraries read http_proxy from the environment,
// CVE-2016-5385), and names that would map to the same variable as another name.

import { randomUUID } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { InvalidRequest } from '../contract/errors.ts'
import type { InvocationRequest } from '../contract/invocation.ts'

export const HEADERS_MAX = 100
const CALL_ID = /^(?!\d+$)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/
/** Longer names do not become a variable (worker/request-env.ts). */
const HEADER_NAME = /^[a-z0-9-]{1,128}$/
const OWN_PREFIX = 'x-wherry-'
const DROPPED = new Set([
  'connection',
  'keep-alive',
  'proxy',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect',
])
const NO_BODY = new Uint8Array(0)

/** WANTED if it can be a job id (BullMQ refuses ":" and integers), else a new id. */
export function chooseCallId(wanted: string | string[] | undefined): string {
  return typeof wanted === 'string' && CALL_ID.test(wanted) ? wanted : randomUUID()
}

export interface HttpCall {
  readonly waits: boolean
  readonly method: string
  /** The request target as received. */
  readonly target: string
  readonly headers: IncomingHttpHeaders
  /** Header lines received, including those that Node merged or dropped. */
  readonly headerCount: number
  readonly body: Uint8Array | undefined
}

/** What the function sees of CALL.  Throws InvalidRequest for more than HEADERS_MAX header lines. */
export function toInvocationRequest(call: Omit<HttpCall, 'waits'>): InvocationRequest {
  if (call.headerCount > HEADERS_MAX) {
    throw new InvalidRequest([
      {
        path: 'headers',
        problem: `must be at most ${HEADERS_MAX} header lines, got ${call.headerCount}`,
      },
    ])
  }
  return {
    method: call.method,
    ...splitTarget(call.target),
    headers: passHeaders(call.headers),
    body: call.body ?? NO_BODY,
  }
}

/** "/function/NAME/a/b?c=d" → path "/a/b", query "c=d", both still percent-encoded. */
function splitTarget(target: string): { path: string; query: string } {
  const local = target.replace(/^https?:\/\/[^/?#]*/i, '') // absolute form, RFC 9112 §3.2.2
  const queryAt = local.indexOf('?')
  const whole = queryAt < 0 ? local : local.slice(0, queryAt)
  const afterName = whole.indexOf('/', whole.indexOf('/', 1) + 1)
  return {
    path: afterName < 0 ? '/' : whole.slice(afterName),
    query: queryAt < 0 ? '' : local.slice(queryAt + 1),
  }
}

function passHeaders(headers: IncomingHttpHeaders): Record<string, string> {
  const hopByHop = new Set((headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase()))
  const passed: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers)) {
    if (
      value === undefined ||
      DROPPED.has(name) ||
      hopByHop.has(name) ||
      name.startsWith(OWN_PREFIX) ||
      !HEADER_NAME.test(name)
    )
      continue
    passed[name] = typeof value === 'string' ? value : value.join(', ')
  }
  return passed
}
