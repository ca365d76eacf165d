// The gateway's side of the queue: puts calls into their functions' queues, waits for those whose callers
// wait, and answers questions about calls, queues, logs and workers. Every promise here is kept by Redis, not
// by this process; with Redis away every method fails within a second.

import type { Queue, RedisQueueBackend } from 'bullmq'
import { LRUCache } from 'lru-cache'
import { replyOf } from '../contract/call-end.ts'
import type { CallRecord, CallReply } from '../contract/call-record.ts'
import { InvalidRequest, NotFound, Overloaded } from '../contract/errors.ts'
import type { Invocation } from '../contract/invocation.ts'
import type { Log } from '../platform/log.ts'
import { asOverloaded, openRedis, type RedisClient } from '../platform/redis.ts'
import { createAwaitReply, type WaitOptions } from './await-reply.ts'
import { createEnqueue } from './enqueue.ts'
import { forgetFunction } from './forget.ts'
import { createLogReader, type LogEntry, type LogQuery } from './function-logs.ts'
import { readHeartbeats, type WorkerHeartbeat } from './heartbeat.ts'
import { findCall, readCounts, readDepths, type Depth } from './inspect.ts'
import { isGatewayId } from './job-data.ts'
import { keysOf } from './keys.ts'
import { createBackendSource, openQueue } from './function-queues.ts'
import { inlineBody, parseRecord } from './record.ts'
import { createReplies } from './replies.ts'

export type { Depth } from './inspect.ts'

/** The reply of a finished call, and its result's bytes; `result.body` is left empty. */
export type FinishedCall = CallReply & { readonly body: Uint8Array }

export interface Producer {
  /** Connects; returns after a second at most, with or without Redis. */
  start(): Promise<void>
  /** Callers that still wait get `no_capacity`. */
  stop(): Promise<void>
  /**
   * Put INVOCATION into its queue; resolves after Redis has accepted it.  A call that no worker takes within
   * `expiresInMs` ends as `expired`.  Throws Overloaded (Redis away, queue full), Conflict (call id in use).
   */
  enqueue(invocation: Invocation, options?: { readonly expiresInMs?: number }): Promise<void>
  /**
   * Put INVOCATION into its queue and wait for its end. A call that no worker takes within queueWaitMs is
   * taken back and ends as `no_capacity`. A call whose worker does not answer within its timeout and
   * ANSWER_GRACE_MS ends as `timeout`. When the caller goes away, the call is taken back if it still waits,
   * and ends as `cancelled`. Throws like `enqueue`.
   */
  call(invocation: Invocation, options: WaitOptions): Promise<FinishedCall>
  /** The record of a call, with its result.  Throws Overloaded. */
  find(callId: string): Promise<CallRecord | undefined>
  /** Throws Overloaded. */
  depths(functions: readonly string[]): Promise<Map<string, Depth>>
  /** How many calls have finished, by function.  Throws Overloaded. */
  counts(functions: readonly string[]): Promise<Map<string, number>>
  /** The lines of NAME's stderr, oldest first.  Throws Overloaded. */
  logs(name: string, query: LogQuery): AsyncIterable<LogEntry>
  /** The live workers, by name.  Throws Overloaded. */
  workers(): Promise<WorkerHeartbeat[]>
  /**
   * Delete the queue, logs and count of a removed function; its waiting and running calls end as `cancelled`.
   * Throws Overloaded.
   */
  forget(name: string): Promise<void>
}

export interface ProducerDeps {
  readonly redisUrl: string
  readonly prefix: string
  /** Unique among the gateways of a Redis: letters, digits and "-". */
  readonly gatewayId: string
  readonly log: Log
  /** The most calls that may wait in one function's queue. */
  readonly queueMax?: number
}

const QUEUE_MAX = 10_000
const QUEUES_MAX = 1_024
const START_WAIT_MS = 1_000
/** Clocks of two machines differ. */
const EXPIRY_SLACK_MS = 5_000

/** Do WORK; a Redis that is away becomes Overloaded. */
async function overloaded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw asOverloaded(error)
  }
}

/** A producer's connection and the BullMQ queues over it. */
function createConnection({ redisUrl, prefix, gatewayId, log }: Omit<ProducerDeps, 'queueMax'>) {
  const queues = new LRUCache<string, Queue>({ max: QUEUES_MAX })
  let client: RedisClient | undefined
  let backend: (() => Promise<RedisQueueBackend>) | undefined

  function ready(): RedisClient {
    if (client?.status !== 'ready') throw new Overloaded('Redis is away; try again later', 'ERR_REDIS_AWAY')
    return client
  }

  return {
    /** The connection, if it works right now; throws Overloaded. */
    ready,

    async queueOf(name: string): Promise<Queue> {
      const redis = ready()
      backend ??= createBackendSource(redis, { prefix })
      const queue = queues.get(name) ?? openQueue(await backend(), redis, prefix, name)
      queues.set(name, queue)
      return queue
    },

    drop: (name: string): unknown => queues.delete(name),

    async open(): Promise<void> {
      client = openRedis(redisUrl, {
        temper: 'prompt',
        name: `wherry-gateway-${gatewayId}`,
        onError: (error) => log.warn({ err: error }, 'Redis is away; calls are refused until it is back'),
      })
      const connected = Promise.withResolvers<void>()
      client.once('ready', connected.resolve)
      const timer = setTimeout(connected.resolve, START_WAIT_MS)
      await connected.promise
      clearTimeout(timer)
    },

    close(): void {
      client?.disconnect()
      client = undefined
      backend = undefined
      queues.clear()
    },
  }
}

export function createProducer(deps: ProducerDeps): Producer {
  const { redisUrl, prefix, gatewayId, log, queueMax = QUEUE_MAX } = deps
  if (!isGatewayId(gatewayId))
    throw new InvalidRequest([{ path: 'gatewayId', problem: 'must be 1 to 64 letters, digits or "-"' }])
  const keys = keysOf(prefix)
  const connection = createConnection(deps)
  const { ready, queueOf } = connection
  const replies = createReplies({
    redisUrl,
    channel: keys.reply(gatewayId),
    onListening: () => {
      recheck().catch((error: unknown) =>
        log.debug({ err: error }, 'records of awaited calls could not be read'),
      )
    },
    log,
  })
  const enqueue = createEnqueue({ keys, queueMax, ready, queueOf })
  const awaitReply = createAwaitReply({ keys, ready, queueOf, log })
  const readLogs = createLogReader({ redisUrl, commands: ready, log })

  /**
   * Read the records of awaited calls: their replies may have been missed while the connection was broken.
   */
  async function recheck(): Promise<void> {
    const callIds = [...replies.expected]
    if (callIds.length === 0) return
    for (const text of await ready().mget(callIds.map(keys.call))) {
      const record = parseRecord(text)
      const reply = record && replyOf(record)
      if (reply !== undefined) replies.deliver(reply)
    }
  }

  async function withBody(reply: CallReply): Promise<FinishedCall> {
    const { resultStored, ...rest } = reply
    const body =
      resultStored === true ? await ready().getBuffer(keys.result(reply.callId)) : inlineBody(reply)
    if (body === null)
      throw new NotFound(`the result of call "${reply.callId}" is no longer stored`, 'ERR_RESULT_EXPIRED')
    return { ...rest, ...(rest.result && { result: { ...rest.result, body: '' } }), body }
  }

  return {
    async start() {
      replies.start()
      await connection.open()
    },

    async stop() {
      replies.stop()
      connection.close()
    },

    async enqueue(invocation, options = {}) {
      await enqueue(invocation, options)
    },

    async call(invocation, options) {
      const expected = replies.expect(invocation.callId)
      try {
        const record = await enqueue(invocation, {
          replyTo: gatewayId,
          expiresInMs: options.queueWaitMs + EXPIRY_SLACK_MS,
        })
        return await overloaded(async () => withBody(await awaitReply(record, expected, options)))
      } finally {
        expected.end()
      }
    },

    find: (callId) => overloaded(() => findCall(ready(), prefix, callId)),
    depths: (functions) => overloaded(() => readDepths(ready(), prefix, functions)),
    counts: (functions) => overloaded(() => readCounts(ready(), prefix, functions)),
    async *logs(name, query) {
      try {
        yield* readLogs(keys.logs(name), query)
      } catch (error) {
        throw asOverloaded(error)
      }
    },
    workers: () => overloaded(() => readHeartbeats(ready(), prefix)),
    forget: (name) =>
      overloaded(async () => {
        await forgetFunction(ready(), prefix, await queueOf(name))
        connection.drop(name)
      }),
  }
}
