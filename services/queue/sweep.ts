// The safety net under the markers: every few seconds, and after every reconnect, check the queues
// themselves. Work without a marker gets one; its marker was popped by a worker that died, or a delayed job
// came due while no worker had a timer for it. Jobs of silent workers go back to their queues. One pipeline
// per chunk of functions; an idle system costs five small commands per function and interval.

import type { Log } from '../platform/log.ts'
import { isRedisAway, type RedisClient } from '../platform/redis.ts'
import { keysOf } from './keys.ts'
import type { FunctionQueues } from './function-queues.ts'
import { TIMER_MAX_MS, type Markers } from './markers.ts'
import { valuesOf } from './record.ts'

export interface Sweep {
  start(): void
  stop(): void
  /** Sweep at once, out of turn. */
  hurry(): void
}

const CHUNK_FUNCTIONS = 500
const COMMANDS_PER_FUNCTION = 5
/** Keeps workers that started together from sweeping together. */
const JITTER = 0.2
/** BullMQ stores the due time of a delayed job in the upper bits of its score. */
const DELAYED_SCORE_UNIT = 0x1000

export interface SweepDeps {
  readonly commands: RedisClient
  readonly prefix: string
  readonly markers: Markers
  readonly queues: FunctionQueues
  readonly intervalMs: number
  readonly log: Log
}

export function createSweep({ commands, prefix, markers, queues, intervalMs, log }: SweepDeps): Sweep {
  const keys = keysOf(prefix)
  let timer: NodeJS.Timeout | undefined
  let sweeping = false
  let stopped = true

  function schedule(delayMs: number): void {
    clearTimeout(timer)
    if (!stopped) timer = setTimeout(run, delayMs)
  }

  function run(): void {
    if (sweeping) return schedule(intervalMs)
    sweeping = true
    sweep()
      .catch((error: unknown) => {
        if (isRedisAway(error)) log.debug({ err: error }, 'the queues could not be swept; retrying soon')
        else log.error({ err: error }, 'the queues could not be swept; retrying soon')
      })
      .finally(() => {
        sweeping = false
        schedule(intervalMs * (1 - JITTER + 2 * JITTER * Math.random()))
      })
  }

  async function sweep(): Promise<void> {
    const names = markers.watched
    for (let i = 0; i < names.length; i += CHUNK_FUNCTIONS) {
      if (stopped) return
      await sweepChunk(names.slice(i, i + CHUNK_FUNCTIONS))
    }
  }

  async function sweepChunk(names: readonly string[]): Promise<void> {
    const pipeline = commands.pipeline()
    for (const name of names) {
      pipeline
        .llen(keys.queue(name, 'wait'))
        .zcard(keys.queue(name, 'prioritized'))
        .zrangebyscore(keys.queue(name, 'delayed'), '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        .llen(keys.queue(name, 'active'))
        .exists(keys.queue(name, 'marker'))
    }
    const answers = valuesOf(await pipeline.exec())
    for (const [i, name] of names.entries()) {
      const [waiting, prioritized, delayed, active, marked] = answers.slice(
        i * COMMANDS_PER_FUNCTION,
        (i + 1) * COMMANDS_PER_FUNCTION,
      )
      if (active !== 0) await recover(name)
      if (marked !== 0) continue
      const dueAtMs =
        Array.isArray(delayed) && delayed.length > 1
          ? Math.floor(Number(delayed[1]) / DELAYED_SCORE_UNIT)
          : Infinity
      if (waiting !== 0 || prioritized !== 0) markers.raise(name)
      else if (dueAtMs < Date.now() + TIMER_MAX_MS) markers.raise(name, dueAtMs)
    }
  }

  async function recover(name: string): Promise<void> {
    const queue = await queues.get(name)
    const jobIds = await queue.recover() // BullMQ does nothing if another worker did it within the interval
    if (jobIds.length > 0)
      log.warn(
        { function: name, jobs: jobIds.slice(0, 10), count: jobIds.length },
        'jobs of a silent worker went back to their queue',
      )
  }

  return {
    start() {
      stopped = false
      schedule(intervalMs * Math.random())
    },
    stop() {
      stopped = true
      clearTimeout(timer)
    },
    hurry: () => schedule(0),
  }
}
