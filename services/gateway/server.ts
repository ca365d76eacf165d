// The HTTP server: limits against slow and oversized clients, bodies as raw bytes, one place where errors
// become replies, and the guard against web pages.  Knows fastify; refuses to know what the routes do.
//
// Node's own defaults would let a slow client hold a connection for minutes (headers 60 s, whole request
// 300 s, looked at every 30 s); ours are below.

import { STATUS_CODES, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import {
  fastify,
  LogController,
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify'
import { AppError, NotFound } from '../contract/errors.ts'
import type { Log } from '../platform/log.ts'
import { serverTiming } from './call-reply.ts'
import type { Authenticate } from './authenticate.ts'
import { wherryDialect } from './dialect.ts'

const HEADERS_TIMEOUT_MS = 10_000
/** For receiving a request, body included; replies have no limit here, calls have their own. */
const REQUEST_TIMEOUT_MS = 30_000
const CONNECTIONS_CHECK_MS = 1000
const KEEP_ALIVE_TIMEOUT_MS = 65_000
const HEADERS_MAX_BYTES = 16 * 1024
const CONNECTIONS_MAX = 10_000
/** Call ids of plain BullMQ jobs are the longest parameters. */
const PARAM_MAX = 200
const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE']

export interface ServerDeps {
  readonly log: Log
  readonly bodyMaxBytes: number
  readonly authenticate: Authenticate
  /** Called after every reply; ROUTE is a pattern of the route table, never a caller's path. */
  readonly onReply: (route: string, statusCode: number) => void
  readonly addRoutes: (app: FastifyInstance) => void
}

/** A server with its routes, not yet listening. */
export function createServer({
  log,
  bodyMaxBytes,
  authenticate,
  onReply,
  addRoutes,
}: ServerDeps): FastifyInstance {
  const logger: FastifyBaseLogger = log.child({}, { level: 'warn' })
  const app = fastify({
    loggerInstance: logger,
    childLoggerFactory: (parent) => parent,
    logController: new LogController({ disableRequestLogging: true }),
    clientErrorHandler: answerBrokenRequest,
    bodyLimit: bodyMaxBytes,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: PARAM_MAX },
    http: {
      headersTimeout: HEADERS_TIMEOUT_MS,
      connectionsCheckingInterval: CONNECTIONS_CHECK_MS,
      maxHeaderSize: HEADERS_MAX_BYTES,
    },
    frameworkErrors: (err, request, reply) => {
      answerError(err, request, reply, log)
    },
  })
  app.server.maxConnections = CONNECTIONS_MAX
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (request, body, done) => done(null, body))
  app.setErrorHandler((err, request, reply) => answerError(err, request, reply, log))
  app.setNotFoundHandler((request) => {
    throw new NotFound(
      `there is nothing at ${request.method} ${request.url.split('?', 1)[0]}`,
      'ERR_NOT_FOUND',
    )
  })
  app.addHook('onRequest', async (request) => refuseOtherOrigins(request))
  app.addHook('onRequest', authenticate)
  app.addHook('onResponse', async (request, reply) =>
    onReply(request.routeOptions.url ?? 'unknown', reply.statusCode),
  )
  continueWithinLimit(app, bodyMaxBytes)
  answerOtherMethods(app, addRoutes)
  return app
}

/** The one place where an error becomes a reply. */
function answerError(err: unknown, request: FastifyRequest, reply: FastifyReply, log: Log): void {
  const { config, bodyLimit } = request.routeOptions
  const dialect = config?.dialect ?? wherryDialect
  const { statusCode, body, outcome, retryAfter, unexpected } = dialect.error(err, bodyLimit)
  if (unexpected)
    log.error(
      { err, method: request.method, route: request.routeOptions.url },
      'a request ended in an internal error',
    )
  if (retryAfter !== undefined) reply.header('retry-after', retryAfter)
  if (outcome !== undefined && reply.hasHeader('x-call-id')) {
    reply.header('x-wherry-outcome', outcome).header('server-timing', serverTiming({}, reply.elapsedTime))
  }
  reply.code(statusCode).send(body)
}

/**
 * What is not HTTP, too long or too slow never becomes a request; it gets the same shape before the
 * connection is closed.
 */
function answerBrokenRequest(err: Error & { code?: string }, socket: Socket): void {
  const statusCode =
    err.code === 'HPE_HEADER_OVERFLOW' ? 431 : err.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400
  // Behind an earlier reply on the same connection nobody could tell whose this is.
  if (socket.writable && socket.bytesWritten === 0) {
    const text = JSON.stringify({
      error: { code: 'ERR_INVALID_REQUEST', message: `the request cannot be read: ${err.message}` },
    })
    socket.write(
      `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode]}\r\nConnection: close\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
    )
  }
  socket.destroySoon()
}

/**
 * A web page elsewhere must not deploy functions through its visitor's browser: it can send "simple" POSTs to
 * any address, also loopback.  Browsers then name the page in Origin; other clients send none.
 */
function refuseOtherOrigins(request: FastifyRequest): void {
  const { origin, host } = request.headers
  if (origin === undefined || request.method === 'GET' || !request.url.startsWith('/system/')) return
  if (origin === `http://${host}` || origin === `https://${host}`) return
  throw new AppError(`a web page of another origin ("${origin.slice(0, 256)}") may not change this gateway`, {
    code: 'ERR_FOREIGN_ORIGIN',
    statusCode: 403,
    retryable: false,
  })
}

/** "Expect: 100-continue" is answered with 413 instead of "go on" when the announced body is too large. */
function continueWithinLimit(app: FastifyInstance, bodyMaxBytes: number): void {
  app.server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    if (!(Number(request.headers['content-length']) > bodyMaxBytes)) response.writeContinue()
    app.routing(request, response)
  })
}

/** Adds the routes, and 405 with Allow for every method that a path of theirs does not have. */
function answerOtherMethods(app: FastifyInstance, addRoutes: (app: FastifyInstance) => void): void {
  const allowed = new Map<string, Set<string>>()
  app.addHook('onRoute', ({ url, method }) => {
    const methods = allowed.get(url) ?? new Set()
    for (const name of [method].flat()) methods.add(name)
    allowed.set(url, methods)
  })
  addRoutes(app)
  for (const [url, methods] of allowed) {
    const missing = METHODS.filter((method) => !methods.has(method))
    const allow = [...methods].join(', ')
    if (missing.length === 0) continue
    app.route({
      method: missing,
      url,
      handler: async (request, reply) => {
        reply.header('allow', allow)
        throw new AppError(`${request.method} is not possible here; ${allow} is`, {
          code: 'ERR_METHOD_NOT_ALLOWED',
          statusCode: 405,
          retryable: false,
        })
      },
    })
  }
}
