// The end of an attempt: from an outcome to BullMQ's completed, failed or waiting job, the call's record,
// the reply to a waiting gateway, the log and the count.  For a final end all of it is one transaction
// that happens only while the attempt owns its job, so a call is settled exactly once however often it
// ran.  Decides whether a job is tried again; does not know how an outcome came about.

import { createIORedisClient, type IRedisClient, type Job } from 'bullmq'
import { setTimeout as sleep } from 'node:timers/promises'
import type { CallRecord, Completion, Phases } from '../contract/call-record.ts'
import { INLINE_MAX_BYTES } from '../contract/invocation.ts'
import { OUTCOME_RULES, type Outcome } from '../contract/outcome.ts'
import type { Log } from '../platform/log.ts'
import { isRedisAway, type RedisClient } from '../platform/redis.ts'
import { encodeBody, isGatewayCall, type Envelope } from './job-data.ts'
import { FINISHED_TTL_MS, WAITING_TTL_MS, keysOf } from './keys.ts'
import type { Lease } from './leases.ts'
import { valuesOf } from './record.ts'
import { SETTLE } from './scripts.ts'

/** How an attempt ended; without a completion it did not get as far as a container. */
export interface Ending {
  readonly outcome: Outcome
  readonly message?: string
  readonly completion?: Completion
  /** Another attempt cannot end differently, whatever the outcome's rule says. */
  readonly hopeless?: boolean
}

export interface Attempt {
  readonly job: Job
  readonly lease: Lease
  readonly call: Envelope
  /** With fraction. */
  readonly startedAtMs: number
}

export interface Settler {
  /** Resolves with the record that was written, or undefined when the job was no longer ours. */
  settle(attempt: Attempt, ending: Ending): Promise<CallRecord | undefined>
}

export interface SettlerDeps {
  readonly commands: RedisClient
  readonly prefix: string
  readonly workerName: string
  readonly lockDurationMs: number
  /** Ends waiting for a Redis that is away. */
  readonly closing: AbortSignal
  readonly log: Log
}

const LOG_ENTRIES_MAX = 1_000
const LOG_ENTRY_MAX_CHARS = 16 * 1024
const MESSAGE_MAX_CHARS = 2_000
const RETRY_MS = 200
const NO_BYTES = new Uint8Array()

const round = (ms: number): number => Math.round(Math.max(0, ms) * 1000) / 1000

interface Written {
  readonly record: CallRecord
  readonly recordText: string
  readonly storedResult: Uint8Array
}

export function createSettler({
  commands,
  prefix,
  workerName,
  lockDurationMs,
  closing,
  log,
}: SettlerDeps): Settler {
  const keys = keysOf(prefix)
  const client: IRedisClient = createIORedisClient(commands)

  function phasesOf(attempt: Attempt, completion: Completion | undefined): Phases {
    const none = { pull: 0, create: 0, init: 0, run: 0 }
    const { pull, create, init, run } = completion?.phases ?? none
    return {
      queue: round(attempt.startedAtMs - attempt.call.acceptedAtMs - (attempt.job.opts.delay ?? 0)),
      pull: round(pull),
      create: round(create),
      init: round(init),
      run: round(run),
      settle: completion === undefined ? 0 : round(performance.now() - completion.endedAt),
    }
  }

  function write(
    attempt: Attempt,
    { outcome, message, completion }: Ending,
    state: 'queued' | 'finished',
  ): Written {
    const { job, call } = attempt
    const encoded = encodeBody(completion?.body ?? NO_BYTES)
    const stored = (completion?.body.byteLength ?? 0) > INLINE_MAX_BYTES
    const record: CallRecord = {
      callId: call.callId,
      function: job.queueName,
      state,
      attempt: Math.max(1, job.attemptsStarted),
      enqueuedAtMs: Math.round(call.acceptedAtMs),
      startedAtMs: Math.round(attempt.startedAtMs),
      finishedAtMs: Date.now(),
      outcome,
      ...(outcome !== 'ok' && {
        message: (message ?? OUTCOME_RULES[outcome].about).slice(0, MESSAGE_MAX_CHARS),
      }),
      worker: workerName,
      phases: phasesOf(attempt, completion),
      ...(completion && {
        ...(completion.exitCode !== undefined && { exitCode: completion.exitCode }),
        ...(completion.signal !== undefined && { signal: completion.signal }),
        ...(completion.imageDigest !== undefined && { imageDigest: completion.imageDigest }),
        ...(completion.usage !== undefined && { usage: completion.usage }),
        start: completion.start,
        result: { contentType: completion.contentType, ...encoded },
        log: completion.log,
        logTruncated: completion.logTruncated,
      }),
    }
    const text = stored ? { ...record, result: { ...record.result, body: '' }, resultStored: true } : record
    return {
      record,
      recordText: JSON.stringify(text),
      storedResult: stored ? (completion?.body ?? NO_BYTES) : NO_BYTES,
    }
  }

  function settleArgs(
    { job, lease, call }: Attempt,
    { record, recordText, storedResult }: Written,
  ): Array<string | number | Uint8Array> {
    const final = record.state === 'finished'
    const { backend } = lease.lane
    return [
      SETTLE.lua,
      SETTLE.keysCount,
      `${backend.toKey(lease.jobId)}:lock`,
      backend.toKey('active'),
      keys.call(call.callId),
      keys.result(call.callId),
      keys.counts,
      keys.logs(job.queueName),
      backend.toKey('wait'),
      backend.toKey('prioritized'),
      backend.toKey('marker'),
      keys.body(call.callId),
      lease.jobId,
      lease.token,
      lockDurationMs,
      recordText,
      final ? FINISHED_TTL_MS : WAITING_TTL_MS,
      Buffer.from(storedResult.buffer, storedResult.byteOffset, storedResult.byteLength),
      final && call.replyTo !== undefined ? keys.reply(call.replyTo) : '',
      final ? job.queueName : '',
      (record.log ?? '').slice(-LOG_ENTRY_MAX_CHARS),
      call.callId,
      LOG_ENTRIES_MAX,
      // A call that did not end well may be tried again by hand as long as its record is there.
      final && call.bodyStored ? (record.outcome === 'ok' ? 0 : FINISHED_TTL_MS) : '',
    ]
  }

  /** What a producer reads as the job's return value. */
  function returnValue({ call, job }: Attempt, { record, storedResult }: Written): string {
    const { outcome, callId, phases } = record
    const head = { outcome, status: 200, contentType: record.result?.contentType ?? '' }
    // Where the result is kept for the gateway it is not kept twice.
    if (storedResult.byteLength > 0 && isGatewayCall(call, job.id ?? ''))
      return JSON.stringify({ ...head, bodyStored: true, callId, phases })
    return JSON.stringify({
      ...head,
      body: record.result?.body ?? '',
      encoding: record.result?.encoding ?? 'utf8',
      callId,
      phases,
    })
  }

  function moveArgs(attempt: Attempt, written: Written): unknown[] {
    const { job, lease } = attempt
    const { backend } = lease.lane
    if (written.record.outcome === 'ok') {
      return backend.moveToCompletedArgs(
        job,
        returnValue(attempt, written),
        job.opts.removeOnComplete as boolean,
        lease.token,
        false,
      )
    }
    const failedReason = reasonOf(written.record)
    return backend.moveToFailedArgs(job, failedReason, job.opts.removeOnFail as boolean, lease.token, false, {
      failedReason,
      stacktrace: JSON.stringify(job.stacktrace ?? []),
    })
  }

  /** One transaction; true when this attempt's end is the one that counts. */
  async function finish(attempt: Attempt, written: Written): Promise<boolean> {
    const multi = client.multi()
    multi.runCommand('eval', settleArgs(attempt, written))
    attempt.lease.lane.backend.execCommand(multi, 'moveToFinished', moveArgs(attempt, written))
    const [settled, moved] = valuesOf(await multi.exec())
    if (settled === 1) {
      if (moved !== 0)
        log.error(
          { job: attempt.lease.jobId, function: attempt.job.queueName, code: moved },
          'BullMQ refused the end of a job that was ours',
        )
      return true
    }
    // Lost, or this is a second try and the first had reached Redis before its answer was lost.
    return (await commands.get(keys.call(attempt.call.callId))) === written.recordText
  }

  /** Hand the job to BullMQ's retry; `refused` when its backoff cannot be understood. */
  async function tryAgain(attempt: Attempt, written: Written): Promise<'done' | 'lost' | 'refused'> {
    const settled = await client.runCommand('eval', settleArgs(attempt, written))
    if (settled !== 1)
      return (await commands.get(keys.call(attempt.call.callId))) === written.recordText ? 'done' : 'lost'
    try {
      await attempt.job.moveToFailed(new Error(reasonOf(written.record)), attempt.lease.token)
    } catch (error) {
      if (isRedisAway(error)) throw error
      if (error instanceof Error && 'code' in error) return 'lost' // between the two steps: BullMQ's own fence
      log.warn(
        { err: error, job: attempt.lease.jobId, function: attempt.job.queueName },
        'the backoff of a job is not understood; it is not tried again',
      )
      return 'refused'
    }
    return 'done'
  }

  /** STEP again until Redis has answered it. */
  async function insist<T>(step: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await step()
      } catch (error) {
        if (!isRedisAway(error) || closing.aborted) throw error
        await sleep(RETRY_MS, undefined, { signal: closing }).catch(() => undefined) // only `closing` ends it early
      }
    }
  }

  return {
    async settle(attempt, ending) {
      const { job } = attempt
      const attemptsLeft = job.attemptsMade + 1 < (job.opts.attempts ?? 1)
      if (
        ending.outcome !== 'ok' &&
        attemptsLeft &&
        OUTCOME_RULES[ending.outcome].retryable &&
        ending.hopeless !== true
      ) {
        const written = write(attempt, ending, 'queued')
        const tried = await insist(() => tryAgain(attempt, written))
        if (tried !== 'refused') return tried === 'done' ? written.record : undefined
      }
      const written = write(attempt, ending, 'finished')
      return (await insist(() => finish(attempt, written))) ? written.record : undefined
    },
  }
}

/** The first word is the outcome: producers match on it. */
function reasonOf(record: CallRecord): string {
  return `${record.outcome}: ${record.message}`
}
