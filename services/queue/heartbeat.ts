// A worker's sign of life in Redis: one key per worker that expires within seconds unless it is written
// again, and an index of worker names.

import { isPlainObject } from '../contract/plain-object.ts'
import type { Log } from '../platform/log.ts'
import type { RedisClient } from '../platform/redis.ts'
import { keysOf } from './keys.ts'

export interface RunningCall {
  readonly callId: string
  readonly function: string
  readonly pid: number
  readonly startedAtMs: number
}

export interface WorkerHeartbeat {
  readonly name: string
  readonly pid: number
  readonly host: string
  /** Base URL of the worker's /healthz and /metrics. */
  readonly url: string
  readonly slots: number
  readonly startedAtMs: number
  /** At most RUNNING_MAX. */
  readonly running: readonly RunningCall[]
}

export interface Heartbeat {
  start(): Promise<void>
  stop(): Promise<void>
}

const RUNNING_MAX = 1_000
const BEAT_MS = 3_000
const LIFE_MS = 10_000
const STOP_WAIT_MS = 1_000
const WORKERS_MAX = 10_000

/**
 * Writes what `read` returns at start and then every BEAT_MS, to a key that expires after LIFE_MS. `stop`
 * deletes the key.
 */
export function createHeartbeat({
  redis,
  prefix,
  read,
  log,
}: {
  redis: RedisClient
  prefix: string
  read: () => WorkerHeartbeat
  log: Log
}): Heartbeat {
  const keys = keysOf(prefix)
  let timer: NodeJS.Timeout | undefined
  let beating: Promise<unknown> | undefined

  function beat(): Promise<unknown> {
    const now = read()
    const text = JSON.stringify({ ...now, running: now.running.slice(0, RUNNING_MAX) })
    // While Redis is away, one beat waits; more would pile up.
    beating ??= redis
      .multi()
      .set(keys.worker(now.name), text, 'PX', LIFE_MS)
      .zadd(keys.workers, Date.now(), now.name)
      .exec()
      .catch((error: unknown) => log.debug({ err: error }, 'the heartbeat did not reach Redis'))
      .finally(() => {
        beating = undefined
      })
    return beating
  }

  return {
    async start() {
      timer = setInterval(() => {
        void beat()
      }, BEAT_MS)
      void beat()
    },
    async stop() {
      if (timer === undefined) return
      clearInterval(timer)
      timer = undefined
      if (redis.status !== 'ready') return
      const { name } = read()
      const gone = redis
        .multi()
        .del(keys.worker(name))
        .zrem(keys.workers, name)
        .exec()
        .catch((error: unknown) =>
          log.debug({ err: error }, 'the heartbeat was not deleted; it expires by itself'),
        )
      let limit: NodeJS.Timeout | undefined
      await Promise.race([
        gone,
        new Promise((resolve) => {
          limit = setTimeout(resolve, STOP_WAIT_MS)
        }),
      ])
      clearTimeout(limit)
    },
  }
}

function parseHeartbeat(text: string): WorkerHeartbeat | undefined {
  const value: unknown = JSON.parse(text)
  return isPlainObject(value) && typeof value['name'] === 'string' && Array.isArray(value['running'])
    ? (value as unknown as WorkerHeartbeat)
    : undefined
}

/** The workers whose heartbeat has not expired, by name.  Throws what REDIS throws. */
export async function readHeartbeats(redis: RedisClient, prefix: string): Promise<WorkerHeartbeat[]> {
  const keys = keysOf(prefix)
  const oldest = Date.now() - 2 * LIFE_MS
  const [names] = await Promise.all([
    redis.zrangebyscore(keys.workers, oldest, '+inf', 'LIMIT', 0, WORKERS_MAX),
    redis.zremrangebyscore(keys.workers, '-inf', `(${oldest}`),
  ])
  if (names.length === 0) return []
  const texts = await redis.mget(names.sort().map(keys.worker))
  return texts.flatMap((text) => (text === null ? [] : (parseHeartbeat(text) ?? [])))
}
