// One attempt of a taken call: serve it, then finish it or queue another attempt. The only place where an
// error decides what becomes of a call: a fault of the producer fails the call with its reason, a fault of
// ours fails the attempt and is logged. The same for every lane.

import type { CallRecord, Completion } from '../contract/call-record.ts'
import { AppError } from '../contract/errors.ts'
import type { Invocation } from '../contract/invocation.ts'
import { OUTCOME_RULES } from '../contract/outcome.ts'
import type { Log } from '../platform/log.ts'
import type { TakenCall } from './taken-call.ts'

/** Serves one attempt.  A thrown error is an `init_fail`, retried unless it says `retryable: false`. */
export type Run = (invocation: Invocation, context: { signal: AbortSignal }) => Promise<Completion>

export interface AttemptDeps {
  readonly run: Run
  readonly log: Log
  readonly onSettled?: (record: CallRecord) => void
}

/** Serves a taken call to its end; throws only what Redis throws. */
export function createAttempt({ run, log, onSettled }: AttemptDeps): (taken: TakenCall) => Promise<void> {
  async function serve(invocation: Invocation, signal: AbortSignal): Promise<Completion> {
    try {
      return await run(invocation, { signal })
    } catch (error) {
      if (signal.aborted) return { outcome: 'cancelled' } // not settled: the call is no longer ours
      log.error(
        { err: error, callId: invocation.callId, function: invocation.function },
        'a call could not be served',
      )
      if (!(error instanceof AppError))
        return { outcome: 'init_fail', message: 'internal error; see the worker’s log' }
      return { outcome: 'init_fail', message: error.message, final: !error.retryable }
    }
  }

  async function settle(taken: TakenCall, completion: Completion): Promise<CallRecord | undefined> {
    const { outcome, final } = completion
    if (OUTCOME_RULES[outcome].retryable && final !== true && taken.attemptsLeft > 0) {
      const retried = await taken.retry(completion)
      if (retried !== 'refused') return retried
    }
    return await taken.finish(completion)
  }

  return async (taken) => {
    const { call, signal } = taken
    try {
      const completion = 'outcome' in call ? call : await serve(call, signal)
      if (signal.aborted) return
      const record = await settle(taken, completion)
      if (record !== undefined) onSettled?.(record)
      else
        log.warn(
          { function: taken.function, job: taken.id },
          'a call ended after its lease was lost; this end does not count',
        )
    } finally {
      taken.release()
    }
  }
}
