// Serves the calls of a lane, whichever it is: takes a call when fewer than `callsMax` are under way and sees
// it through to its end. Data flows one way: the lane (taken-call.ts) gives a call, `run` gives its
// completion, the call is settled.

import { isRedisAway } from '../platform/redis.ts'
import { createAttempt, type AttemptDeps } from './attempt.ts'
import type { Announced, CallSource } from './taken-call.ts'

export interface CallServer {
  /**
   * Takes no more calls, waits up to TIMEOUTMS for running ones, then aborts the rest and gives them back.
   */
  stop(timeoutMs: number): Promise<void>
}

export interface CallServerDeps extends AttemptDeps {
  readonly source: CallSource
  /** The most calls at once; how many containers the runtime holds is another number. */
  readonly callsMax: number
}

/** How long an aborted call may take to end before it is given back regardless. */
const ABORT_WAIT_MS = 2_000

/** Starts SOURCE and serves its calls until `stop`. */
export function serveCalls(deps: CallServerDeps): CallServer {
  const { source, callsMax, log } = deps
  const attempt = createAttempt(deps)
  /** One promise per call under way. */
  const running = new Set<Promise<void>>()
  let slotFreed = Promise.withResolvers<void>()
  const stopping = new AbortController()

  async function serve(): Promise<void> {
    while (!stopping.signal.aborted) {
      if (running.size >= callsMax) {
        await slotFreed.promise
        continue
      }
      const announced = await source.next()
      if (announced === undefined) continue
      if (stopping.signal.aborted) return announced.pass()
      const slot = serveOne(announced).finally(() => {
        running.delete(slot)
        slotFreed.resolve()
        slotFreed = Promise.withResolvers()
      })
      running.add(slot)
    }
  }

  async function serveOne(announced: Announced): Promise<void> {
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
  async function giveBack(): Promise<void> {
    const left = [...source.held]
    for (const call of left) call.abort(new Error('the worker is stopping'))
    await within(ABORT_WAIT_MS, [...running])
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

  source.start()
  const serving = serve()
  return {
    async stop(timeoutMs) {
      if (stopping.signal.aborted) return
      stopping.abort()
      source.quiet()
      slotFreed.resolve()
      await within(ABORT_WAIT_MS, [serving])
      await within(timeoutMs, [...running])
      if (source.held.size > 0) await giveBack()
      await source.stop()
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
