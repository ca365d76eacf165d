// The gateway's side of the queue: puts calls into their functions' queues, waits for those that have a
// caller waiting, and answers what is known of calls, queues, logs and workers.  Every promise here is
// kept by Redis, not by this process; with Redis away every method says so within a second.
// Knows no HTTP, and does not know whether a function exists.

import { createIORedisClient, Job, type IRedisClient, type Queue, type RedisQueueBackend } from 'bullmq'
import type { CallRecord } from '../contract/call-record.ts'
import { Conflict, InvalidRequest, Overloaded } from '../contract/errors.ts'
import type { Invocation } from '../contract/invocation.ts'
import type { Outcome } from '../contract/outcome.ts'
import { formatDuration } from '../contract/quantity.ts'
import type { Log } from '../platform/log.ts'
import { asOverloaded, openRedis, type RedisClient } from '../platform/redis.ts'
import { preciseNowMs } from './clock.ts'
import { forgetFunction } from './forget.ts'
import { createLogReader, type LogEntry, type LogQuery } from './function-logs.ts'
import { readHeartbeats, type WorkerHeartbeat } from './heartbeat.ts'
import { findCall, readCounts, readDepths, type Depth } from './inspect.ts'
import { encodeJob, isCallId, isGatewayId, REQUEST_JOB } from './job-data.ts'
import { FINISHED_TTL_MS, keysOf, WAITING_TTL_MS } from './keys.ts'
import { createBackendSource, openQueue } from './lanes.ts'
import { ended, inlineBody, parseRecord, valuesOf, type StoredRecord } from './record.ts'
import { createReplies, type Expected } from './replies.ts'
import { CLAIM } from './scripts.ts'

export type { Depth } from './inspect.ts'

/** A finished call.  The result's bytes are in `body`; `result.body` is left empty. */
export type FinishedCall = CallRecord & { readonly body: Uint8Array }

export interface CallOptions {
  /** The function's own timeout. */
  readonly timeoutMs: number
  /** How long the call may wait for a worker. */
  readonly queueWaitMs: number
  /** Aborts when the caller goes away. */
  readonly signal?: AbortSignal
}

export interface Producer {
  /** Connects; returns after a second at most, with or without Redis. */
  start(): Promise<void>
  /** Calls that are still waited for come back as `no_capacity`. */
  stop(): Promise<void>
  /**
   * Put INVOCATION into its queue; resolves after Redis has accepted it. A call that is not taken within
   * `expiresInMs` ends as `expired`. Throws Overloaded (Redis away, queue full), Conflict (the call id is
   * known).
   */
  enqueue(invocation: Invocation, options?: { readonly expiresInMs?: number }): Promise<void>
  /**
   * Put INVOCATION into its queue and wait for its end. When no worker takes it within queueWaitMs it is
   * taken back and comes back as `no_capacity`; when its worker does not answer within its timeout and
   * ANSWER_GRACE_MS, as `timeout`; when the caller goes away, as `cancelled` (taken back if it was still
   * waiting). Throws like `enqueue`.
   */
  call(invocation: Invocation, options: CallOptions): Promise<FinishedCall>
  /** What is known of a call, with its result.  Throws Overloaded. */
  find(callId: string): Promise<CallRecord | undefined>
  /** Throws Overloaded. */
  depths(functions: readonly string[]): Promise<Map<string, Depth>>
  /** Finished calls by function.  Throws Overloaded. */
  counts(functions: readonly string[]): Promise<Map<string, number>>
  /** Lines of NAME's stderr, oldest first.  Throws Overloaded. */
  logs(name: string, query: LogQuery): AsyncIterable<LogEntry>
  /** The workers that are alive, by name.  Throws Overloaded. */
  workers(): Promise<WorkerHeartbeat[]>
  /**
   * Remove everything of a function that was removed; its waiting and running calls end as `cancelled`.
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

export const ANSWER_GRACE_MS = 30_000
const QUEUE_MAX = 10_000
const QUEUES_MAX = 1_024
const START_WAIT_MS = 1_000
/** How long a call id is reserved before the job itself is accepted. */
const CLAIM_MS = 60_000
/** Clocks of two machines are not the same. */
const EXPIRY_SLACK_MS = 5_000
/** The newest finished jobs of a gateway stay visible in BullMQ; the record tells the rest. */
const KEEP_JOBS = { age: FINISHED_TTL_MS / 1000, count: 1_000 } as const

export function createProducer({
  redisUrl,
  prefix,
  gatewayId,
  log,
  queueMax = QUEUE_MAX,
}: ProducerDeps): Producer {
  if (!isGatewayId(gatewayId))
    throw new InvalidRequest([{ path: 'gatewayId', problem: 'must be 1 to 64 letters, digits or "-"' }])
  const keys = keysOf(prefix)
  const queues = new Map<string, Queue>()
  let client: RedisClient | undefined
  let backend: (() => Promise<RedisQueueBackend>) | undefined
  const replies = createReplies({
    redisUrl,
    channel: keys.reply(gatewayId),
    onListening: () => {
      recheck().catch((error: unknown) => log.debug({ err: error }, 'waiting calls were not checked'))
    },
    log,
  })
  const readLogs = createLogReader({ redisUrl, commands: ready, log })

  /** The connection, if it works right now. */
  function ready(): RedisClient {
    if (client?.status !== 'ready') throw new Overloaded('Redis is away; try again later', 'ERR_REDIS_AWAY')
    return client
  }

  async function queueOf(name: string): Promise<Queue> {
    const redis = ready()
    backend ??= createBackendSource(redis, { prefix })
    const queue = queues.get(name) ?? openQueue(await backend(), redis, prefix, name)
    queues.delete(name)
    queues.set(name, queue)
    if (queues.size > QUEUES_MAX) queues.delete(queues.keys().next().value ?? '')
    return queue
  }

  /** After a broken connection: replies may have been missed. */
  async function recheck(): Promise<void> {
    const callIds = [...replies.expected]
    if (callIds.length === 0) return
    for (const text of await ready().mget(callIds.map(keys.call))) {
      const record = parseRecord(text)
      if (record !== undefined) replies.deliver(record)
    }
  }

  function baseRecord({ callId, function: name }: Invocation, enqueuedAtMs: number): CallRecord {
    return { callId, function: name, state: 'queued', attempt: 1, enqueuedAtMs: Math.round(enqueuedAtMs) }
  }

  /** Reserve the call id, unless it is taken or the queue is full. */
  async function claim(record: CallRecord): Promise<void> {
    const { callId, function: name } = record
    const verdict = await ready().eval(
      CLAIM.lua,
      CLAIM.keysCount,
      keys.call(callId),
      keys.queue(name, 'wait'),
      keys.queue(name, callId),
      JSON.stringify(record),
      CLAIM_MS,
      queueMax,
    )
    if (verdict === 'taken') throw new Conflict(`there is a call "${callId}" already`, 'ERR_CALL_EXISTS')
    if (verdict === 'full')
      throw new Overloaded(
        `${queueMax} calls wait for function "${name}" already; try again later`,
        'ERR_QUEUE_FULL',
      )
  }

  async function add(
    invocation: Invocation,
    options: { replyTo?: string; expiresInMs?: number },
  ): Promise<CallRecord> {
    const { callId, function: name } = invocation
    if (!isCallId(callId))
      throw new InvalidRequest([
        { path: 'callId', problem: 'must be 1 to 200 letters, digits, "_", "." or "-", and not only digits' },
      ])
    const acceptedAtMs = preciseNowMs()
    const record = baseRecord(invocation, acceptedAtMs)
    try {
      const queue = await queueOf(name)
      await claim(record)
      const { data, storedBody } = encodeJob(invocation, {
        acceptedAtMs,
        ...(options.replyTo !== undefined && { replyTo: options.replyTo }),
        ...(options.expiresInMs !== undefined && { expiresAtMs: acceptedAtMs + options.expiresInMs }),
      })
      // All or nothing: no job without its body and its record, and no record that says "queued" for a week
      // without its job.
      const redis: IRedisClient = createIORedisClient(ready())
      const multi = redis.multi()
      multi.runCommand('pexpire', [keys.call(callId), WAITING_TTL_MS])
      if (storedBody)
        multi.runCommand('set', [
          keys.body(callId),
          Buffer.from(storedBody.buffer, storedBody.byteOffset, storedBody.byteLength),
          'PX',
          WAITING_TTL_MS,
        ])
      const job = new Job(
        queue,
        REQUEST_JOB,
        data,
        {
          jobId: callId,
          timestamp: Math.floor(acceptedAtMs),
          removeOnComplete: KEEP_JOBS,
          removeOnFail: KEEP_JOBS,
        },
        callId,
      )
      const added = queue.backend.addJobToTransaction(multi, job.asJSON(), callId)
      const [answers] = await Promise.all([multi.exec(), added])
      valuesOf(answers)
      return record
    } catch (error) {
      throw asOverloaded(error)
    }
  }

  /**
   * Take the call back unless a worker has it: the record it then has (perhaps a worker's last word), or
   * undefined.
   */
  async function takeBack(
    record: CallRecord,
    outcome: Outcome,
    message: string,
  ): Promise<StoredRecord | undefined> {
    try {
      const queue = await queueOf(record.function)
      if ((await queue.remove(record.callId)) === 0) return undefined
      // A worker writes the record in the same step in which the job ends, so what is there now is the truth.
      const written = parseRecord(await ready().get(keys.call(record.callId)))
      if (written?.state === 'finished') return written
      const last = ended(record, outcome, message)
      await ready()
        .pipeline()
        .set(keys.call(record.callId), JSON.stringify(last), 'PX', FINISHED_TTL_MS)
        .del(keys.body(record.callId))
        .exec()
      return last
    } catch (error) {
      log.debug({ err: error, callId: record.callId }, 'a call could not be taken back')
      return undefined
    }
  }

  async function waitFor(
    record: CallRecord,
    expected: Expected,
    { timeoutMs, queueWaitMs, signal }: CallOptions,
  ): Promise<StoredRecord> {
    let answer = await expected.wait(queueWaitMs, signal)
    if (answer === 'late') {
      const back = await takeBack(
        record,
        'no_capacity',
        `no worker took the call within ${formatDuration(queueWaitMs)}`,
      )
      if (back !== undefined) return back
      answer = await expected.wait(timeoutMs + ANSWER_GRACE_MS, signal)
    }
    if (typeof answer === 'object') return answer
    switch (answer) {
      case 'aborted':
        return (
          (await takeBack(record, 'cancelled', 'the caller went away')) ??
          ended(record, 'cancelled', 'the caller went away while the call was running')
        )
      case 'stopped':
        return ended(
          record,
          'no_capacity',
          'the gateway stopped while the call was waiting; its record tells how it ends',
        )
      case 'late':
        return (
          (await takeBack(
            record,
            'no_capacity',
            'the worker that had the call fell silent, and no other took it',
          )) ??
          ended(
            record,
            'timeout',
            `no answer within ${queueWaitMs + timeoutMs + ANSWER_GRACE_MS} ms; the call’s record tells if it still ends`,
          )
        )
    }
  }

  async function finish(record: StoredRecord): Promise<FinishedCall> {
    const { resultStored, ...rest } = record
    const body =
      resultStored === true ? await ready().getBuffer(keys.result(record.callId)) : inlineBody(record)
    if (body === null)
      throw new Overloaded(`the result of call "${record.callId}" is no longer kept`, 'ERR_RESULT_EXPIRED')
    return { ...rest, ...(rest.result && { result: { ...rest.result, body: '' } }), body }
  }

  /** WORK, with Redis being away told as Overloaded. */
  async function told<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      throw asOverloaded(error)
    }
  }

  return {
    async start() {
      client = openRedis(redisUrl, {
        temper: 'prompt',
        name: `wherry-gateway-${gatewayId}`,
        onError: (error) => log.warn({ err: error }, 'Redis is away; calls are refused until it is back'),
      })
      replies.start()
      const connected = Promise.withResolvers<void>()
      client.once('ready', connected.resolve)
      const timer = setTimeout(connected.resolve, START_WAIT_MS)
      await connected.promise
      clearTimeout(timer)
    },

    async stop() {
      replies.stop()
      client?.disconnect()
      client = undefined
      backend = undefined
      queues.clear()
    },

    async enqueue(invocation, options = {}) {
      await add(invocation, options)
    },

    async call(invocation, options) {
      const expected = replies.expect(invocation.callId)
      try {
        const record = await add(invocation, {
          replyTo: gatewayId,
          expiresInMs: options.queueWaitMs + EXPIRY_SLACK_MS,
        })
        return await told(async () => finish(await waitFor(record, expected, options)))
      } finally {
        expected.end()
      }
    },

    find: (callId) => told(() => findCall(ready(), prefix, callId)),
    depths: (functions) => told(() => readDepths(ready(), prefix, functions)),
    counts: (functions) => told(() => readCounts(ready(), prefix, functions)),
    async *logs(name, query) {
      try {
        yield* readLogs(keys.logs(name), query)
      } catch (error) {
        throw asOverloaded(error)
      }
    },
    workers: () => told(() => readHeartbeats(ready(), prefix)),
    forget: (name) =>
      told(async () => {
        await forgetFunction(ready(), prefix, await queueOf(name))
        queues.delete(name)
      }),
  }
}
