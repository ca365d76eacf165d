// The data plane: ANY /function/:name[/*] (the caller waits), POST /async-function/:name[/*] (202) and
// GET /system/calls/:id.  Knows in which order things are checked: the function before the body is read,
// everything before the queue hears of it.  Refuses to know how a call travels; the producer does.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { InvalidRequest, NotFound } from '../contract/errors.ts'
import type { FunctionRecord } from '../contract/function-spec.ts'
import type { Invocation } from '../contract/invocation.ts'
import { isOutcome } from '../contract/outcome.ts'
import type { FunctionStore } from '../functions/store.ts'
import type { Producer } from '../queue/producer.ts'
import { createBodyBudget, type BodyShare } from './body-budget.ts'
import { chooseCallId } from './call-request.ts'
import type { Dialect } from './dialect.ts'
import type { GatewayMetrics } from './metrics.ts'

/** A call whose function is known; set before its body is read. */
interface AcceptedCall {
  readonly callId: string
  readonly function: FunctionRecord
  readonly startedAtMs: number
  /** performance.now() */
  readonly startedAt: number
  readonly bodyShare: BodyShare
}

declare module 'fastify' {
  interface FastifyRequest {
    call: AcceptedCall | null
  }
}

export interface CallRouteDeps {
  readonly dialect: Dialect
  readonly functions: FunctionStore
  readonly producer: Producer
  readonly metrics: GatewayMetrics
  readonly queueWaitMs: number
  readonly bodyMaxBytes: number
  /** Throws Overloaded while the functions are not known yet. */
  readonly requireReady: () => void
}

interface Params {
  Params: { name: string }
}
const CALL_ID_MAX = 200

/** Adds the routes of calls to APP. */
export function addCallRoutes(app: FastifyInstance, deps: CallRouteDeps): void {
  const { dialect, producer, metrics, queueWaitMs } = deps
  const config = { dialect }
  app.decorateRequest('call', null)
  const onRequest = acceptCall(deps)

  // On 'close', because fastify's onResponse does not come when the caller goes away.
  const countEnd = async ({ call }: FastifyRequest, reply: FastifyReply): Promise<void> => {
    reply.raw.once('close', () => {
      const outcome = reply.raw.writableFinished ? reply.getHeader('x-wherry-outcome') : 'cancelled'
      if (call !== null && isOutcome(outcome))
        metrics.callEnded(call.function.spec.name, outcome, (performance.now() - call.startedAt) / 1000)
    })
  }

  for (const url of ['/function/:name', '/function/:name/*']) {
    app.all<Params>(url, { config, onRequest: [onRequest, countEnd] }, async (request, reply) => {
      const { invocation, call } = invocationOf(request, dialect)
      const gone = new AbortController()
      reply.raw.once('close', () => {
        if (!reply.raw.writableFinished) gone.abort()
      })
      const ended = await producer.call(invocation, {
        timeoutMs: call.function.spec.timeoutMs,
        queueWaitMs,
        signal: gone.signal,
      })
      const { statusCode, headers, body } = dialect.reply(ended, performance.now() - call.startedAt)
      reply.code(statusCode).headers(headers)
      return reply.send(
        typeof body === 'string' ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength),
      )
    })
  }

  for (const url of ['/async-function/:name', '/async-function/:name/*']) {
    app.post<Params>(url, { config, onRequest }, async (request, reply) => {
      if (request.headers['x-callback-url'] !== undefined) {
        throw new InvalidRequest([
          {
            path: 'X-Callback-Url',
            problem: 'callbacks are not supported; ask GET /system/calls/:id for the result',
          },
        ])
      }
      const { invocation, call } = invocationOf(request, dialect)
      await producer.enqueue(invocation)
      metrics.callQueued(call.function.spec.name)
      return reply.code(202).header('location', `/system/calls/${call.callId}`).send()
    })
  }

  app.get<{ Params: { id: string } }>('/system/calls/:id', async (request) => {
    const { id } = request.params
    const record =
      /^[A-Za-z0-9_.~-]+$/.test(id) && id.length <= CALL_ID_MAX ? await producer.find(id) : undefined
    if (record === undefined)
      throw new NotFound(`there is no call "${id}", or its record has expired`, 'ERR_INVOCATION_NOT_FOUND')
    return record
  })
}

/**
 * Before the body: is there such a function, and room? Then the call has an id, and its reply says so however
 * it ends.
 */
function acceptCall({ dialect, functions, bodyMaxBytes, requireReady }: CallRouteDeps) {
  const budget = createBodyBudget()
  return async (request: FastifyRequest<Params>, reply: FastifyReply): Promise<void> => {
    const startedAt = performance.now()
    const startedAtMs = Date.now()
    const callId = chooseCallId(request.headers['x-call-id'])
    reply.header('x-call-id', callId).header('x-start-time', `${startedAtMs}000000`)
    requireReady()
    const name = dialect.target(request.params)
    const record = functions.get(name)
    if (record === undefined)
      throw new NotFound(`there is no function "${name}"; deploy it first`, 'ERR_FUNCTION_NOT_FOUND')
    const bodyShare = budget.take(announcedBytes(request, bodyMaxBytes))
    reply.raw.once('close', bodyShare.release)
    request.call = { callId, function: record, startedAtMs, startedAt, bodyShare }
  }
}

function announcedBytes({ headers }: FastifyRequest, bodyMaxBytes: number): number {
  if (headers['transfer-encoding'] !== undefined) return bodyMaxBytes
  return Math.min(Number(headers['content-length'] ?? 0), bodyMaxBytes)
}

function invocationOf(
  request: FastifyRequest,
  dialect: Dialect,
): { call: AcceptedCall; invocation: Invocation } {
  const { call } = request
  if (call === null) throw new Error('a call route ran without its onRequest hook')
  const body = request.body instanceof Uint8Array ? request.body : undefined
  call.bodyShare.settle(body?.length ?? 0)
  return {
    call,
    invocation: {
      callId: call.callId,
      function: call.function.spec.name,
      attempt: 1,
      enqueuedAtMs: call.startedAtMs,
      request: dialect.toRequest({
        method: request.method,
        target: request.raw.url ?? '/',
        headers: request.headers,
        headerCount: request.raw.rawHeaders.length / 2,
        body,
      }),
    },
  }
}
