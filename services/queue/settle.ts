// The end of an attempt on the durable lane: turns a completion into a completed, failed or waiting BullMQ
// job, the call's record, the reply to a waiting gateway, the log and the count. A final end is one
// transaction that takes effect only while the attempt owns its job, so a call is settled exactly once
// however often it ran.

import { createIORedisClient, type IRedisClient, type Job } from 'bullmq'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  failedReasonOf,
  recordOf,
  replyOf,
  returnValueOf,
  storedResultOf,
  type StoredRecord,
} from '../contract/call-end.ts'
import type { CallRecord, Completion } from '../contract/call-record.ts'
import type { Log } from '../platform/log.ts'
import { isRedisAway, type RedisClient } from '../platform/redis.ts'
import { isGatewayCall, type Envelope } from './job-data.ts'
import { FINISHED_TTL_MS, WAITING_TTL_MS, keysOf } from './keys.ts'
import type { Lease } from './leases.ts'
import { valuesOf } from './record.ts'
import { SETTLE } from './scripts.ts'

export interface Attempt {
  readonly job: Job
  readonly lease: Lease
  readonly call: Envelope
  /** Unix milliseconds with a fraction. */
  readonly startedAtMs: number
}

/** All resolve with the record that was written, or undefined when the job was no longer ours. */
export interface Settler {
  /** Hand the job to BullMQ's retry; `refused` when its backoff is unknown. */
  retry(attempt: Attempt, completion: Completion): Promise<CallRecord | undefined | 'refused'>
  finish(attempt: Attempt, completion: Completion): Promise<CallRecord | undefined>
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
const RETRY_MS = 200

/** An end, ready to be written. */
interface Written {
  readonly record: StoredRecord
  readonly recordText: string
  readonly completion: Completion
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

  function write(attempt: Attempt, completion: Completion, state: 'queued' | 'finished'): Written {
    const { job, call, startedAtMs } = attempt
    const facts = {
      callId: call.callId,
      function: job.queueName,
      worker: workerName,
      attempt: Math.max(1, job.attemptsStarted),
      acceptedAtMs: call.acceptedAtMs,
      startedAtMs,
      delayMs: job.opts.delay ?? 0,
    }
    const record = recordOf(facts, completion, state)
    return { record, recordText: JSON.stringify(record), completion }
  }

  function settleArgs(
    { job, lease, call }: Attempt,
    { record, recordText, completion }: Written,
  ): Array<string | number | Uint8Array> {
    const final = record.state === 'finished'
    const { backend } = lease.queue
    const result = storedResultOf(completion)
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
      Buffer.from(result.buffer, result.byteOffset, result.byteLength),
      final && call.replyTo !== undefined ? keys.reply(call.replyTo) : '',
      final ? job.queueName : '',
      (record.log ?? '').slice(-LOG_ENTRY_MAX_CHARS),
      call.callId,
      LOG_ENTRIES_MAX,
      // A failed call may be retried by hand for as long as its record exists.
      final && call.bodyStored ? (record.outcome === 'ok' ? 0 : FINISHED_TTL_MS) : '',
      final && call.replyTo !== undefined ? JSON.stringify(replyOf(record)) : '',
    ]
  }

  function moveArgs(attempt: Attempt, written: Written): unknown[] {
    const { job, lease, call } = attempt
    const { backend } = lease.queue
    if (written.record.outcome === 'ok') {
      const withoutBody = written.record.resultStored === true && isGatewayCall(call, job.id ?? '')
      return backend.moveToCompletedArgs(
        job,
        JSON.stringify(returnValueOf(written.record, written.completion, withoutBody)),
        job.opts.removeOnComplete as boolean,
        lease.token,
        false,
      )
    }
    const failedReason = failedReasonOf(written.record)
    return backend.moveToFailedArgs(job, failedReason, job.opts.removeOnFail as boolean, lease.token, false, {
      failedReason,
      stacktrace: JSON.stringify(job.stacktrace ?? []),
    })
  }

  /** One transaction; true when this attempt's end is the one that counts. */
  async function endJob(attempt: Attempt, written: Written): Promise<boolean> {
    const multi = client.multi()
    multi.runCommand('eval', settleArgs(attempt, written))
    attempt.lease.queue.backend.execCommand(multi, 'moveToFinished', moveArgs(attempt, written))
    const [settled, moved] = valuesOf(await multi.exec())
    if (settled === 1) {
      if (moved !== 0)
        log.error(
          { job: attempt.lease.jobId, function: attempt.job.queueName, code: moved },
          'BullMQ refused the end of a job that was ours',
        )
      return true
    }
    // Either the job is not ours any more, or an earlier try reached Redis and only its answer was lost.
    return (await commands.get(keys.call(attempt.call.callId))) === written.recordText
  }

  async function tryAgain(attempt: Attempt, written: Written): Promise<'done' | 'lost' | 'refused'> {
    const settled = await client.runCommand('eval', settleArgs(attempt, written))
    if (settled !== 1)
      return (await commands.get(keys.call(attempt.call.callId))) === written.recordText ? 'done' : 'lost'
    try {
      await attempt.job.moveToFailed(new Error(failedReasonOf(written.record)), attempt.lease.token)
    } catch (error) {
      if (isRedisAway(error)) throw error
      // The lock was lost between the two steps, and BullMQ checks it, too.
      if (error instanceof Error && 'code' in error) return 'lost'
      log.warn(
        { err: error, job: attempt.lease.jobId, function: attempt.job.queueName },
        'the backoff of a job is unknown; the job is not retried',
      )
      return 'refused'
    }
    return 'done'
  }

  /** Repeat STEP until Redis has answered it. */
  async function insist<T>(step: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await step()
      } catch (error) {
        if (!isRedisAway(error) || closing.aborted) throw error
        // Only `closing` ends the sleep early, and the next failure then throws.
        await sleep(RETRY_MS, undefined, { signal: closing }).catch(() => undefined)
      }
    }
  }

  return {
    async retry(attempt, completion) {
      const written = write(attempt, completion, 'queued')
      const tried = await insist(() => tryAgain(attempt, written))
      if (tried === 'refused') return 'refused'
      return tried === 'done' ? written.record : undefined
    },
    async finish(attempt, completion) {
      const written = write(attempt, completion, 'finished')
      return (await insist(() => endJob(attempt, written))) ? written.record : undefined
    },
  }
}
