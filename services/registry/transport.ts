// HTTP to registries: one request with its redirects and retries, on undici.  It returns whatever status is
// left after the retries.
// Redirects are followed here and not by undici, to enforce the rules that keep credentials safe:
// Authorization stays with its origin, https never becomes http, no redirect leads to this machine, and there
// are at most five.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import { defined } from '../contract/defined.ts'
import { AppError, RegistryError } from '../contract/errors.ts'
import type { Connections } from './connections.ts'
import { isLoopback } from './proxy.ts'

export interface RegistryRequest {
  /** For messages: "localhost:5000". */
  readonly registry: string
  readonly url: URL
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  readonly headers: Readonly<Record<string, string>>
  /** Makes the body of each attempt. */
  readonly body?: () => Uint8Array | Readable | Promise<Uint8Array | Readable>
  readonly signal?: AbortSignal
  /** Do not retry: another registry can be asked. */
  readonly once?: boolean
  /** How long the response to a large body may take to begin. */
  readonly timeoutMs?: number
}

export interface RegistryResponse {
  readonly status: number
  /** The first response header with this lower-case name. */
  header(name: string): string | undefined
  /** All values of a header, joined by commas. */
  headerList(name: string): string | undefined
  /** Must be read to its end, or given to discardBody. */
  readonly body: Dispatcher.ResponseData['body']
  readonly url: URL
  /** The Authorization that was sent, which no message may quote. */
  readonly authorization: string | undefined
}

export type Transport = ReturnType<typeof createTransport>

const REDIRECTS_MAX = 5
const RETRIES_MAX = 3
const RETRY_AFTER_MAX_MS = 10_000
const BACKOFF_START_MS = 200
const DISCARDED_BYTES_MAX = 128 * 1024
const DISCARD_TIMEOUT_MS = 1000

/** Read the rest of an unwanted body, so that its connection can be reused. */
export async function discardBody(response: RegistryResponse): Promise<void> {
  // Bounded: a new connection is cheaper than draining a large body.
  await response.body
    .dump({ limit: DISCARDED_BYTES_MAX, signal: AbortSignal.timeout(DISCARD_TIMEOUT_MS) })
    .catch(() => response.body.destroy())
}

/**
 * The result of WORK, or SIGNAL's reason as soon as it aborts: undici heeds a signal only once it is
 * connected.
 */
export async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return await work
  const aborted = Promise.withResolvers<never>()
  const abort = (): void => aborted.reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  try {
    return await Promise.race([aborted.promise, work])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

function adviceFor(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  if (/CERT|SELF_SIGNED|UNABLE_TO_(?:GET|VERIFY)/.test(code))
    return 'set its CA in the file of registries, or in SSL_CERT_FILE'
  if (/WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST/.test(code))
    return 'if it uses plain http, say so in the file of registries'
  return 'check its address and that it is running'
}

/** ERROR of a connection as RegistryError UNREACHABLE; an AppError is returned unchanged. */
export function unreachable(registry: string, error: unknown): AppError {
  if (error instanceof AppError) return error
  // When both addresses of "localhost" refuse, Node throws a list without a message.
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error
  const why = first instanceof Error ? first.message : String(first)
  return new RegistryError(
    `registry ${registry} cannot be reached (${why.slice(0, 200)}); ${adviceFor(first)}`,
    { registryCode: 'UNREACHABLE', retryable: true, cause: error },
  )
}

function isTransient(status: number, isRead: boolean): boolean {
  // A request answered with 429 was not performed; after 5xx only the sender of a write can find out.
  return status === 429 || (isRead && (status === 408 || (status >= 500 && status !== 501)))
}

/** Seconds or an HTTP date (RFC 9110 §10.2.3) → milliseconds from now. */
function parseRetryAfterMs(value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  const waitMs = /^\d{1,9}$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now()
  return Number.isNaN(waitMs) ? undefined : Math.max(0, waitMs)
}

function refuseRedirect(registry: string, why: string): never {
  throw new RegistryError(`registry ${registry} redirected ${why}`, {
    registryCode: 'REDIRECT',
    retryable: false,
  })
}

function redirectTarget(registry: string, location: string | undefined, from: URL): URL {
  if (location === undefined || !URL.canParse(location, from)) refuseRedirect(registry, 'to no address')
  const target = new URL(location, from)
  if (target.protocol !== 'https:' && target.protocol !== 'http:')
    refuseRedirect(registry, `to "${target.protocol}"`)
  if (from.protocol === 'https:' && target.protocol === 'http:')
    refuseRedirect(registry, 'from https to http')
  if (target.username !== '' || target.password !== '')
    refuseRedirect(registry, 'to an address with a password')
  if (isLoopback(target.hostname) && !isLoopback(from.hostname))
    refuseRedirect(registry, 'to an address of this machine')
  return target
}

function withoutAuthorization(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name !== 'authorization'))
}

/**
 * A Transport over CONNECTIONS. REQUESTTIMEOUTMS bounds the wait for headers and for each next piece of a
 * body.
 */
export function createTransport({
  requestTimeoutMs,
  connections,
}: {
  requestTimeoutMs: number
  connections: Connections
}) {
  /** Send REQUEST to URL and wait for the response's headers. */
  async function sendHeaders(
    request: RegistryRequest,
    url: URL,
    headers: Readonly<Record<string, string>>,
  ): Promise<Dispatcher.ResponseData> {
    const { timeoutMs = requestTimeoutMs, signal } = request
    const agent = connections.of(url)
    const body = await request.body?.()
    const late = new AbortController()
    // Each 103 (Early Hints) restarts undici's timeout for headers; without this timer it might never end.
    const timer = setTimeout(
      () => late.abort(new Error(`no response within ${requestTimeoutMs + timeoutMs} ms`)),
      requestTimeoutMs + timeoutMs,
    )
    return await agent
      .request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: request.method,
        headers: { 'user-agent': 'wherry', 'accept-encoding': 'identity', ...headers },
        ...defined({ body }),
        headersTimeout: timeoutMs,
        signal: AbortSignal.any([late.signal, ...(signal ? [signal] : [])]),
      })
      .finally(() => clearTimeout(timer))
  }

  async function sendOnce(
    request: RegistryRequest,
    url: URL,
    headers: Readonly<Record<string, string>>,
  ): Promise<RegistryResponse> {
    const response = await sendHeaders(request, url, headers)
    const all = (name: string): readonly string[] => [response.headers[name] ?? []].flat()
    return {
      status: response.statusCode,
      header: (name) => all(name)[0],
      headerList: (name) => (all(name).length === 0 ? undefined : all(name).join(', ')),
      body: response.body,
      url,
      authorization: headers['authorization'],
    }
  }

  async function follow(request: RegistryRequest): Promise<RegistryResponse> {
    let url = request.url
    let headers = request.headers
    for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
      const response = await sendOnce(request, url, headers)
      const isRead = request.method === 'GET' || request.method === 'HEAD'
      if (![301, 302, 303, 307, 308].includes(response.status)) return response
      await discardBody(response)
      const target = redirectTarget(request.registry, response.header('location'), url)
      if (!isRead)
        refuseRedirect(
          request.registry,
          `an upload to ${target.origin}, which is not followed; use that address instead`,
        )
      // For good: a redirect back does not restore it.
      if (target.origin !== url.origin) headers = withoutAuthorization(headers)
      url = target
    }
    return refuseRedirect(request.registry, `more than ${REDIRECTS_MAX} times`)
  }

  /** One attempt: a response, or how long to wait before the next one. */
  async function attempt(
    request: RegistryRequest,
    backoffMs: number,
    isLast: () => boolean,
  ): Promise<RegistryResponse | number> {
    const isRead = request.method === 'GET' || request.method === 'HEAD'
    try {
      const response = await untilAborted(follow(request), request.signal)
      const waitMs = parseRetryAfterMs(response.header('retry-after')) ?? backoffMs
      if (!isTransient(response.status, isRead) || isLast() || waitMs > RETRY_AFTER_MAX_MS) return response
      await discardBody(response)
      return waitMs
    } catch (error) {
      if (request.signal?.aborted) throw request.signal.reason
      if (!isRead || isLast() || error instanceof AppError) throw unreachable(request.registry, error)
      return backoffMs
    }
  }

  return {
    /**
     * Send REQUEST.  Reads are retried on 429, 5xx and broken connections; writes on 429 only.
     * Throws RegistryError, or the signal's reason.
     */
    async request(request: RegistryRequest): Promise<RegistryResponse> {
      const startedAt = performance.now()
      for (let tries = 0; ; tries++) {
        const backoffMs = BACKOFF_START_MS * 2 ** tries * (0.5 + Math.random() / 2)
        // A registry that hangs gets no second attempt: the caller occupies a slot of a worker.
        const isLast = (): boolean =>
          request.once === true ||
          tries >= RETRIES_MAX ||
          performance.now() - startedAt > requestTimeoutMs / 2
        const result = await attempt(request, backoffMs, isLast)
        if (typeof result !== 'number') return result
        // All clients got the same Retry-After: spread them.
        await sleep(
          result * (1 + Math.random() / 10),
          undefined,
          request.signal && { signal: request.signal },
        )
      }
    },
    async close() {
      await connections.close()
    },
  }
}
