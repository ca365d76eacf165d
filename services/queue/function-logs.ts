// The stderr of functions, read from one capped stream per function that settle.ts writes. Each follower has
// its own connection, because a read that waits blocks it.

import { setTimeout as sleep } from 'node:timers/promises'
import { defined } from '../contract/defined.ts'
import { Overloaded } from '../contract/errors.ts'
import type { Log } from '../platform/log.ts'
import { openRedis, type RedisClient } from '../platform/redis.ts'

/** One line of one call's stderr; its time is the end of the call. */
export interface LogEntry {
  readonly timestampMs: number
  readonly callId: string
  readonly text: string
}

export interface LogQuery {
  /** How many of the last lines; all stored lines by default. */
  readonly tail?: number
  readonly sinceMs?: number
  /** Continue with new lines until SIGNAL aborts. */
  readonly follow?: boolean
  readonly signal?: AbortSignal
}

const ENTRIES_MAX = 1_100
const FOLLOWERS_MAX = 32
const BLOCK_MS = 5_000
const RETRY_MS = 500

type StreamEntry = [id: string, fields: string[]]

function linesOf([id, fields]: StreamEntry): LogEntry[] {
  const values = new Map<string, string>()
  for (let i = 0; i + 1 < fields.length; i += 2) values.set(fields[i]!, fields[i + 1]!)
  const timestampMs = Number(id.split('-')[0])
  const lines = (values.get('text') ?? '').split('\n')
  if (lines.at(-1) === '') lines.pop()
  return lines.map((text) => ({ timestampMs, callId: values.get('callId') ?? '', text }))
}

/**
 * A reader of the streams in the Redis at REDISURL; `commands` gives the connection for reads that do not
 * wait.
 */
export function createLogReader({
  redisUrl,
  commands,
  log,
}: {
  redisUrl: string
  commands: () => RedisClient
  log: Log
}): (key: string, query: LogQuery) => AsyncIterable<LogEntry> {
  let followers = 0

  async function* follow(
    key: string,
    afterId: string,
    signal: AbortSignal | undefined,
  ): AsyncIterable<LogEntry> {
    if (followers >= FOLLOWERS_MAX)
      throw new Overloaded(`${FOLLOWERS_MAX} readers already follow logs; try again later`, 'ERR_NO_SLOT')
    followers++
    const redis = openRedis(redisUrl, {
      temper: 'patient',
      name: 'wherry-gateway-logs',
      onError: (error) => log.debug({ err: error }, 'Redis is away; followed logs pause'),
    })
    const abort = (): void => redis.disconnect()
    signal?.addEventListener('abort', abort)
    let last = afterId
    try {
      for (;;) {
        if (signal?.aborted) return
        const answer = await redis
          .xread('COUNT', ENTRIES_MAX, 'BLOCK', BLOCK_MS, 'STREAMS', key, last)
          .catch(async (error: unknown) => {
            if (!signal?.aborted) log.debug({ err: error }, 'following a log was interrupted')
            // Only SIGNAL ends the sleep early, and the loop checks it.
            await sleep(RETRY_MS, undefined, defined({ signal })).catch(() => undefined)
            return null
          })
        for (const entry of answer?.[0]?.[1] ?? []) {
          last = entry[0]
          yield* linesOf(entry)
        }
      }
    } finally {
      signal?.removeEventListener('abort', abort)
      redis.disconnect()
      followers--
    }
  }

  return async function* read(key, query) {
    const tail = query.tail === undefined ? ENTRIES_MAX : Math.max(0, Math.floor(query.tail))
    const since = query.sinceMs === undefined ? '-' : String(Math.max(0, Math.floor(query.sinceMs)))
    const newestFirst = await commands().xrevrange(
      key,
      '+',
      since,
      'COUNT',
      Math.min(ENTRIES_MAX, Math.max(1, tail)),
    )
    const lines = newestFirst.toReversed().flatMap(linesOf)
    if (tail > 0) yield* query.tail === undefined ? lines : lines.slice(-tail)
    if (query.follow === true) yield* follow(key, newestFirst[0]?.[0] ?? '0-0', query.signal)
  }
}
