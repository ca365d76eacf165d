// The worker's side of the queue: the durable lane and the server of its calls, as one part that starts and
// stops.

import type { CallRecord } from '../contract/call-record.ts'
import { defined } from '../contract/defined.ts'
import { BODY_MAX_BYTES_DEFAULT } from '../contract/invocation.ts'
import type { Log } from '../platform/log.ts'
import type { Run } from './attempt.ts'
import { openDurableSource } from './durable-source.ts'
import type { LeaseTimes } from './function-queues.ts'
import { serveCalls, type CallServer } from './serve-calls.ts'
import type { CallSource } from './taken-call.ts'

export interface Dispatcher {
  /** Starts to take calls; waits for Redis in the background when it is away. */
  start(): Promise<void>
  /**
   * Takes no more calls, waits up to TIMEOUTMS for running ones, then aborts the rest and gives them back.
   */
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
  /** The most calls at once; how many containers the runtime holds is another number. */
  readonly callsMax: number
  readonly run: Run
  readonly log: Log
  /** Called after every attempt whose end counts. */
  readonly onSettled?: (record: CallRecord) => void
  readonly bodyMaxBytes?: number
  readonly leaseTimes?: LeaseTimes
}

const LEASE_TIMES: LeaseTimes = { lockDurationMs: 15_000, stalledIntervalMs: 5_000 }

export function createDispatcher(deps: DispatcherDeps): Dispatcher {
  const { redisUrl, prefix, workerName, callsMax, run, log, onSettled } = deps
  let functions: readonly string[] = []
  let source: CallSource | undefined
  let server: CallServer | undefined

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
      server = serveCalls({ source, callsMax, run, log, ...defined({ onSettled }) })
    },

    async stop(timeoutMs) {
      await server?.stop(timeoutMs)
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
