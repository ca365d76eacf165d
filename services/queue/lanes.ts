// BullMQ, made cheap for many queues: one lane per function, all over one shared connection, made when
// there is work and forgotten when there are too many.  A lane fetches without blocking and without a
// processor; who may fetch when is the dispatcher's business, what a job means is job-data's.
//
// BullMQ's Worker is needed (not only its backend) because fetching a job of a scheduler also plans the
// next one.  A sibling backend (`forQueue`) shares the connection and owns nothing, so a lane needs no close.

import { createRedisBackend, Job, Queue, RedisQueueBackend, Worker } from 'bullmq'
import { isRedisAway, type RedisClient } from '../platform/redis.ts'

export interface LeaseTimes {
  /** How long a worker may be silent before its jobs are given to others. */
  readonly lockDurationMs: number
  /** How often functions with running jobs are checked for silent workers. */
  readonly stalledIntervalMs: number
}

/** How often a job may be taken from a silent worker before it fails for good. */
const STALLED_MAX = 3
const LANES_MAX = 1_024
/**
 * Where a job that was just taken can stand in "active": the newest is first, others may have come in
 * between.
 */
const RECENT_MAX = 256

export type Taken =
  /** Nothing to do now; `againAtMs`: a delayed job or the end of a rate limit. */
  | { readonly kind: 'none'; readonly againAtMs?: number }
  | { readonly kind: 'job'; readonly job: Job; readonly dataText: string }
  /** A job that cannot even be read, taken all the same so that it can be failed. */
  | { readonly kind: 'unreadable'; readonly job: Job; readonly problem: string }

export interface Lane {
  readonly function: string
  readonly backend: RedisQueueBackend
  /** Move the next job to active under TOKEN.  Throws what Redis throws. */
  take(token: string): Promise<Taken>
  /** Give jobs of silent workers back to the queue. */
  recover(): Promise<readonly string[]>
}

export interface Lanes {
  get(name: string): Promise<Lane>
}

/** A shared BullMQ backend over CLIENT, made when first asked for and again when making it failed. */
export function createBackendSource(
  client: RedisClient,
  options: { prefix: string; workerName?: string; times?: LeaseTimes },
): () => Promise<RedisQueueBackend> {
  let making: Promise<RedisQueueBackend> | undefined

  async function make(): Promise<RedisQueueBackend> {
    const backend = createRedisBackend('shared', {
      connection: client,
      prefix: options.prefix,
      ...(options.workerName !== undefined && { name: options.workerName }),
      ...(options.times !== undefined && {
        lockDuration: options.times.lockDurationMs,
        stalledInterval: options.times.stalledIntervalMs,
        maxStalledCount: STALLED_MAX,
      }),
    } as Parameters<typeof createRedisBackend>[1])
    backend.on('error', () => undefined) // the connection's owner is told; without a listener it would be thrown
    await backend.waitUntilReady()
    return backend
  }

  return () => {
    making ??= make().catch((error: unknown) => {
      making = undefined
      throw error
    })
    return making
  }
}

/** The backend of the queue NAME over the connection of SHARED. */
function siblingBackend(shared: RedisQueueBackend, name: string): RedisQueueBackend {
  const sibling = shared.forQueue(name)
  if (!(sibling instanceof RedisQueueBackend))
    throw new TypeError('BullMQ gave a backend that is not for Redis')
  return sibling
}

/** A BullMQ queue for adding jobs to NAME; needs no close. */
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

class FetchingWorker extends Worker {
  /** The job of RAW, after planning the next one if a scheduler made it. */
  async open(
    raw: Parameters<Worker['nextJobFromJobData']>[0],
    jobId: string,
    token: string,
  ): Promise<Job | undefined> {
    return await this.nextJobFromJobData(raw, jobId, token)
  }
}

function createLane(
  shared: RedisQueueBackend,
  client: RedisClient,
  name: string,
  options: { prefix: string; workerName: string; times: LeaseTimes },
): Lane {
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

  /** BullMQ choked on a job after moving it: find it by the lock that carries our token. */
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

export function createLanes(
  client: RedisClient,
  options: { prefix: string; workerName: string; times: LeaseTimes },
): Lanes {
  const source = createBackendSource(client, options)
  const lanes = new Map<string, Lane>()
  return {
    async get(name) {
      const shared = await source()
      const lane = lanes.get(name) ?? createLane(shared, client, name, options)
      // The order of the map is the order of use. A lane that is forgotten while it runs a job lives on in
      // that job.
      lanes.delete(name)
      lanes.set(name, lane)
      if (lanes.size > LANES_MAX) lanes.delete(lanes.keys().next().value ?? '')
      return lane
    },
  }
}
