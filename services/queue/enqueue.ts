// Putting a call into its function's queue: its id is claimed, then job, body and record are written in one
// transaction, so a call is accepted as a whole or not at all.

import { createIORedisClient, Job, type IRedisClient, type Queue } from 'bullmq'
import type { CallRecord } from '../contract/call-record.ts'
import { defined } from '../contract/defined.ts'
import { Conflict, InvalidRequest, Overloaded } from '../contract/errors.ts'
import type { Invocation } from '../contract/invocation.ts'
import { asOverloaded, type RedisClient } from '../platform/redis.ts'
import { preciseNowMs } from './clock.ts'
import { encodeJob, isCallId, REQUEST_JOB } from './job-data.ts'
import { FINISHED_TTL_MS, WAITING_TTL_MS, type Keys } from './keys.ts'
import { valuesOf } from './record.ts'
import { CLAIM } from './scripts.ts'

export interface EnqueueDeps {
  readonly keys: Keys
  /** The most calls that may wait in one function's queue. */
  readonly queueMax: number
  /** The connection; throws Overloaded when it does not work right now. */
  readonly ready: () => RedisClient
  readonly queueOf: (name: string) => Promise<Queue>
}

export interface EnqueueOptions {
  /** The gateway that waits for the reply. */
  readonly replyTo?: string
  readonly expiresInMs?: number
}

/** How long a call id is reserved for a job that is about to be added. */
const CLAIM_MS = 60_000
/** BullMQ keeps a gateway's newest finished jobs; the record holds everything else. */
const KEEP_JOBS = { age: FINISHED_TTL_MS / 1000, count: 1_000 } as const

/**
 * Puts an invocation into its queue; resolves with its record after Redis has accepted it. Throws Overloaded,
 * Conflict, InvalidRequest.
 */
export function createEnqueue({ keys, queueMax, ready, queueOf }: EnqueueDeps) {
  /** Reserve the call id, unless it is taken or the queue is full. */
  async function claim(record: CallRecord): Promise<void> {
    const { callId, function: name } = record
    const verdict = await ready().eval(
      CLAIM.lua,
      CLAIM.keysCount,
      keys.call(callId),
      keys.queue(name, 'wait'),
      keys.queue(name, callId),
      JSON.stringify(record),
      CLAIM_MS,
      queueMax,
    )
    if (verdict === 'taken') throw new Conflict(`a call "${callId}" already exists`, 'ERR_CALL_EXISTS')
    if (verdict === 'full')
      throw new Overloaded(
        `${queueMax} calls are already waiting for function "${name}"; try again later`,
        'ERR_QUEUE_FULL',
      )
  }

  /**
   * One transaction: no job without its body and record, and no record that says "queued" without its job.
   */
  async function accept(queue: Queue, invocation: Invocation, options: EnqueueOptions, acceptedAtMs: number) {
    const { callId } = invocation
    const { expiresInMs, replyTo } = options
    const expiresAtMs = expiresInMs === undefined ? undefined : acceptedAtMs + expiresInMs
    const { data, storedBody } = encodeJob(invocation, {
      acceptedAtMs,
      ...defined({ replyTo, expiresAtMs }),
    })
    const redis: IRedisClient = createIORedisClient(ready())
    const multi = redis.multi()
    multi.runCommand('pexpire', [keys.call(callId), WAITING_TTL_MS])
    if (storedBody) {
      const bytes = Buffer.from(storedBody.buffer, storedBody.byteOffset, storedBody.byteLength)
      multi.runCommand('set', [keys.body(callId), bytes, 'PX', WAITING_TTL_MS])
    }
    const job = new Job(
      queue,
      REQUEST_JOB,
      data,
      {
        jobId: callId,
        timestamp: Math.floor(acceptedAtMs),
        removeOnComplete: KEEP_JOBS,
        removeOnFail: KEEP_JOBS,
      },
      callId,
    )
    const added = queue.backend.addJobToTransaction(multi, job.asJSON(), callId)
    const [answers] = await Promise.all([multi.exec(), added])
    valuesOf(answers)
  }

  return async (invocation: Invocation, options: EnqueueOptions): Promise<CallRecord> => {
    const { callId, function: name } = invocation
    if (!isCallId(callId))
      throw new InvalidRequest([
        { path: 'callId', problem: 'must be 1 to 200 letters, digits, "_", "." or "-", and not only digits' },
      ])
    const acceptedAtMs = preciseNowMs()
    const record: CallRecord = {
      callId,
      function: name,
      state: 'queued',
      attempt: 1,
      enqueuedAtMs: Math.round(acceptedAtMs),
    }
    try {
      const queue = await queueOf(name)
      await claim(record)
      await accept(queue, invocation, options, acceptedAtMs)
      return record
    } catch (error) {
      throw asOverloaded(error)
    }
  }
}
