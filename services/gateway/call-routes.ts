// The data plane: the routes of every dialect, and GET /system/calls/:id.  The order of checks matters: the
// function is looked up before the body is read, and the request is checked completely before it is queued.

import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify'
import { NotFound } from '../contract/errors.ts'
import type { Invocation } from '../contract/invocation.ts'
import type { FunctionStore } from '../functions/store.ts'
import type { Producer } from '../queue/producer.ts'
import { createBodyBudget } from './body-budget.ts'
import { factsOf, send, type CallContext } from './call-context.ts'
import type { Dialect } from './dialect.ts'
import type { GatewayMetrics } from './metrics.ts'

export interface CallRouteDeps {
  readonly dialects: readonly Dialect[]
  readonly functions: FunctionStore
  readonly producer: Producer
  readonly metrics: GatewayMetrics
  readonly queueWaitMs: number
  readonly bodyMaxBytes: number
  /** Throws Overloaded until the functions are loaded. */
  readonly requireReady: () => void
}

interface Params {
  Params: { name: string }
}
const CALL_ID = /^[A-Za-z0-9_.~-]{1,200}$/

/** Adds the routes of calls to APP. */
export function addCallRoutes(app: FastifyInstance, deps: CallRouteDeps): void {
  const accept = createAcceptance(deps)
  for (const dialect of deps.dialects) {
    for (const { methods, url } of dialect.routes) {
      app.route<Params>({
        // fastify knows its own methods; its type for them is string.
        method: [...(methods === 'any' ? app.supportedMethods : methods)] as HTTPMethods[],
        url,
        config: { dialect },
        onRequest: async (request, reply) => accept(dialect, request, reply),
        handler: async (request, reply) => answer(dialect, request, reply, deps),
      })
    }
  }

  app.get<{ Params: { id: string } }>('/system/calls/:id', async (request) => {
    const { id } = request.params
    const record = CALL_ID.test(id) ? await deps.producer.find(id) : undefined
    if (record === undefined)
      throw new NotFound(`there is no call "${id}", or its record has expired`, 'ERR_INVOCATION_NOT_FOUND')
    return record
  })
}

/**
 * Runs on the head of a request: gives the call its id, which every reply from here on carries, looks up the
 * function and reserves room for the body.
 */
function createAcceptance({ functions, metrics, bodyMaxBytes, requireReady }: CallRouteDeps) {
  const budget = createBodyBudget()

  // On 'close' because fastify's onResponse does not fire when the caller disconnects.
  function countEnd(call: CallContext, name: string, reply: FastifyReply): void {
    reply.raw.once('close', () => {
      const outcome = reply.raw.writableFinished ? call.outcome : 'cancelled'
      if (outcome !== undefined) metrics.callEnded(name, outcome, (performance.now() - call.startedAt) / 1000)
    })
  }

  return (dialect: Dialect, request: FastifyRequest<Params>, reply: FastifyReply): void => {
    const [startedAt, startedAtMs] = [performance.now(), Date.now()]
    const { headers, params, routeOptions } = request
    const target = dialect.target({ route: routeOptions.url ?? '', name: params.name, headers })
    const call: CallContext = { target, startedAtMs, startedAt }
    request.call = call
    requireReady()
    const record = functions.get(target.function)
    if (record === undefined)
      throw new NotFound(
        `there is no function "${target.function}"; deploy it first`,
        'ERR_FUNCTION_NOT_FOUND',
      )
    const bodyShare = budget.take(announcedBytes(request, bodyMaxBytes))
    reply.raw.once('close', bodyShare.release)
    call.accepted = { function: record, bodyShare }
    if (target.waits) countEnd(call, record.spec.name, reply)
  }
}

function announcedBytes({ headers }: Pick<FastifyRequest, 'headers'>, bodyMaxBytes: number): number {
  if (headers['transfer-encoding'] !== undefined) return bodyMaxBytes
  return Math.min(Number(headers['content-length'] ?? 0), bodyMaxBytes)
}

/** Runs once the body is here: queues the call and, if its caller waits, waits for the result. */
async function answer(
  dialect: Dialect,
  request: FastifyRequest<Params>,
  reply: FastifyReply,
  { producer, metrics, queueWaitMs }: CallRouteDeps,
): Promise<FastifyReply> {
  const { call } = request
  if (call?.accepted === undefined) throw new Error('a call route ran without its onRequest hook')
  const { spec } = call.accepted.function
  const invocation = invocationOf(dialect, request, call, call.accepted)
  if (!call.target.waits) {
    await producer.enqueue(invocation)
    metrics.callQueued(spec.name)
    return send(reply, dialect.reply(factsOf(call)))
  }
  const gone = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) gone.abort()
  })
  const { signal } = gone
  const ended = await producer.call(invocation, { timeoutMs: spec.timeoutMs, queueWaitMs, signal })
  call.outcome = ended.outcome
  return send(reply, dialect.reply(factsOf(call), ended))
}

function invocationOf(
  dialect: Dialect,
  request: FastifyRequest<Params>,
  { target, startedAtMs }: CallContext,
  { function: { spec }, bodyShare }: NonNullable<CallContext['accepted']>,
): Invocation {
  const body = request.body instanceof Uint8Array ? request.body : undefined
  bodyShare.settle(body?.length ?? 0)
  return {
    callId: target.callId,
    function: spec.name,
    attempt: 1,
    enqueuedAtMs: startedAtMs,
    request: dialect.toRequest({
      waits: target.waits,
      method: request.method,
      target: request.raw.url ?? '/',
      headers: request.headers,
      headerCount: request.raw.rawHeaders.length / 2,
      body,
    }),
  }
}
