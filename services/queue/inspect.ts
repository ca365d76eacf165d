// Reads of calls and queues; nothing here writes. A call's record is written when the call is accepted and
// when an attempt ends; its state in between comes from BullMQ's keys.

import { encodeBody } from '../contract/call-end.ts'
import type { CallRecord } from '../contract/call-record.ts'
import type { RedisClient } from '../platform/redis.ts'
import { keysOf } from './keys.ts'
import { parseRecord, valuesOf } from './record.ts'

/** A function's jobs by state. */
export interface Depth {
  readonly waiting: number
  readonly active: number
  readonly delayed: number
  readonly failed: number
}

const CHUNK_FUNCTIONS = 500
const COMMANDS_PER_FUNCTION = 5

/**
 * The record with its result, or undefined when it never existed or has expired.  Throws what REDIS throws.
 */
export async function findCall(
  redis: RedisClient,
  prefix: string,
  callId: string,
): Promise<CallRecord | undefined> {
  const keys = keysOf(prefix)
  const record = parseRecord(await redis.get(keys.call(callId)))
  if (record === undefined) return undefined
  const { resultStored, ...rest } = record
  if (record.state !== 'finished') return await withState(redis, keys.queue(record.function, callId), rest)
  if (resultStored !== true || rest.result === undefined) return rest
  const bytes = await redis.getBuffer(keys.result(callId))
  return { ...rest, result: { ...rest.result, ...encodeBody(bytes ?? new Uint8Array()) } }
}

/** RECORD as `active` if a worker has the job, which then has a lock. */
async function withState(redis: RedisClient, jobKey: string, record: CallRecord): Promise<CallRecord> {
  const [locked, fields] = valuesOf(
    await redis.pipeline().exists(`${jobKey}:lock`).hmget(jobKey, 'processedOn', 'pb', 'ats').exec(),
  )
  if (locked !== 1 || !Array.isArray(fields)) return record
  const [startedAtMs, worker, attempt] = fields
  return {
    ...record,
    state: 'active',
    startedAtMs: Number(startedAtMs),
    attempt: Math.max(1, Number(attempt)),
    ...(worker !== null && { worker: String(worker) }),
  }
}

/** Jobs by state of each of FUNCTIONS.  Throws what REDIS throws. */
export async function readDepths(
  redis: RedisClient,
  prefix: string,
  functions: readonly string[],
): Promise<Map<string, Depth>> {
  const keys = keysOf(prefix)
  const depths = new Map<string, Depth>()
  for (let i = 0; i < functions.length; i += CHUNK_FUNCTIONS) {
    const names = functions.slice(i, i + CHUNK_FUNCTIONS)
    const pipeline = redis.pipeline()
    for (const name of names) {
      pipeline
        .llen(keys.queue(name, 'wait'))
        .zcard(keys.queue(name, 'prioritized'))
        .llen(keys.queue(name, 'active'))
        .zcard(keys.queue(name, 'delayed'))
        .zcard(keys.queue(name, 'failed'))
    }
    const numbers = valuesOf(await pipeline.exec()).map(Number)
    for (const [j, name] of names.entries()) {
      const from = j * COMMANDS_PER_FUNCTION
      const [waiting = 0, prioritized = 0, active = 0, delayed = 0, failed = 0] = numbers.slice(
        from,
        from + COMMANDS_PER_FUNCTION,
      )
      depths.set(name, { waiting: waiting + prioritized, active, delayed, failed })
    }
  }
  return depths
}

/**
 * How many calls of each of FUNCTIONS have finished since it was first deployed.  Throws what REDIS throws.
 */
export async function readCounts(
  redis: RedisClient,
  prefix: string,
  functions: readonly string[],
): Promise<Map<string, number>> {
  if (functions.length === 0) return new Map()
  const counts = await redis.hmget(keysOf(prefix).counts, ...functions)
  return new Map(functions.map((name, i) => [name, Number(counts[i] ?? 0)]))
}
