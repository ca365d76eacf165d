// HTTP to registries: one request with its redirects and its retries, on undici.
// Knows origins, timeouts and when trying again can help.  Refuses to know manifests, tokens and what
// an error means; it returns any status that is left after the retries.
// Redirects are followed by hand because of the three rules that keep credentials and people safe:
// Authorization stays with its origin, https never becomes http, and five hops are enough.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Readable } from 'node:stream'
import { Agent, type Dispatcher } from 'undici'
import { AppError, RegistryError } from '../contract/errors.ts'

export interface RegistryRequest {
  /** For messages: "localhost:5000". */
  readonly registry: string
  readonly url: URL
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT'
  readonly headers: Readonly<Record<string, string>>
  readonly body?: Uint8Array | Readable
  readonly signal?: AbortSignal
}

export interface RegistryResponse {
  readonly status: number
  /** A response header by its lower-case name. */
  header (name: string): string | undefined
  /** Must be read to its end, or given to discardBody. */
  readonly body: Dispatcher.ResponseData['body']
  readonly url: URL
}

export type Transport = ReturnType<typeof createTransport>

const REDIRECTS_MAX = 5
const RETRIES_MAX = 3
const RETRY_AFTER_MAX_MS = 10_000
const BACKOFF_START_MS = 200
const CONNECT_TIMEOUT_MAX_MS = 10_000
const CONNECTIONS_PER_ORIGIN = 16
const DISCARDED_BYTES_MAX = 128 * 1024

/** Read what is left of a body that nobody wants, so that its connection can be used again. */
export async function discardBody (response: RegistryResponse): Promise<void> {
  await response.body.dump({ limit: DISCARDED_BYTES_MAX }).catch(() => response.body.destroy())
}

/** ERROR of a connection as RegistryError UNREACHABLE; errors that are ours already stay. */
export function unreachable (registry: string, error: unknown): AppError {
  if (error instanceof AppError) return error
  // Both addresses of "localhost" refused: Node reports a list without a message of its own.
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error
  const why = first instanceof Error ? first.message : String(first)
  return new RegistryError(`registry ${registry} cannot be reached (${why.slice(0, 200)}); check its address and that it is running`,
    { registryCode: 'UNREACHABLE', retryable: true, cause: error })
}

function isTransient (status: number): boolean {
  return status === 429 || status === 408 || (status >= 500 && status !== 501)
}

/** Seconds or an HTTP date (RFC 9110 §10.2.3) → milliseconds from now. */
function parseRetryAfterMs (value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  const waitMs = /^\d{1,9}$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now()
  return Number.isNaN(waitMs) ? undefined : Math.max(0, waitMs)
}

function refuseRedirect (registry: string, why: string): never {
  throw new RegistryError(`registry ${registry} redirected ${why}`, { registryCode: 'REDIRECT', retryable: false })
}

function redirectTarget (registry: string, location: string | undefined, from: URL): URL {
  if (location === undefined || !URL.canParse(location, from)) refuseRedirect(registry, 'to no address')
  const target = new URL(location, from)
  if (target.protocol !== 'https:' && target.protocol !== 'http:') refuseRedirect(registry, `to "${target.protocol}"`)
  if (from.protocol === 'https:' && target.protocol === 'http:') refuseRedirect(registry, 'from https to http')
  if (target.username !== '' || target.password !== '') refuseRedirect(registry, 'to an address with a password')
  return target
}

function withoutAuthorization (headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name !== 'authorization'))
}

/** A Transport.  REQUESTTIMEOUTMS bounds the wait for headers and for each next piece of a body. */
export function createTransport ({ requestTimeoutMs }: { requestTimeoutMs: number }) {
  const agent = new Agent({
    connect: { timeout: Math.min(requestTimeoutMs, CONNECT_TIMEOUT_MAX_MS) },
    headersTimeout: requestTimeoutMs,
    bodyTimeout: requestTimeoutMs,
    connections: CONNECTIONS_PER_ORIGIN,
    allowH2: false,
  })

  async function sendOnce (request: RegistryRequest, url: URL, headers: Readonly<Record<string, string>>): Promise<RegistryResponse> {
    const response = await agent.request({
      origin: url.origin,
      path: url.pathname + url.search,
      method: request.method,
      headers: { 'user-agent': 'wherry', 'accept-encoding': 'identity', ...headers },
      ...(request.body !== undefined && { body: request.body }),
      ...(request.signal && { signal: request.signal }),
    })
    const header = (name: string): string | undefined => {
      const value = response.headers[name]
      return Array.isArray(value) ? value[0] : value
    }
    return { status: response.statusCode, header, body: response.body, url }
  }

  async function follow (request: RegistryRequest): Promise<RegistryResponse> {
    let url = request.url
    let headers = request.headers
    for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
      const response = await sendOnce(request, url, headers)
      const isRead = request.method === 'GET' || request.method === 'HEAD'
      if (!isRead || ![301, 302, 303, 307, 308].includes(response.status)) return response
      await discardBody(response)
      const target = redirectTarget(request.registry, response.header('location'), url)
      if (target.origin !== url.origin) headers = withoutAuthorization(headers)
      url = target
    }
    return refuseRedirect(request.registry, `more than ${REDIRECTS_MAX} times`)
  }

  /** One try: a response, or how long to wait before the next try. */
  async function attempt (request: RegistryRequest, backoffMs: number, isLast: () => boolean): Promise<RegistryResponse | number> {
    try {
      const response = await follow(request)
      const waitMs = parseRetryAfterMs(response.header('retry-after')) ?? backoffMs
      if (!isTransient(response.status) || isLast() || waitMs > RETRY_AFTER_MAX_MS) return response
      await discardBody(response)
      return waitMs
    } catch (error) {
      if (request.signal?.aborted) throw request.signal.reason
      if (isLast() || error instanceof AppError) throw unreachable(request.registry, error)
      return backoffMs
    }
  }

  return {
    /**
     * Send REQUEST.  Reads are tried again on 429, 5xx and broken connections; writes are sent once.
     * Throws RegistryError, or the signal's reason.
     */
    async request (request: RegistryRequest): Promise<RegistryResponse> {
      const retriesMax = request.method === 'GET' || request.method === 'HEAD' ? RETRIES_MAX : 0
      const startedAt = performance.now()
      for (let tries = 0; ; tries++) {
        const backoffMs = BACKOFF_START_MS * 2 ** tries * (0.5 + Math.random() / 2)
        // A registry that hangs is not asked twice: somebody waits for this, on a slot of a worker.
        const isLast = (): boolean => tries >= retriesMax || performance.now() - startedAt > requestTimeoutMs / 2
        const result = await attempt(request, backoffMs, isLast)
        if (typeof result !== 'number') return result
        await sleep(result, undefined, request.signal && { signal: request.signal })
      }
    },
    async close () { await agent.destroy() },
  }
}
