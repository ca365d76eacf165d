// The worker's side of the queue: takes calls of all watched functions while fewer than `slots` are under way,
// and serves each to its end.  Data flows one way: a lane (taken-call.ts) gives a call, `run` gives its
// completion, the call is settled.

import type { CallRecord } from '../contract/call-record.ts'
import { defined } from '../contract/defined.ts'
import { BODY_MAX_BYTES_DEFAULT } from '../contract/invocation.ts'
import type { Log } from '../platform/log.ts'
import { isRedisAway } from '../platform/redis.ts'
import { createAttempt, type Run } from './attempt.ts'
import { openDurableSource } from './durable-source.ts'
import type { LeaseTimes } from './function-queues.ts'
import type { Announced, CallSource } from './taken-call.ts'

export interface Dispatcher {
  /** Starts to take calls; waits for Redis in the background when it is away. */
  start(): Promise<void>
  /** Takes no more, waits up to TIMEOUTMS for running calls, then aborts the rest and gives them back. */
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
/** How long an aborted call may take to end before it is given back regardless. */
const ABORT_WAIT_MS = 2_000

export function createDispatcher(deps: DispatcherDeps): Dispatcher {
  const { redisUrl, prefix, workerName, slots, run, log, onSettled } = deps
  const attempt = createAttempt({ run, log, ...defined({ onSettled }) })
  /** Ends taking. */
  const stopping = new AbortController()
  /** One promise per call under way. */
  const under = new Set<Promise<void>>()
  let slotFreed = Promise.withResolvers<void>()
  let functions: readonly string[] = []
  let source: CallSource | undefined
  let serving: Promise<void> | undefined

  async function serve(source: CallSource): Promise<void> {
    while (!stopping.signal.aborted) {
      if (under.size >= slots) {
        await slotFreed.promise
        continue
      }
      const announced = await source.next()
      if (announced === undefined) continue
      if (stopping.signal.aborted) return announced.pass()
      const slot = see(announced).finally(() => {
        under.delete(slot)
        slotFreed.resolve()
        slotFreed = Promise.withResolvers()
      })
      under.add(slot)
    }
  }

  /** Take what was ANNOUNCED, if it is still there, and see it through. */
  async function see(announced: Announced): Promise<void> {
    try {
      const taken = await announced.take()
      if (taken !== undefined) await attempt(taken)
    } catch (error) {
      if (isRedisAway(error))
        log.debug({ err: error }, 'a call was not taken or settled while Redis was away; the sweep finds it')
      else log.error({ err: error }, 'a call was not taken or settled')
    }
  }

  /** Abort running calls and put them back at the front of their queues. */
  async function giveBack({ held }: CallSource): Promise<void> {
    const left = [...held]
    for (const call of left) call.abort(new Error('the worker is stopping'))
    await within(ABORT_WAIT_MS, [...under])
    await within(
      ABORT_WAIT_MS,
      left.map(async (call) => {
        try {
          await call.giveBack()
        } catch (error) {
          log.warn(
            { err: error, function: call.function, job: call.id },
            'a call was not given back; it returns to its queue when its lease ends',
          )
        }
      }),
    )
  }

  return {
    async start() {
      source = openDurableSource({
        redisUrl,
        prefix,
        workerName,
        bodyMaxBytes: deps.bodyMaxBytes ?? BODY_MAX_BYTES_DEFAULT,
        times: deps.leaseTimes ?? LEASE_TIMES,
        log,
      })
      source.watch(functions)
      source.start()
      serving = serve(source)
    },

    async stop(timeoutMs) {
      if (stopping.signal.aborted || source === undefined) return
      stopping.abort()
      source.quiet()
      slotFreed.resolve()
      if (serving) await within(ABORT_WAIT_MS, [serving])
      await within(timeoutMs, [...under])
      if (source.held.size > 0) await giveBack(source)
      await source.stop()
    },

    watch(names) {
      functions = names
      source?.watch(names)
    },

    get running() {
      return source?.held.size ?? 0
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
