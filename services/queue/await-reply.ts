// Waiting for the end of an enqueued call: until a worker answers, the caller goes away, or a deadline
// passes. A call that no worker has taken by then is taken back, so that it does not run for a caller who has
// gone.

import type { Queue } from 'bullmq'
import { endedRecord, endedReply, replyOf } from '../contract/call-end.ts'
import type { CallRecord, CallReply } from '../contract/call-record.ts'
import type { Outcome } from '../contract/outcome.ts'
import { formatDuration } from '../contract/quantity.ts'
import type { Log } from '../platform/log.ts'
import type { RedisClient } from '../platform/redis.ts'
import { FINISHED_TTL_MS, type Keys } from './keys.ts'
import { parseRecord } from './record.ts'
import type { Expected } from './replies.ts'

export interface WaitOptions {
  /** The function's own timeout. */
  readonly timeoutMs: number
  /** How long the call may wait for a worker. */
  readonly queueWaitMs: number
  /** Aborts when the caller goes away. */
  readonly signal?: AbortSignal
}

export interface AwaitReplyDeps {
  readonly keys: Keys
  readonly ready: () => RedisClient
  readonly queueOf: (name: string) => Promise<Queue>
  readonly log: Log
}

/** How long a worker may take to answer beyond the function's timeout. */
export const ANSWER_GRACE_MS = 30_000

export function createAwaitReply({ keys, ready, queueOf, log }: AwaitReplyDeps) {
  /** Take the call back unless a worker has it; returns its reply, which may be a worker's, or undefined. */
  async function takeBack(
    record: CallRecord,
    outcome: Outcome,
    message: string,
  ): Promise<CallReply | undefined> {
    try {
      const queue = await queueOf(record.function)
      if ((await queue.remove(record.callId)) === 0) return undefined
      // A worker writes the record in the same step that ends the job, so a stored end is the true one.
      const written = parseRecord(await ready().get(keys.call(record.callId)))
      if (written?.state === 'finished') return replyOf(written)
      const last = endedRecord(record, outcome, message)
      await ready()
        .pipeline()
        .set(keys.call(record.callId), JSON.stringify(last), 'PX', FINISHED_TTL_MS)
        .del(keys.body(record.callId))
        .exec()
      return replyOf(last)
    } catch (error) {
      log.debug({ err: error, callId: record.callId }, 'a call could not be taken back')
      return undefined
    }
  }

  return async (record: CallRecord, expected: Expected, options: WaitOptions): Promise<CallReply> => {
    const { timeoutMs, queueWaitMs, signal } = options
    let answer = await expected.wait(queueWaitMs, signal)
    if (answer === 'late') {
      const message = `no worker took the call within ${formatDuration(queueWaitMs)}`
      const back = await takeBack(record, 'no_capacity', message)
      if (back !== undefined) return back
      answer = await expected.wait(timeoutMs + ANSWER_GRACE_MS, signal)
    }
    if (typeof answer === 'object') return answer
    switch (answer) {
      case 'aborted':
        return (
          (await takeBack(record, 'cancelled', 'the caller went away')) ??
          endedReply(record, 'cancelled', 'the caller went away while the call was running')
        )
      case 'stopped':
        return endedReply(
          record,
          'no_capacity',
          'the gateway stopped while the call was waiting; see the call’s record for how it ends',
        )
      case 'late': {
        const waitedMs = queueWaitMs + timeoutMs + ANSWER_GRACE_MS
        return (
          (await takeBack(record, 'no_capacity', 'the call’s worker fell silent, and no other took it')) ??
          endedReply(
            record,
            'timeout',
            `no answer within ${waitedMs} ms; see the call’s record for whether it still ends`,
          )
        )
      }
    }
  }
}
