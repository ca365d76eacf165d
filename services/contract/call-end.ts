// From the completion of an attempt to the record that is stored, the reply that is published to a waiting
// gateway, and the return value that a BullMQ producer reads. Pure. The types of a result, in order:
// ContainerExit, Completion, CallRecord, CallReply, FinishedCall.

import { isUtf8 } from 'node:buffer'
import type { CallRecord, CallReply, Completion, Phases } from './call-record.ts'
import { defined } from './defined.ts'
import { INLINE_MAX_BYTES } from './invocation.ts'
import { OUTCOME_RULES, type Outcome } from './outcome.ts'

/** A record as it is stored; `resultStored`: the result's bytes are in a key beside it. */
export type StoredRecord = CallRecord & { readonly resultStored?: true }

/** What the queue knows about an attempt; times in Unix milliseconds, with fractions. */
export interface AttemptFacts {
  readonly callId: string
  readonly function: string
  readonly worker: string
  readonly attempt: number
  readonly acceptedAtMs: number
  readonly startedAtMs: number
  /** Time that the producer asked the call to wait. */
  readonly delayMs: number
}

const MESSAGE_MAX_CHARS = 2_000
/** How much of the function's log a reply carries. */
const REPLY_LOG_MAX_CHARS = 4_096
const NO_BYTES = new Uint8Array()
const NO_PHASES = { pull: 0, create: 0, init: 0, run: 0 } as const

const round = (ms: number): number => Math.round(Math.max(0, ms) * 1000) / 1000

const encodingOf = (bytes: Uint8Array): 'utf8' | 'base64' => (isUtf8(bytes) ? 'utf8' : 'base64')

/** BYTES as a string if they are UTF-8, otherwise as base64. */
export function encodeBody(bytes: Uint8Array): {
  readonly body: string
  readonly encoding: 'utf8' | 'base64'
} {
  const encoding = encodingOf(bytes)
  return { body: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString(encoding), encoding }
}

function phasesOf(facts: AttemptFacts, { phases = NO_PHASES, endedAt }: Completion): Phases {
  return {
    queue: round(facts.startedAtMs - facts.acceptedAtMs - facts.delayMs),
    pull: round(phases.pull),
    create: round(phases.create),
    init: round(phases.init),
    run: round(phases.run),
    settle: endedAt === undefined ? 0 : round(performance.now() - endedAt),
  }
}

/** The bytes that are stored in a key beside the record: a result over INLINE_MAX_BYTES, else none. */
export const storedResultOf = ({ body = NO_BYTES }: Completion): Uint8Array =>
  body.byteLength > INLINE_MAX_BYTES ? body : NO_BYTES

/** The record of an attempt that ended with COMPLETION; STATE is `queued` if another attempt follows. */
export function recordOf(
  facts: AttemptFacts,
  completion: Completion,
  state: 'queued' | 'finished',
): StoredRecord {
  const { outcome, message } = completion
  const { about, httpStatus } = OUTCOME_RULES[outcome]
  const stored = storedResultOf(completion)
  const isStored = stored.byteLength > 0
  const result = isStored
    ? { body: '', encoding: encodingOf(stored) }
    : encodeBody(completion.body ?? NO_BYTES)
  return {
    callId: facts.callId,
    function: facts.function,
    state,
    attempt: facts.attempt,
    enqueuedAtMs: Math.round(facts.acceptedAtMs),
    startedAtMs: Math.round(facts.startedAtMs),
    finishedAtMs: Date.now(),
    outcome,
    status: httpStatus,
    ...(outcome !== 'ok' && { message: (message ?? about).slice(0, MESSAGE_MAX_CHARS) }),
    worker: facts.worker,
    phases: phasesOf(facts, completion),
    ...defined({
      exitCode: completion.exitCode,
      signal: completion.signal,
      imageDigest: completion.imageDigest,
      usage: completion.usage,
      start: completion.start,
    }),
    ...(completion.contentType !== undefined && {
      result: { contentType: completion.contentType, ...result },
    }),
    ...defined({ log: completion.log, logTruncated: completion.logTruncated }),
    ...(isStored && { resultStored: true }),
  }
}

/** RECORD after its call ended without a worker. */
export function endedRecord(record: CallRecord, outcome: Outcome, message: string): StoredRecord {
  return {
    ...record,
    state: 'finished',
    finishedAtMs: Date.now(),
    outcome,
    status: OUTCOME_RULES[outcome].httpStatus,
    message,
  }
}

/** The reply to a call that ended without a worker. */
export function endedReply({ callId }: CallRecord, outcome: Outcome, message: string): CallReply {
  return { callId, outcome, status: OUTCOME_RULES[outcome].httpStatus, message }
}

/** The reply to the waiting caller of RECORD's call; undefined until it has ended. */
export function replyOf(record: StoredRecord): CallReply | undefined {
  const { callId, state, outcome, status, message, exitCode, signal, phases, result, resultStored } = record
  if (state !== 'finished' || outcome === undefined) return undefined
  const log = outcome === 'ok' ? undefined : record.log?.slice(-REPLY_LOG_MAX_CHARS)
  return {
    callId,
    outcome,
    ...defined({ status, message, exitCode, signal, phases, result, resultStored, log }),
  }
}

/**
 * The return value of a job as in docs/queue-contract.md; WITHOUTBODY if the result is stored for the gateway
 * and must not be stored twice.
 */
export function returnValueOf(record: StoredRecord, completion: Completion, withoutBody: boolean): object {
  const { outcome, status, callId, phases, result } = record
  const head = { outcome, status, contentType: result?.contentType ?? '' }
  if (withoutBody) return { ...head, bodyStored: true, callId, phases }
  return { ...head, ...encodeBody(completion.body ?? NO_BYTES), callId, phases }
}

/** Why a job failed; producers match on the outcome, its first word. */
export const failedReasonOf = ({ outcome, message }: CallRecord): string => `${outcome}: ${message}`
