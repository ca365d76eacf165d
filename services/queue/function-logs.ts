// What functions wrote to stderr, read back from one capped stream per function (settle.ts writes it).
// Knows streams and lines; each follower has a connection of its own, because reading blocks it.

import { setTimeout as sleep } from 'node:timers/promises'
import { Overloaded } from '../contract/errors.ts'
import type { Log } from '../platform/log.ts'
import { openRedis, type RedisClient } from '../platform/redis.ts'

/** One line of one call's stderr; the time is that of the call's end. */
export interface LogEntry {
  readonly timestampMs: number
  readonly callId: string
  readonly text: string
}

export interface LogQuery {
  /** The last so many lines; all that are kept when left out. */
  readonly tail?: number
  readonly sinceMs?: number
  /** Go on until SIGNAL aborts. */
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

/** The reader of the streams at Redis REDISURL; `commands` is used for what does not block. */
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
      throw new Overloaded(`${FOLLOWERS_MAX} readers follow logs already; try again later`, 'ERR_NO_SLOT')
    followers++
    const redis = openRedis(redisUrl, {
      temper: 'patient',
      name: 'wherry-gateway-logs',
      onError: (error) => log.debug({ err: error }, 'Redis is away; the logs wait'),
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
            await sleep(RETRY_MS, undefined, { ...(signal && { signal }) }).catch(() => undefined) // only the caller's leaving ends it early
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
