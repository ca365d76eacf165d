// The HTTP server: limits against slow and oversized clients, bodies as raw bytes, the one place where errors
// become replies, the authentication hook, and the guard against foreign web pages.
//
// Node's defaults let a slow client hold a connection for minutes (headers 60 s, whole request 300 s, checked
// every 30 s); the limits below are lower.

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
import { NotFound } from '../contract/errors.ts'
import type { Log } from '../platform/log.ts'
import type { Authenticate } from './authenticate.ts'
import { factsOf, send } from './call-context.ts'
import { failureOf } from './failure.ts'
import { HttpError } from './http-error.ts'
import { wherryDialect } from './wherry-dialect.ts'

const HEADERS_TIMEOUT_MS = 10_000
/** For receiving a request with its body; replies have no limit here, calls have their own timeouts. */
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
  /** Called for every reply; ROUTE is a pattern of the route table, never a caller's path. */
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
  app.decorateRequest('call', null)
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (request, body, done) => done(null, body))
  app.setErrorHandler((err, request, reply) => answerError(err, request, reply, log))
  app.setNotFoundHandler((request) => {
    throw new NotFound(`no route for ${request.method} ${request.url.split('?', 1)[0]}`, 'ERR_NOT_FOUND')
  })
  app.addHook('onRequest', async (request) => refuseOtherOrigins(request))
  app.addHook('onRequest', async (request) => authenticate(request))
  app.addHook('onResponse', async (request, reply) =>
    onReply(request.routeOptions.url ?? 'unknown', reply.statusCode),
  )
  continueWithinLimit(app, bodyMaxBytes)
  answerOtherMethods(app, addRoutes)
  return app
}

/** The one place where an error becomes a reply, in the words of the route's dialect. */
function answerError(err: unknown, request: FastifyRequest, reply: FastifyReply, log: Log): void {
  const { call, method, routeOptions } = request
  const failure = failureOf(err, routeOptions.bodyLimit)
  if (failure.unexpected) log.error({ err, method, route: routeOptions.url }, 'a request failed unexpectedly')
  if (call !== null && failure.outcome !== undefined) call.outcome = failure.outcome
  const dialect = routeOptions.config.dialect ?? wherryDialect
  send(reply, dialect.error(failure, call === null ? undefined : factsOf(call)))
}

/**
 * Bytes that are not HTTP, too long or too slow never become a request; the client gets an error of the same
 * shape before the connection is closed.
 */
function answerBrokenRequest(err: Error & { code?: string }, socket: Socket): void {
  const statusCode =
    err.code === 'HPE_HEADER_OVERFLOW' ? 431 : err.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400
  // After an earlier reply on the same connection the client could not tell which request this answers.
  if (socket.writable && socket.bytesWritten === 0) {
    const text = JSON.stringify({
      error: { code: 'ERR_INVALID_REQUEST', message: `malformed request: ${err.message}` },
    })
    socket.write(
      `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode]}\r\nConnection: close\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
    )
  }
  socket.destroySoon()
}

/**
 * A foreign web page must not deploy functions through its visitor's browser, which can send "simple" POSTs
 * to any address, loopback included. Browsers name the page in Origin; other clients send no Origin.
 */
function refuseOtherOrigins(request: FastifyRequest): void {
  const { origin, host } = request.headers
  if (origin === undefined || request.method === 'GET' || !request.url.startsWith('/system/')) return
  if (origin === `http://${host}` || origin === `https://${host}`) return
  throw new HttpError(
    403,
    'ERR_FOREIGN_ORIGIN',
    `a web page of another origin ("${origin.slice(0, 256)}") must not change this gateway`,
  )
}

/** Answers "Expect: 100-continue" with 413 instead of 100 if the announced body is too large. */
function continueWithinLimit(app: FastifyInstance, bodyMaxBytes: number): void {
  app.server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    if (!(Number(request.headers['content-length']) > bodyMaxBytes)) response.writeContinue()
    app.routing(request, response)
  })
}

/** Adds the routes, and 405 with Allow for every method that their paths do not have. */
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
        throw new HttpError(
          405,
          'ERR_METHOD_NOT_ALLOWED',
          `${request.method} is not allowed here; allowed: ${allow}`,
        )
      },
    })
  }
}
