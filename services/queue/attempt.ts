// One taken job, from its data to its end: held by a lease, parsed, run, settled.  The one place where an
// error decides what becomes of a job: what somebody else wrote wrongly fails the job with its reason,
// what is broken here fails the attempt and is logged.  Does not know when jobs are taken.

import type { CallRecord, Completion } from '../contract/call-record.ts'
import { AppError, TooLarge } from '../contract/errors.ts'
import type { Invocation } from '../contract/invocation.ts'
import type { Log } from '../platform/log.ts'
import type { RedisClient } from '../platform/redis.ts'
import { preciseNowMs } from './clock.ts'
import { callIdOfJob, envelopeOf, parseJob, type Call, type Envelope, type RawJob } from './job-data.ts'
import type { Keys } from './keys.ts'
import type { Lane, Taken } from './lanes.ts'
import type { Leases } from './leases.ts'
import type { Ending, Settler } from './settle.ts'

/** Runs one attempt.  A thrown error is an `init_fail`, tried again unless it says `retryable: false`. */
export type Run = (invocation: Invocation, context: { signal: AbortSignal }) => Promise<Completion>

export type TakenJob = Extract<Taken, { kind: 'job' | 'unreadable' }>

export interface AttemptDeps {
  readonly commands: RedisClient
  readonly keys: Keys
  readonly leases: Leases
  readonly settler: Settler
  readonly bodyMaxBytes: number
  readonly run: Run
  readonly log: Log
  readonly onSettled?: (record: CallRecord) => void
}

const STALLED = 'its workers fell silent too often while running it'

/** The way of a job from taken to settled; throws only what Redis throws. */
export function createAttempt({
  commands,
  keys,
  leases,
  settler,
  bodyMaxBytes,
  run,
  log,
  onSettled,
}: AttemptDeps): (lane: Lane, taken: TakenJob, token: string) => Promise<void> {
  function parse(lane: Lane, taken: TakenJob): Call | Ending {
    if (taken.kind === 'unreadable')
      return { outcome: 'init_fail', message: `the job cannot be read: ${taken.problem}`, hopeless: true }
    try {
      return parseJob(rawOf(lane, taken), bodyMaxBytes)
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      if (error instanceof TooLarge) return { outcome: 'too_large', message }
      return { outcome: 'init_fail', message: `the job's data is not a request: ${message}`, hopeless: true }
    }
  }

  /** Even a request that makes no sense has somebody who waits for its end. */
  function envelope(lane: Lane, taken: TakenJob): Envelope {
    if (taken.kind === 'job') return envelopeOf(rawOf(lane, taken))
    return {
      callId: callIdOfJob(lane.function, taken.job.id ?? ''),
      acceptedAtMs: taken.job.timestamp,
      bodyStored: false,
    }
  }

  /** The whole body of CALL, or how a call without one ends. */
  async function bodyOf(call: Call): Promise<Uint8Array | Ending> {
    const body = call.bodyStored ? await commands.getBuffer(keys.body(call.callId)) : call.request.body
    if (body === null) return { outcome: 'expired', message: 'the body of this call is no longer kept' }
    return body.byteLength > bodyMaxBytes
      ? {
          outcome: 'too_large',
          message: `the body has ${body.byteLength} bytes; the most is ${bodyMaxBytes}`,
        }
      : body
  }

  async function runInvocation(invocation: Invocation, signal: AbortSignal): Promise<Ending> {
    try {
      const completion = await run(invocation, { signal })
      return {
        outcome: completion.outcome,
        completion,
        ...(completion.message !== undefined && { message: completion.message }),
      }
    } catch (error) {
      if (signal.aborted) return { outcome: 'cancelled' } // is not settled: the lease is lost or given back
      log.error(
        { err: error, callId: invocation.callId, function: invocation.function },
        'a call could not be run',
      )
      if (!(error instanceof AppError))
        return { outcome: 'init_fail', message: 'internal error; the worker’s log says more' }
      return { outcome: 'init_fail', message: error.message, hopeless: !error.retryable }
    }
  }

  async function end(
    call: Call,
    { job }: TakenJob,
    lane: Lane,
    signal: AbortSignal,
    startedAtMs: number,
  ): Promise<Ending> {
    if (job.deferredFailure) return { outcome: 'crash', message: STALLED, hopeless: true }
    if (call.expiresAtMs !== undefined && startedAtMs > call.expiresAtMs) return { outcome: 'expired' }
    const body = await bodyOf(call)
    if (!(body instanceof Uint8Array)) return body
    const invocation = {
      callId: call.callId,
      function: lane.function,
      attempt: Math.max(1, job.attemptsStarted),
      enqueuedAtMs: Math.round(call.acceptedAtMs),
      request: { ...call.request, body },
    }
    return await runInvocation(invocation, signal)
  }

  return async (lane, taken, token) => {
    const { job } = taken
    const startedAtMs = preciseNowMs()
    const lease = leases.hold(lane, job.id ?? '', token)
    try {
      const parsed = parse(lane, taken)
      const unparsed = 'outcome' in parsed
      const call = unparsed ? envelope(lane, taken) : parsed
      const ending = unparsed ? parsed : await end(parsed, taken, lane, lease.signal, startedAtMs)
      if (lease.signal.aborted) return
      const record = await settler.settle({ job, lease, call, startedAtMs }, ending)
      if (record !== undefined) onSettled?.(record)
      else
        log.warn(
          { function: lane.function, job: lease.jobId },
          'a call ended here after its lease was lost; its end does not count',
        )
    } finally {
      leases.release(lease)
    }
  }
}

function rawOf(lane: Lane, { job, dataText }: Extract<TakenJob, { kind: 'job' }>): RawJob {
  return { function: lane.function, id: job.id ?? '', name: job.name, dataText, timestampMs: job.timestamp }
}
