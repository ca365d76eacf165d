// The door between a lane, by which calls arrive, and everything that serves them.  A lane knows how a call is
// taken, kept and answered (the durable one: BullMQ); nothing else does.

import type { CallRecord, Completion } from '../contract/call-record.ts'
import type { Invocation } from '../contract/invocation.ts'

/** One attempt of one call, held by this worker until one of its ends. */
export interface TakenCall {
  readonly function: string
  /** For logs. */
  readonly id: string
  /** The call, or how it ends without being served: it expired, or what was sent is not a call. */
  readonly call: Invocation | Completion
  /** Counts from 1. */
  readonly attempt: number
  /** How many more attempts the producer allows. */
  readonly attemptsLeft: number
  /** Aborts when the call is no longer this worker's, or when the worker stops. */
  readonly signal: AbortSignal
  /** Keep the call for another lease; false when it is lost.  The lane also renews all its calls in one batch. */
  renew(): Promise<boolean>
  /**
   * Record the end of this attempt and let another follow.  Resolves with the record, undefined when the call
   * was no longer ours, or `refused` when the lane cannot retry it.
   */
  retry(completion: Completion): Promise<CallRecord | undefined | 'refused'>
  /** End the call.  Resolves with its record, or undefined when it was no longer ours. */
  finish(completion: Completion): Promise<CallRecord | undefined>
  /** Put the call back, first in line, for another worker. */
  giveBack(): Promise<void>
  /** Stop holding the call; after each of the ends above, and after an error. */
  release(): void
  abort(reason: Error): void
}

/** Work that a lane has announced. */
export interface Announced {
  /** The call, or undefined when there is none any more.  Throws what Redis throws. */
  take(): Promise<TakenCall | undefined>
  /** This worker will not take it: let another hear of it. */
  pass(): void
}

/** A way by which calls arrive.  `stop` works twice and without a start. */
export interface CallSource {
  start(): void
  /** Announce nothing more; `next` returns. */
  quiet(): void
  stop(): Promise<void>
  /** Serve exactly these functions from now on. */
  watch(functions: readonly string[]): void
  /** Wait for work; undefined: nothing came, ask again. */
  next(): Promise<Announced | undefined>
  /** Calls that are held now. */
  readonly held: Iterable<TakenCall> & { readonly size: number }
}
