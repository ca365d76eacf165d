// BullMQ for thousands of queues: one FunctionQueue per function, all over one shared connection, created
// when there is work and evicted when there are too many. A FunctionQueue takes jobs without blocking and
// without a processor.
//
// It needs BullMQ's Worker, not only the backend, because taking a job of a scheduler also schedules the next
// one. A sibling backend (`forQueue`) shares the connection and owns nothing, so nothing here is ever closed.

import { createRedisBackend, Job, Queue, RedisQueueBackend, Worker } from 'bullmq'
import { LRUCache } from 'lru-cache'
import { defined } from '../contract/defined.ts'
import { isRedisAway, type RedisClient } from '../platform/redis.ts'

export interface LeaseTimes {
  /** How long a worker may be silent before its jobs are given back to their queues. */
  readonly lockDurationMs: number
  /** How often functions with running jobs are checked for silent workers. */
  readonly stalledIntervalMs: number
}

/** How many silent workers a job survives; after the next one it fails for good. */
const STALLED_MAX = 3
const QUEUES_MAX = 1_024
/** How far from the head of "active" a job that was just taken can be; other workers push there, too. */
const RECENT_MAX = 256

export type Taken =
  /** No job is due; `againAtMs`: when a delayed job is, or when a rate limit ends. */
  | { readonly kind: 'none'; readonly againAtMs?: number }
  | { readonly kind: 'job'; readonly job: Job; readonly dataText: string }
  /** A job whose fields BullMQ cannot parse; taken so that it can be failed. */
  | { readonly kind: 'unreadable'; readonly job: Job; readonly problem: string }

export interface FunctionQueue {
  readonly function: string
  readonly backend: RedisQueueBackend
  /** Move the next job to active under TOKEN.  Throws what Redis throws. */
  take(token: string): Promise<Taken>
  /** Put jobs of silent workers back in the queue; returns their ids. */
  recover(): Promise<readonly string[]>
}

export interface FunctionQueues {
  get(name: string): Promise<FunctionQueue>
}

/** A shared BullMQ backend over CLIENT, created on first use, and again if that failed. */
export function createBackendSource(
  client: RedisClient,
  options: { prefix: string; workerName?: string; times?: LeaseTimes },
): () => Promise<RedisQueueBackend> {
  let opening: Promise<RedisQueueBackend> | undefined

  async function open(): Promise<RedisQueueBackend> {
    const backend = createRedisBackend('shared', {
      connection: client,
      prefix: options.prefix,
      ...defined({ name: options.workerName }),
      ...(options.times !== undefined && {
        lockDuration: options.times.lockDurationMs,
        stalledInterval: options.times.stalledIntervalMs,
        maxStalledCount: STALLED_MAX,
      }),
    } as Parameters<typeof createRedisBackend>[1])
    // The connection's owner logs errors; without a listener they would be thrown.
    backend.on('error', () => undefined)
    await backend.waitUntilReady()
    return backend
  }

  return () => {
    opening ??= open().catch((error: unknown) => {
      opening = undefined
      throw error
    })
    return opening
  }
}

/** The backend of the queue NAME over the connection of SHARED. */
function siblingBackend(shared: RedisQueueBackend, name: string): RedisQueueBackend {
  const sibling = shared.forQueue(name)
  if (!(sibling instanceof RedisQueueBackend))
    throw new TypeError('BullMQ returned a backend that is not for Redis')
  return sibling
}

/** A BullMQ queue for adding jobs to NAME; needs no closing. */
export function openQueue(
  shared: RedisQueueBackend,
  client: RedisClient,
  prefix: string,
  name: string,
): Queue {
  return new Queue(name, { connection: client, prefix, skipMetasUpdate: true }, () =>
    siblingBackend(shared, name),
  )
}

/** Makes public what BullMQ's Worker keeps to itself. */
class FetchingWorker extends Worker {
  /** The job of RAW, after scheduling the next one if a job scheduler added it. */
  async open(
    raw: Parameters<Worker['nextJobFromJobData']>[0],
    jobId: string,
    token: string,
  ): Promise<Job | undefined> {
    return await this.nextJobFromJobData(raw, jobId, token)
  }
}

function createFunctionQueue(
  shared: RedisQueueBackend,
  client: RedisClient,
  name: string,
  options: { prefix: string; workerName: string; times: LeaseTimes },
): FunctionQueue {
  const backend = siblingBackend(shared, name)
  const worker = new FetchingWorker(
    name,
    undefined,
    {
      connection: client,
      prefix: options.prefix,
      name: options.workerName,
      autorun: false,
      lockDuration: options.times.lockDurationMs,
      stalledInterval: options.times.stalledIntervalMs,
      maxStalledCount: STALLED_MAX,
    },
    () => backend,
  )
  worker.on('error', () => undefined) // the same errors reach take()

  function unreadable(jobId: string, error: unknown, token: string): Taken {
    const job = new Job(worker, 'unreadable', {}, {}, jobId)
    job.token = token
    return { kind: 'unreadable', job, problem: error instanceof Error ? error.message : String(error) }
  }

  /** BullMQ failed to parse a job that it had moved: find it by its lock, which has our token. */
  async function findByToken(token: string): Promise<string | undefined> {
    const ids = await client.lrange(backend.keys['active'] ?? '', 0, RECENT_MAX - 1)
    if (ids.length === 0) return undefined
    const tokens = await client.mget(ids.map((id) => `${backend.toKey(id)}:lock`))
    return ids[tokens.indexOf(token)]
  }

  return {
    function: name,
    backend,
    async take(token) {
      let answer: Awaited<ReturnType<RedisQueueBackend['moveToActive']>>
      try {
        answer = await backend.moveToActive(token, options.workerName)
      } catch (error) {
        if (isRedisAway(error)) throw error
        const jobId = await findByToken(token)
        if (jobId === undefined) throw error
        return unreadable(jobId, error, token)
      }
      const [raw, jobId, limitMs, delayedUntilMs] = answer
      if (!raw) {
        const againAtMs = limitMs > 0 ? Date.now() + limitMs : delayedUntilMs > 0 ? delayedUntilMs : undefined
        return againAtMs === undefined ? { kind: 'none' } : { kind: 'none', againAtMs }
      }
      try {
        const job = await worker.open(raw, jobId, token)
        return job === undefined ? { kind: 'none' } : { kind: 'job', job, dataText: raw.data }
      } catch (error) {
        if (isRedisAway(error)) throw error
        return unreadable(jobId, error, token)
      }
    },
    recover: () => backend.moveStalledJobsToWait(),
  }
}

export function createFunctionQueues(
  client: RedisClient,
  options: { prefix: string; workerName: string; times: LeaseTimes },
): FunctionQueues {
  const source = createBackendSource(client, options)
  // A queue that is evicted while one of its jobs runs lives on in that job's lease.
  const queues = new LRUCache<string, FunctionQueue>({ max: QUEUES_MAX })
  return {
    async get(name) {
      const shared = await source()
      const queue = queues.get(name) ?? createFunctionQueue(shared, client, name, options)
      queues.set(name, queue)
      return queue
    },
  }
}
