// The gateway's HTTP API for commands. It uses node:http because replies are streamed, statuses are data
// here, and the command line must start quickly.

import {
  request as httpRequest,
  type ClientRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
} from 'node:http'
import { request as httpsRequest } from 'node:https'
import { defined } from '../contract/defined.ts'
import type { Fault } from '../contract/errors.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import { Failure } from './failure.ts'

/** Time until a reply starts; calls of functions have their own timeouts. */
const REPLY_TIMEOUT_MS = 60_000
/** Larger bodies are announced with `Expect: 100-continue` … */
const ASK_FIRST_BYTES = 256 * 1024
/** … and sent anyway if there is no response, because a proxy on the way may not support it. */
const ASK_TIMEOUT_MS = 1_000
/** Limit for the body of a reply. */
const REPLY_MAX_BYTES = 512 * 1024 ** 2

export interface Request {
  readonly method: string
  /** With its query; begins with "/". */
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array
  /** Wait without a limit; the function has its own timeout. */
  readonly patient?: boolean
  readonly signal?: AbortSignal
}

export interface Reply {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

/** One item of GET /system/functions: the fields that tables show. */
export interface FunctionStatus {
  readonly name: string
  readonly image: string
  readonly contract: string
  readonly invocationCount: number
  readonly updatedAt: string
  readonly queue: {
    readonly waiting: number
    readonly active: number
    readonly delayed: number
    readonly failed: number
  }
}

/** One item of GET /system/workers. */
export interface WorkerStatus {
  readonly name: string
  readonly startedAtMs: number
  readonly slots: number
  readonly running: ReadonlyArray<{
    readonly callId: string
    readonly function: string
    readonly pid: number
    readonly startedAtMs: number
  }>
}

export interface GatewayClient {
  readonly url: string
  /** The reply as a stream, whatever its status. */
  open(request: Request): Promise<IncomingMessage>
  /** The whole reply, whatever its status. */
  send(request: Request): Promise<Reply>
  /** The reply's JSON.  A status other than 2xx is thrown as a Failure with the gateway's message. */
  json(request: Request & { readonly json?: unknown }): Promise<unknown>
}

/** A client of the gateway at URL, for the command WHAT (named in failures). */
export function createGatewayClient(what: string, url: URL): GatewayClient {
  const base = url.href.replace(/\/+$/, '')
  const client: GatewayClient = {
    url: base,
    open: (request) => open(what, base, request),
    async send(request) {
      const message = await open(what, base, request)
      return { status: message.statusCode ?? 0, headers: message.headers, body: await readAll(what, message) }
    },
    async json({ json, ...request }) {
      const reply = await client.send(
        json === undefined
          ? request
          : {
              ...request,
              headers: { ...request.headers, 'content-type': 'application/json' },
              body: Buffer.from(JSON.stringify(json)),
            },
      )
      if (reply.status < 200 || reply.status > 299) throw failureOfReply(what, reply)
      return reply.body.length === 0 ? undefined : parseJson(what, reply.body)
    },
  }
  return client
}

function open(
  what: string,
  base: string,
  { method, path, headers, body, patient, signal }: Request,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const send = base.startsWith('https:') ? httpsRequest : httpRequest
    const asks = body !== undefined && body.length > ASK_FIRST_BYTES
    const request = send(`${base}${path}`, {
      method,
      headers: {
        ...headers,
        ...(body !== undefined && { 'content-length': String(body.length) }),
        ...(asks && { expect: '100-continue' }),
      },
      ...defined({ signal }),
    })
    if (patient !== true)
      request.setTimeout(REPLY_TIMEOUT_MS, () =>
        request.destroy(new Error(`no reply within ${REPLY_TIMEOUT_MS / 1000} s`)),
      )
    request.once('error', (err: NodeJS.ErrnoException) => {
      reject(unreachable(what, base, err))
    })
    request.once('response', (message) => {
      request.setTimeout(0)
      // Later errors, such as the closed connection of a rejected body, show in the reply itself or do not
      // matter.
      request.on('error', () => {})
      message.once('close', () => {
        if (!request.writableEnded) request.destroy()
      })
      resolve(message)
    })
    if (asks) sendWhenAsked(request, body)
    else request.end(body)
  })
}

/**
 * Sends a large body once the gateway asks for it. Otherwise a rejection (413) would be lost in a broken pipe
 * (RFC 9110 §10.1.1).
 */
function sendWhenAsked(request: ClientRequest, body: Uint8Array): void {
  const goOn = (): void => {
    clearTimeout(silence)
    request.end(body)
  }
  const silence = setTimeout(goOn, ASK_TIMEOUT_MS)
  request.once('continue', goOn)
  request.once('close', () => {
    clearTimeout(silence)
  })
  request.once('response', () => {
    clearTimeout(silence)
    request.off('continue', goOn)
  })
  request.flushHeaders()
}

const WHY_UNREACHABLE: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing is listening there',
  ENOTFOUND: 'no such host',
  EPROTO: 'the server does not speak TLS; is it http?',
}

function unreachable(what: string, base: string, err: NodeJS.ErrnoException): Failure {
  const why = WHY_UNREACHABLE[err.code ?? ''] ?? (err.message || err.code)
  return new Failure(what, `the gateway ${base} cannot be reached (${why})`, {
    remedy: 'start it with wherry up, or give its address with --gateway URL',
    cause: err,
  })
}

async function readAll(what: string, message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  try {
    for await (const chunk of message as AsyncIterable<Buffer>) {
      sizeBytes += chunk.length
      if (sizeBytes > REPLY_MAX_BYTES)
        throw new Failure(what, `the reply is longer than ${REPLY_MAX_BYTES} bytes`)
      chunks.push(chunk)
    }
  } catch (err) {
    if (err instanceof Failure) throw err
    throw new Failure(what, 'the gateway closed the connection in the middle of its reply', {
      remedy: 'see its log, then try again',
      cause: err,
    })
  }
  return Buffer.concat(chunks)
}

function parseJson(what: string, body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'))
  } catch (err) {
    throw new Failure(what, 'the reply is not JSON', {
      remedy: 'is Wherry listening there?',
      cause: err,
    })
  }
}

const textOf = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)

/**
 * The gateway's error body, `{"error": {code, message, faults, outcome, log}}`; undefined if the reply has
 * another form.
 */
export function errorOfReply(
  reply: Reply,
): { code?: string; message: string; faults: Fault[]; log?: string } | undefined {
  let parsed: unknown
  try {
    parsed = JSON.parse(reply.body.toString('utf8'))
  } catch {
    return undefined // not a gateway's error, but a function's output or another server
  }
  const error = isPlainObject(parsed) ? parsed.error : undefined
  if (!isPlainObject(error)) return undefined
  const faults = Array.isArray(error.faults)
    ? error.faults
        .filter(isPlainObject)
        .map((f) => ({ path: textOf(f.path) ?? '', problem: textOf(f.problem) ?? '' }))
    : []
  const code = textOf(error.code)
  const log = textOf(error.log)
  return {
    message: textOf(error.message) ?? 'no message',
    faults,
    ...defined({ code, log }),
  }
}

/** A reply with an error status as a Failure. */
export function failureOfReply(what: string, reply: Reply): Failure {
  const error = errorOfReply(reply)
  if (error === undefined)
    return new Failure(what, `the gateway answered ${reply.status}`, {
      remedy: 'is Wherry listening there?',
    })
  const code = error.code === undefined ? '' : ` (${error.code})`
  if (error.faults.length > 0)
    return new Failure(what, `the gateway rejected the input${code}`, { faults: error.faults })
  return new Failure(what, `${error.message}${code}`)
}
