// The door between a lane, a way by which calls arrive, and the code that serves them. Only a lane knows how
// a call is taken, held and answered; the durable lane does it with BullMQ (durable-source.ts).
// serve-calls.ts and attempt.ts use nothing else of a lane.

import type { CallRecord, Completion } from '../contract/call-record.ts'
import type { Invocation } from '../contract/invocation.ts'

/** One attempt of one call, held by this worker until the call is retried, finished or given back. */
export interface TakenCall {
  readonly function: string
  /** The lane's name for it, for logs. */
  readonly id: string
  /** The call, or how it ends without being served: it has expired, or it is invalid. */
  readonly call: Invocation | Completion
  /** Counts from 1. */
  readonly attempt: number
  /** How many more attempts the producer allows. */
  readonly attemptsLeft: number
  /** Aborts when the call is no longer this worker's, or when the worker stops. */
  readonly signal: AbortSignal
  /**
   * Extend the lease; false when it is lost. The lane also renews all of its calls periodically, in one
   * batch.
   */
  renew(): Promise<boolean>
  /**
   * Record the end of this attempt and queue another. Resolves with the record, with undefined when the call
   * was no longer ours, or with `refused` when the lane cannot retry it.
   */
  retry(completion: Completion): Promise<CallRecord | undefined | 'refused'>
  /** End the call.  Resolves with its record, or undefined when it was no longer ours. */
  finish(completion: Completion): Promise<CallRecord | undefined>
  /** Put the call back at the front of its queue. */
  giveBack(): Promise<void>
  /** Stop holding the call: after each of the ends above, and after an error. */
  release(): void
  /** Abort `signal`. */
  abort(reason: Error): void
}

/** Work that a lane has announced. */
export interface Announced {
  /** The call, or undefined when none is due any more.  Throws what Redis throws. */
  take(): Promise<TakenCall | undefined>
  /** Leave it to another worker. */
  pass(): void
}

/** The worker's end of a lane.  `stop` may be called twice, and without `start`. */
export interface CallSource {
  start(): void
  /** Announce nothing more, and make a waiting `next` return. */
  quiet(): void
  stop(): Promise<void>
  /** Serve exactly these functions from now on. */
  watch(functions: readonly string[]): void
  /** Wait for work; undefined when there was none for a while. */
  next(): Promise<Announced | undefined>
  /** Calls that this worker holds. */
  readonly held: Iterable<TakenCall> & { readonly size: number }
}
