// Parsers for records and replies in Redis, which anyone with access to Redis can write. Behind this file
// they are trusted.

import type { StoredRecord } from '../contract/call-end.ts'
import type { CallReply } from '../contract/call-record.ts'
import { isOutcome } from '../contract/outcome.ts'
import { isPlainObject } from '../contract/plain-object.ts'

const STATES = new Set<unknown>(['queued', 'active', 'finished'])

function parseObject(text: string | null | undefined): Record<string, unknown> | undefined {
  if (text === null || text === undefined) return undefined
  try {
    const value: unknown = JSON.parse(text)
    return isPlainObject(value) ? value : undefined
  } catch {
    return undefined // not written by us
  }
}

/** TEXT as a record, or undefined when it is not one. */
export function parseRecord(text: string | null | undefined): StoredRecord | undefined {
  const record = parseObject(text)
  if (record === undefined) return undefined
  const sound =
    typeof record['callId'] === 'string' &&
    typeof record['function'] === 'string' &&
    STATES.has(record['state']) &&
    typeof record['attempt'] === 'number' &&
    typeof record['enqueuedAtMs'] === 'number' &&
    (record['outcome'] === undefined || isOutcome(record['outcome'])) &&
    (record['state'] !== 'finished' || record['outcome'] !== undefined)
  return sound ? (record as unknown as StoredRecord) : undefined
}

/** TEXT as a reply, or undefined when it is not one. */
export function parseReply(text: string): CallReply | undefined {
  const reply = parseObject(text)
  return typeof reply?.['callId'] === 'string' && isOutcome(reply['outcome'])
    ? (reply as unknown as CallReply)
    : undefined
}

/** The bytes of a result inside a record or reply. */
export function inlineBody({ result }: Pick<CallReply, 'result'>): Uint8Array {
  return result === undefined ? new Uint8Array() : Buffer.from(result.body, result.encoding)
}

/** The answers of a pipeline or transaction; throws the first error among them. */
export function valuesOf(answers: ReadonlyArray<[error: Error | null, value: unknown]> | null): unknown[] {
  return (answers ?? []).map(([error, value]) => {
    if (error) throw error
    return value
  })
}
