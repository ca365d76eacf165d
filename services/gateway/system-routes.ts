// Read-only routes for operators and tools: health, metrics, version, workers, logs of a function.

import { Readable } from 'node:stream'
import { setImmediate } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import { defined } from '../contract/defined.ts'
import { InvalidRequest, NotFound, Overloaded, type Fault } from '../contract/errors.ts'
import type { FunctionStore } from '../functions/store.ts'
import type { Telemetry } from '../platform/telemetry.ts'
import type { Producer } from '../queue/producer.ts'
import release from '../../package.json' with { type: 'json' }

export interface SystemRouteDeps {
  readonly functions: FunctionStore
  readonly producer: Producer
  readonly telemetry: Telemetry
  /** Throws Overloaded until the functions are loaded. */
  readonly requireReady: () => void
  /** Aborted when the gateway stops: ends the streams of followers. */
  readonly stopping: AbortSignal
}

export const LOG_TAIL_MAX = 1000
/** Concurrent callers of ?follow=true; each uses a connection to Redis. */
export const FOLLOWERS_MAX = 32

/** Adds the read-only routes to APP. */
export function addSystemRoutes(
  app: FastifyInstance,
  { functions, producer, telemetry, requireReady, stopping }: SystemRouteDeps,
): void {
  let followers = 0

  // There is no separate liveness route: a gateway that answers is alive.  503 means "send no calls here".
  app.get('/healthz', async () => {
    requireReady()
    return { status: 'ok', workers: (await producer.workers()).length, functions: functions.list().length }
  })

  app.get('/metrics', async (request, reply) => {
    const { contentType, text } = await telemetry.scrape()
    return reply.type(contentType).send(text)
  })

  app.get('/system/info', async () => {
    const version = { sha: '', release: release.version }
    return {
      provider: { provider: 'wherry', orchestration: 'wherry', version },
      version: { commit_message: '', ...version },
      arch: process.arch === 'x64' ? 'x86_64' : process.arch,
    }
  })

  app.get('/system/workers', async () => producer.workers())

  app.get<{ Querystring: Record<string, unknown> }>('/system/logs', async (request, reply) => {
    requireReady()
    const { name, follow, ...range } = parseLogQuery(request.query)
    if (functions.get(name) === undefined)
      throw new NotFound(`there is no function "${name}"`, 'ERR_FUNCTION_NOT_FOUND')
    if (follow && followers >= FOLLOWERS_MAX)
      throw new Overloaded(`${FOLLOWERS_MAX} callers already follow logs`, 'ERR_NO_SLOT')
    const gone = new AbortController()
    if (follow) followers++
    reply.raw.once('close', () => {
      gone.abort()
      if (follow) followers--
    })
    const entries = producer.logs(name, {
      ...range,
      follow,
      signal: AbortSignal.any([gone.signal, stopping]),
    })
    return reply
      .type('application/x-ndjson')
      .send(Readable.from(logLines(name, await begun(entries, follow))))
  })
}

/**
 * ENTRIES once they are known to be readable: after the first byte of a reply its status can no longer
 * change.
 */
async function begun(entries: LogEntries, follow: boolean): Promise<LogEntries> {
  const iterator = entries[Symbol.asyncIterator]()
  const first = iterator.next()
  // A follower may wait long for a first line; an outage of Redis shows immediately.
  await Promise.race(follow ? [first, setImmediate()] : [first])
  return (async function* () {
    try {
      for (let next = await first; next.done !== true; next = await iterator.next()) yield next.value
    } finally {
      await iterator.return?.()
    }
  })()
}

type LogEntries = ReturnType<Producer['logs']>

async function* logLines(name: string, entries: LogEntries): AsyncGenerator<string> {
  yield '' // sends the headers, so that a follower knows it is connected
  for await (const { callId, timestampMs, text } of entries) {
    yield `${JSON.stringify({ name, namespace: '', instance: callId, timestamp: new Date(timestampMs).toISOString(), text })}\n`
  }
}

interface LogQuery {
  readonly name: string
  readonly follow: boolean
  readonly tail?: number
  readonly sinceMs?: number
}

/** The query of /system/logs, as in OpenFaaS.  Throws InvalidRequest with every fault. */
function parseLogQuery(query: Record<string, unknown>): LogQuery {
  const faults: Fault[] = []
  const { name, tail, since, follow } = query
  if (typeof name !== 'string' || name === '') faults.push({ path: 'name', problem: 'is missing' })
  if (
    tail !== undefined &&
    !(typeof tail === 'string' && /^\d{1,4}$/.test(tail) && Number(tail) <= LOG_TAIL_MAX)
  ) {
    faults.push({ path: 'tail', problem: `must be a whole number up to ${LOG_TAIL_MAX}` })
  }
  const sinceMs = typeof since === 'string' ? Date.parse(since) : undefined
  if (since !== undefined && (sinceMs === undefined || Number.isNaN(sinceMs))) {
    faults.push({ path: 'since', problem: 'must be an RFC 3339 time; example: "2026-11-22T10:00:00Z"' })
  }
  if (follow !== undefined && !['0', '1', 'true', 'false'].includes(String(follow)))
    faults.push({ path: 'follow', problem: 'must be true or false' })
  if (faults.length > 0 || typeof name !== 'string') throw new InvalidRequest(faults)
  return {
    name,
    follow: follow === 'true' || follow === '1',
    ...defined({ tail: tail === undefined ? undefined : Number(tail), sinceMs }),
  }
}
