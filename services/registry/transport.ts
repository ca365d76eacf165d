// HTTP to registries: one request with its redirects and its retries, on undici.
// Knows when trying again can help and where a redirect may lead.  Refuses to know manifests, tokens and what
// an error means; it returns any status that is left after the retries.
// Redirects are followed by hand because of the rules that keep credentials and people safe: Authorization
// stays with its origin, https never becomes http, nobody sends us to this machine, and five hops are enough.

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
  /** Makes the body anew for each try. */
  readonly body?: () => Uint8Array | Readable | Promise<Uint8Array | Readable>
  readonly signal?: AbortSignal
  /** Do not try again: somebody else can be asked. */
  readonly once?: boolean
  /** How long the answer to a large body may take to begin. */
  readonly timeoutMs?: number
}

export interface RegistryResponse {
  readonly status: number
  /** A response header by its lower-case name; the first of several. */
  header(name: string): string | undefined
  /** All of a header that may come several times, as one list. */
  headerList(name: string): string | undefined
  /** Must be read to its end, or given to discardBody. */
  readonly body: Dispatcher.ResponseData['body']
  readonly url: URL
  /** What was sent as Authorization: a message that quotes it must not. */
  readonly authorization: string | undefined
}

export type Transport = ReturnType<typeof createTransport>

const REDIRECTS_MAX = 5
const RETRIES_MAX = 3
const RETRY_AFTER_MAX_MS = 10_000
const BACKOFF_START_MS = 200
const DISCARDED_BYTES_MAX = 128 * 1024
const DISCARD_TIMEOUT_MS = 1000

/** Read what is left of a body that nobody wants, so that its connection can be used again. */
export async function discardBody(response: RegistryResponse): Promise<void> {
  // Nobody waits long for what nobody wants: a connection costs less.
  await response.body
    .dump({ limit: DISCARDED_BYTES_MAX, signal: AbortSignal.timeout(DISCARD_TIMEOUT_MS) })
    .catch(() => response.body.destroy())
}

/**
 * WORK's end, or SIGNAL's reason as soon as it is aborted: undici hears of a signal only once it is
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
    return 'name its CA in the file of registries, or in SSL_CERT_FILE'
  if (/WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST/.test(code))
    return 'if it speaks plain http, say so in the file of registries'
  return 'check its address and that it is running'
}

/** ERROR of a connection as RegistryError UNREACHABLE; errors that are ours already stay. */
export function unreachable(registry: string, error: unknown): AppError {
  if (error instanceof AppError) return error
  // Both addresses of "localhost" refused: Node reports a list without a message of its own.
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error
  const why = first instanceof Error ? first.message : String(first)
  return new RegistryError(
    `registry ${registry} cannot be reached (${why.slice(0, 200)}); ${adviceFor(first)}`,
    { registryCode: 'UNREACHABLE', retryable: true, cause: error },
  )
}

function isTransient(status: number, isRead: boolean): boolean {
  // 429 was not done; whether a write that ended in 5xx was, only its sender can find out.
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
 * A Transport over CONNECTIONS. REQUESTTIMEOUTMS is how long they wait for headers and for each next piece of
 * a body.
 */
export function createTransport({
  requestTimeoutMs,
  connections,
}: {
  requestTimeoutMs: number
  connections: Connections
}) {
  /** REQUEST to URL up to its answer's headers. */
  async function sendHeaders(
    request: RegistryRequest,
    url: URL,
    headers: Readonly<Record<string, string>>,
  ): Promise<Dispatcher.ResponseData> {
    const { timeoutMs = requestTimeoutMs, signal } = request
    const agent = connections.of(url)
    const body = await request.body?.()
    const late = new AbortController()
    // Each 103 (Early Hints) begins undici's wait for headers anew: with enough of them it would never end.
    const timer = setTimeout(
      () => late.abort(new Error(`no answer within ${requestTimeoutMs + timeoutMs} ms`)),
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
          `what is sent to it to ${target.origin}, which is not followed; use that address instead`,
        )
      if (target.origin !== url.origin) headers = withoutAuthorization(headers) // for good: a hop back does not earn it again
      url = target
    }
    return refuseRedirect(request.registry, `more than ${REDIRECTS_MAX} times`)
  }

  /** One try: a response, or how long to wait before the next try. */
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
     * Send REQUEST.  Reads are tried again on 429, 5xx and broken connections; writes on 429 only.
     * Throws RegistryError, or the signal's reason.
     */
    async request(request: RegistryRequest): Promise<RegistryResponse> {
      const startedAt = performance.now()
      for (let tries = 0; ; tries++) {
        const backoffMs = BACKOFF_START_MS * 2 ** tries * (0.5 + Math.random() / 2)
        // A registry that hangs is not asked twice: somebody waits for this, on a slot of a worker.
        const isLast = (): boolean =>
          request.once === true ||
          tries >= RETRIES_MAX ||
          performance.now() - startedAt > requestTimeoutMs / 2
        const result = await attempt(request, backoffMs, isLast)
        if (typeof result !== 'number') return result
        // Everybody was told the same time to come back: not all in the same moment.
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
