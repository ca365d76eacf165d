// A BullMQ job as a TakenCall: parses its data, which is hostile input, fetches its body, and hands its ends
// to the settler.

import type { Completion } from '../contract/call-record.ts'
import { TooLarge } from '../contract/errors.ts'
import type { Invocation } from '../contract/invocation.ts'
import type { RedisClient } from '../platform/redis.ts'
import { preciseNowMs } from './clock.ts'
import { callIdOfJob, envelopeOf, parseJob, type Call, type Envelope, type RawJob } from './job-data.ts'
import type { Keys } from './keys.ts'
import type { FunctionQueue, Taken } from './function-queues.ts'
import type { Lease, Leases } from './leases.ts'
import type { Settler } from './settle.ts'
import type { TakenCall } from './taken-call.ts'

export type TakenJob = Extract<Taken, { kind: 'job' | 'unreadable' }>

export interface DurableCallDeps {
  readonly commands: RedisClient
  readonly keys: Keys
  readonly leases: Leases
  readonly settler: Settler
  readonly bodyMaxBytes: number
}

const STALLED = 'its workers fell silent too often while running it'

function rawOf(queue: FunctionQueue, { job, dataText }: Extract<TakenJob, { kind: 'job' }>): RawJob {
  return {
    function: queue.function,
    id: job.id ?? '',
    name: job.name,
    dataText,
    data: job.data,
    timestampMs: job.timestamp,
  }
}

/** Creates the TakenCall of a job that LANE moved to active under TOKEN; throws only what Redis throws. */
export function createDurableCalls(deps: DurableCallDeps) {
  const { commands, keys, leases, settler, bodyMaxBytes } = deps

  function parse(queue: FunctionQueue, taken: TakenJob): Call | Completion {
    if (taken.kind === 'unreadable')
      return { outcome: 'init_fail', message: `the job cannot be read: ${taken.problem}`, final: true }
    try {
      return parseJob(rawOf(queue, taken), bodyMaxBytes)
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      if (error instanceof TooLarge) return { outcome: 'too_large', message }
      return { outcome: 'init_fail', message: `the job's data is not a request: ${message}`, final: true }
    }
  }

  /** A gateway may be waiting even for a request that cannot be parsed. */
  function envelope(queue: FunctionQueue, taken: TakenJob): Envelope {
    if (taken.kind === 'job') return envelopeOf(rawOf(queue, taken))
    return {
      callId: callIdOfJob(queue.function, taken.job.id ?? ''),
      acceptedAtMs: taken.job.timestamp,
      bodyStored: false,
    }
  }

  /** The body of CALL, or how a call without one ends. */
  async function bodyOf(call: Call): Promise<Uint8Array | Completion> {
    const body = call.bodyStored ? await commands.getBuffer(keys.body(call.callId)) : call.request.body
    if (body === null) return { outcome: 'expired', message: 'the body of this call is no longer stored' }
    if (body.byteLength <= bodyMaxBytes) return body
    const message = `the body has ${body.byteLength} bytes; the limit is ${bodyMaxBytes}`
    return { outcome: 'too_large', message }
  }

  async function invocationOf(
    call: Call,
    { job }: TakenJob,
    name: string,
    startedAtMs: number,
  ): Promise<Invocation | Completion> {
    if (job.deferredFailure) return { outcome: 'crash', message: STALLED, final: true }
    if (call.expiresAtMs !== undefined && startedAtMs > call.expiresAtMs) return { outcome: 'expired' }
    const body = await bodyOf(call)
    if (!(body instanceof Uint8Array)) return body
    return {
      callId: call.callId,
      function: name,
      attempt: Math.max(1, job.attemptsStarted),
      enqueuedAtMs: Math.round(call.acceptedAtMs),
      request: { ...call.request, body },
    }
  }

  async function open(queue: FunctionQueue, taken: TakenJob, lease: Lease): Promise<TakenCall> {
    const { job } = taken
    const startedAtMs = preciseNowMs()
    const parsed = parse(queue, taken)
    const isRefused = 'outcome' in parsed
    const call = isRefused ? parsed : await invocationOf(parsed, taken, queue.function, startedAtMs)
    const attempt = { job, lease, call: isRefused ? envelope(queue, taken) : parsed, startedAtMs }
    return {
      function: queue.function,
      id: lease.jobId,
      call,
      attempt: Math.max(1, job.attemptsStarted),
      attemptsLeft: Math.max(0, (job.opts.attempts ?? 1) - job.attemptsMade - 1),
      signal: lease.signal,
      renew: () => leases.renew(lease),
      retry: (completion) => settler.retry(attempt, completion),
      finish: (completion) => settler.finish(attempt, completion),
      giveBack: async () => {
        await queue.backend.moveJobFromActiveToWait(lease.jobId, lease.token)
      },
      release: () => leases.release(lease),
      abort: lease.abort,
    }
  }

  return async (queue: FunctionQueue, taken: TakenJob, token: string): Promise<TakenCall> => {
    const lease = leases.hold(queue, taken.job.id ?? '', token)
    try {
      return await open(queue, taken, lease)
    } catch (error) {
      leases.release(lease)
      throw error
    }
  }
}
