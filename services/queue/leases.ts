// The leases of running jobs: BullMQ's locks, renewed for all jobs in one pipeline, three times per lock
// life. A lost lease aborts its call, and the settle script refuses any result that the call still gives.

import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Log } from '../platform/log.ts'
import type { RedisClient } from '../platform/redis.ts'
import type { FunctionQueue } from './function-queues.ts'
import { valuesOf } from './record.ts'
import { RENEW } from './scripts.ts'

export interface Lease {
  readonly queue: FunctionQueue
  readonly jobId: string
  readonly token: string
  /** Aborts when the lease is lost, or when the call must end for another reason. */
  readonly signal: AbortSignal
  readonly abort: (reason: Error) => void
}

export interface Leases {
  start(): void
  stop(): void
  hold(queue: FunctionQueue, jobId: string, token: string): Lease
  /** Renew one lease out of turn; false when it is lost. */
  renew(lease: Lease): Promise<boolean>
  release(lease: Lease): void
  readonly held: ReadonlySet<Lease>
}

const RENEWALS_PER_LIFE = 3

export function createLeases({
  commands,
  lockDurationMs,
  log,
}: {
  commands: RedisClient
  lockDurationMs: number
  log: Log
}): Leases {
  const held = new Set<Lease>()
  let timer: NodeJS.Timeout | undefined
  let renewing = false

  async function renew(chosen: Iterable<Lease>): Promise<void> {
    const byFunction = Map.groupBy(chosen, (lease) => lease.queue.function)
    if (byFunction.size === 0) return
    const pipeline = commands.pipeline()
    for (const leases of byFunction.values()) {
      const { backend } = leases[0]!.queue
      pipeline.eval(
        RENEW.lua,
        RENEW.keysCount,
        backend.toKey('active'),
        backend.toKey('stalled'),
        backend.toKey(''),
        lockDurationMs,
        ...leases.flatMap((lease) => [lease.jobId, lease.token]),
      )
    }
    const answers = valuesOf(await pipeline.exec())
    // A call that was settled on this connection just before has no lock either, but its lease is not lost:
    // let its owner see that answer first and release the lease.
    await nextTurn()
    for (const [i, leases] of [...byFunction.values()].entries()) {
      const lost = answers[i]
      for (const lease of leases) {
        if (Array.isArray(lost) && lost.includes(lease.jobId) && held.has(lease)) lose(lease)
      }
    }
  }

  function lose(lease: Lease): void {
    log.warn(
      { function: lease.queue.function, job: lease.jobId },
      'the lease of a running call is lost; the call is aborted',
    )
    lease.abort(new Error('the lease of this call is lost'))
  }

  function tick(): void {
    if (renewing) return
    renewing = true
    // Replace a connection that does not answer within a lock life.
    const watchdog = setTimeout(() => commands.disconnect(true), lockDurationMs)
    renew(held)
      .catch((error: unknown) => log.debug({ err: error }, 'leases were not renewed; retrying soon'))
      .finally(() => {
        clearTimeout(watchdog)
        renewing = false
      })
  }

  return {
    start() {
      timer ??= setInterval(tick, lockDurationMs / RENEWALS_PER_LIFE)
    },
    stop() {
      clearInterval(timer)
      timer = undefined
    },
    hold(queue, jobId, token) {
      const controller = new AbortController()
      const lease: Lease = {
        queue,
        jobId,
        token,
        signal: controller.signal,
        abort: (reason) => controller.abort(reason),
      }
      held.add(lease)
      return lease
    },
    async renew(lease) {
      await renew([lease])
      return !lease.signal.aborted
    },
    release(lease) {
      held.delete(lease)
    },
    held,
  }
}
