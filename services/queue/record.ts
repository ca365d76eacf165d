// The text of a CallRecord in Redis and in a reply.  A result over INLINE_MAX_BYTES is kept in a key of
// its own (`resultStored`), so that records and replies stay small.  Knows the layout; fetches nothing.

import type { CallRecord } from '../contract/call-record.ts'
import { isOutcome, type Outcome } from '../contract/outcome.ts'

export type StoredRecord = CallRecord & { readonly resultStored?: true }

const STATES = new Set<unknown>(['queued', 'active', 'finished'])

/** TEXT as a record, or undefined when it is none. */
export function parseRecord(text: string | null | undefined): StoredRecord | undefined {
  if (text === null || text === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined // whoever wrote this was not us
  }
  if (typeof value !== 'object' || value === null) return undefined
  const record = value as Partial<StoredRecord>
  const sound =
    typeof record.callId === 'string' &&
    typeof record.function === 'string' &&
    STATES.has(record.state) &&
    typeof record.attempt === 'number' &&
    typeof record.enqueuedAtMs === 'number' &&
    (record.outcome === undefined || isOutcome(record.outcome)) &&
    (record.state !== 'finished' || record.outcome !== undefined)
  return sound ? (value as StoredRecord) : undefined
}

/** The bytes of a result that rides inside its record. */
export function inlineBody(record: StoredRecord): Uint8Array {
  return record.result === undefined
    ? new Uint8Array()
    : Buffer.from(record.result.body, record.result.encoding)
}

/** A call that ended without a worker's word. */
export function ended(record: CallRecord, outcome: Outcome, message: string): CallRecord {
  return {
    ...record,
    state: 'finished',
    finishedAtMs: Date.now(),
    outcome,
    message,
  }
}

/** The answers of a pipeline or transaction; throws the first error among them. */
export function valuesOf(answers: ReadonlyArray<[error: Error | null, value: unknown]> | null): unknown[] {
  return (answers ?? []).map(([error, value]) => {
    if (error) throw error
    return value
  })
}
