// The worker's side of the queue: takes calls of all watched functions as slots become free, and lets
// each run to its end.  Holds two connections however many functions there are: one that is blocked
// until there is work, one for everything else.  Does not know what a container is: `run` does.

import { randomUUID } from 'node:crypto'
import type { CallRecord } from '../contract/call-record.ts'
import { BODY_MAX_BYTES_DEFAULT } from '../contract/invocation.ts'
import type { Log } from '../platform/log.ts'
import { isRedisAway, openRedis, type RedisClient } from '../platform/redis.ts'
import { createAttempt, type Run, type TakenJob } from './attempt.ts'
import { keysOf } from './keys.ts'
import { createLanes, type Lane, type Lanes, type LeaseTimes } from './lanes.ts'
import { createLeases, type Leases } from './leases.ts'
import { createMarkers, type Markers } from './markers.ts'
import { createSettler } from './settle.ts'
import { createSweep, type Sweep } from './sweep.ts'

export interface Dispatcher {
  /** Begins to take calls; waits for Redis in the background when it is away. */
  start(): Promise<void>
  /** Takes no more, waits up to TIMEOUTMS for what runs, then aborts the rest and gives their jobs back. */
  stop(timeoutMs: number): Promise<void>
  /** Serve exactly these functions from now on. */
  watch(functions: readonly string[]): void
  /** Calls under way. */
  readonly running: number
}

export interface DispatcherDeps {
  readonly redisUrl: string
  readonly prefix: string
  readonly workerName: string
  /** The most calls at once. */
  readonly slots: number
  readonly run: Run
  readonly log: Log
  /** Called after every attempt whose end counts. */
  readonly onSettled?: (record: CallRecord) => void
  readonly bodyMaxBytes?: number
  readonly leaseTimes?: LeaseTimes
}

const LEASE_TIMES: LeaseTimes = { lockDurationMs: 15_000, stalledIntervalMs: 5_000 }
/** How long a call that was told to end may take before its job is given back regardless. */
const ABORT_WAIT_MS = 2_000

/** What lives between start and stop. */
interface Parts {
  readonly commands: RedisClient
  readonly markers: Markers
  readonly lanes: Lanes
  readonly leases: Leases
  readonly sweep: Sweep
  readonly attempt: (lane: Lane, taken: TakenJob, token: string) => Promise<void>
}

export function createDispatcher(deps: DispatcherDeps): Dispatcher {
  const { redisUrl, prefix, workerName, slots, run, log, onSettled } = deps
  const times = deps.leaseTimes ?? LEASE_TIMES
  /** Ends taking. */
  const stopping = new AbortController()
  /** Ends waiting for a Redis that is away. */
  const closing = new AbortController()
  /** One promise per used slot. */
  const under = new Set<Promise<void>>()
  let slotFreed = Promise.withResolvers<void>()
  let functions: readonly string[] = []
  let parts: Parts | undefined
  let serving: Promise<void> | undefined

  function open(): Parts {
    const { lockDurationMs, stalledIntervalMs } = times
    const commands = openRedis(redisUrl, {
      temper: 'patient',
      name: `wherry-worker-${workerName}`,
      onError: (error) => log.warn({ err: error }, 'Redis is away; waiting for it'),
    })
    const lanes = createLanes(commands, { prefix, workerName, times })
    const leases = createLeases({ commands, lockDurationMs, log })
    const markers: Markers = createMarkers({
      redisUrl,
      prefix,
      workerName,
      commands,
      onReady: () => sweep.hurry(),
      log,
    })
    const sweep = createSweep({ commands, prefix, markers, lanes, intervalMs: stalledIntervalMs, log })
    const settler = createSettler({
      commands,
      prefix,
      workerName,
      lockDurationMs,
      closing: closing.signal,
      log,
    })
    const bodyMaxBytes = deps.bodyMaxBytes ?? BODY_MAX_BYTES_DEFAULT
    const attempt = createAttempt({
      commands,
      keys: keysOf(prefix),
      leases,
      settler,
      bodyMaxBytes,
      run,
      log,
      ...(onSettled && { onSettled }),
    })
    return { commands, markers, lanes, leases, sweep, attempt }
  }

  async function serve(open: Parts): Promise<void> {
    while (!stopping.signal.aborted) {
      if (under.size >= slots) {
        await slotFreed.promise
        continue
      }
      const name = await open.markers.next()
      if (name === undefined) continue
      if (stopping.signal.aborted) return open.markers.raise(name)
      const slot = take(open, name).finally(() => {
        under.delete(slot)
        slotFreed.resolve()
        slotFreed = Promise.withResolvers()
      })
      under.add(slot)
    }
  }

  /**
   * Take one job of NAME, if there is one, and see it through. BullMQ puts the marker back whenever it gave a
   * job, so the next is not forgotten.
   */
  async function take({ lanes, markers, attempt }: Parts, name: string): Promise<void> {
    try {
      const token = randomUUID()
      const lane = await lanes.get(name)
      const taken = await lane.take(token)
      if (taken.kind !== 'none') return await attempt(lane, taken, token)
      if (taken.againAtMs !== undefined) markers.raise(name, taken.againAtMs)
    } catch (error) {
      if (isRedisAway(error))
        log.debug(
          { err: error, function: name },
          'a call was not taken or settled while Redis was away; the sweep finds it',
        )
      else log.error({ err: error, function: name }, 'a call was not taken or settled')
    }
  }

  /** Abort what still runs and put its jobs back at the front of their queues. */
  async function giveBack({ leases }: Parts): Promise<void> {
    const left = [...leases.held]
    for (const lease of left) lease.abort(new Error('the worker is stopping'))
    await within(ABORT_WAIT_MS, [...under])
    await within(
      ABORT_WAIT_MS,
      left.map(async ({ lane, jobId, token }) => {
        try {
          await lane.backend.moveJobFromActiveToWait(jobId, token)
        } catch (error) {
          log.warn(
            { err: error, function: lane.function, job: jobId },
            'a job was not given back; it comes back when its lease ends',
          )
        }
      }),
    )
  }

  return {
    async start() {
      parts = open()
      parts.markers.watch(functions)
      parts.markers.start()
      parts.leases.start()
      parts.sweep.start()
      serving = serve(parts)
    },

    async stop(timeoutMs) {
      if (stopping.signal.aborted || parts === undefined) return
      stopping.abort()
      const { markers, leases, sweep, commands } = parts
      sweep.stop()
      slotFreed.resolve()
      markers.wake()
      if (serving) await within(ABORT_WAIT_MS, [serving])
      await within(timeoutMs, [...under])
      if (leases.held.size > 0) await giveBack(parts)
      leases.stop()
      closing.abort()
      await markers.stop()
      commands.disconnect()
    },

    watch(names) {
      functions = names
      parts?.markers.watch(names)
      parts?.sweep.hurry()
    },

    get running() {
      return parts?.leases.held.size ?? 0
    },
  }
}

/** Resolves when all of WORK has settled, or after TIMEOUTMS. */
async function within(timeoutMs: number, work: ReadonlyArray<Promise<unknown>>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([
    Promise.allSettled(work),
    new Promise((resolve) => {
      timer = setTimeout(resolve, timeoutMs)
    }),
  ])
  clearTimeout(timer)
}
