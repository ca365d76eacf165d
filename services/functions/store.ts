// Function definitions: one Redis hash, name → FunctionRecord as JSON, and a copy in this process. A channel
// announces changes, so the copy is usually one round trip old and never older than RELOAD_MS. Reads never
// wait for Redis.

import { Overloaded } from '../contract/errors.ts'
import { readRecord, writeRecord, type FunctionRecord } from '../contract/function-spec.ts'
import type { Log } from '../platform/log.ts'
import { asOverloaded, type RedisClient } from '../platform/redis.ts'

export interface FunctionStore {
  /** Load the definitions. If Redis is away, return without them and load them later. */
  start(): Promise<void>
  stop(): Promise<void>
  get(name: string): FunctionRecord | undefined
  /** Create or replace a definition. Throws Overloaded. */
  put(record: FunctionRecord): Promise<void>
  /** Whether it existed. Throws Overloaded. */
  remove(name: string): Promise<boolean>
  /** Sorted by name. */
  list(): readonly FunctionRecord[]
  /** Call LISTENER after every change. Returns a function that removes it. */
  onChange(listener: () => void): () => void
}

export const FUNCTIONS_MAX = 10_000
const RELOAD_MS = 30_000
const START_WAIT_MS = 1_000

/** The store in REDIS, which the caller closes. A second connection listens for changes. */
export function createFunctionStore({
  redis,
  prefix,
  log,
}: {
  redis: RedisClient
  prefix: string
  log: Log
}): FunctionStore {
  const key = `${prefix}:@functions`
  const channel = `${key}:changed`
  const listeners = new Set<() => void>()
  let raw: Record<string, string> = {}
  let records: ReadonlyMap<string, FunctionRecord> = new Map()
  let subscriber: RedisClient | undefined
  let timer: NodeJS.Timeout | undefined
  let loading: Promise<void> | undefined
  let again = false
  const firstLoad = Promise.withResolvers<void>()

  async function load(): Promise<void> {
    const next = await redis.hgetall(key)
    firstLoad.resolve()
    const names = Object.keys(next).sort()
    if (names.length === Object.keys(raw).length && names.every((name) => raw[name] === next[name])) return
    const fresh = new Map<string, FunctionRecord>()
    for (const name of names.slice(0, FUNCTIONS_MAX)) {
      const text = next[name]!
      // Unchanged definitions keep their identity, so that callers can compare references.
      if (raw[name] === text) {
        const record = records.get(name)
        if (record) fresh.set(name, record)
        continue
      }
      const read = readRecord(name, text)
      if ('record' in read) fresh.set(name, read.record)
      else
        log.warn(
          { function: name, key, problem: read.problem },
          'ignoring an invalid function definition in Redis',
        )
    }
    raw = next
    records = fresh
    for (const listener of listeners) listener()
  }

  /** One load at a time. A request during a load causes another one after it, so that no change is missed. */
  function reload(): Promise<void> {
    again = loading !== undefined
    loading ??= load().finally(() => {
      loading = undefined
      if (again) refresh()
    })
    return loading
  }

  function refresh(): void {
    reload().catch((error: unknown) =>
      log.debug({ err: error }, 'cannot read function definitions; will retry'),
    )
  }

  async function change(write: () => Promise<void>): Promise<void> {
    try {
      await write()
      await redis.publish(channel, '')
      // The caller must see its write, so a load that started before it does not count.
      await loading?.catch(() => undefined)
      await reload()
    } catch (error) {
      throw asOverloaded(error)
    }
  }

  function checkRoom(name: string): void {
    if (records.size >= FUNCTIONS_MAX && !records.has(name)) {
      throw new Overloaded(
        `the limit of ${FUNCTIONS_MAX} functions is reached; remove some first`,
        'ERR_TOO_MANY_FUNCTIONS',
      )
    }
  }

  return {
    async start() {
      const listening = redis.duplicate({
        connectionName: 'wherry-functions-changes',
        enableOfflineQueue: true,
        autoResubscribe: false,
      })
      subscriber = listening
      listening.on('error', (error) =>
        log.debug({ err: error }, 'the connection for function changes is away'),
      )
      listening.on('message', refresh)
      // Subscribe before loading, so that no change in between is missed.
      listening.on('ready', () => {
        listening.subscribe(channel).then(refresh, () => undefined)
      })
      redis.on('ready', refresh)
      timer = setInterval(refresh, RELOAD_MS)
      let wait: NodeJS.Timeout | undefined
      await Promise.race([
        firstLoad.promise,
        new Promise((resolve) => {
          wait = setTimeout(resolve, START_WAIT_MS)
        }),
      ])
      clearTimeout(wait)
    },

    async stop() {
      clearInterval(timer)
      redis.off('ready', refresh)
      subscriber?.disconnect()
      subscriber = undefined
      again = false
      await loading?.catch(() => undefined)
    },

    get: (name) => records.get(name),
    list: () => [...records.values()],

    async put(record) {
      checkRoom(record.spec.name)
      await change(async () => {
        await redis.hset(key, record.spec.name, writeRecord(record))
      })
    },

    async remove(name) {
      let removed = 0
      await change(async () => {
        removed = await redis.hdel(key, name)
      })
      return removed > 0
    },

    onChange(listener) {
      listeners.add(listener)
      return () => {
        listeners.delete(listener)
      }
    },
  }
}
