// The function definitions: one Redis hash, name → FunctionRecord as JSON, and a copy of it in this
// process that is fresh within a round trip (a channel tells of changes) and at worst RELOAD_MS old.
// Reads never wait for Redis.  Refuses to know how a definition is checked, resolved or run.

import { Conflict, InvalidRequest, Overloaded } from '../contract/errors.ts'
import {
  describeSpec,
  parseDeployment,
  type FunctionRecord,
  type FunctionSpec,
} from '../contract/function-spec.ts'
import type { Log } from '../platform/log.ts'
import { asOverloaded, type RedisClient } from '../platform/redis.ts'

export interface FunctionStore {
  /** Loads the definitions, or returns without them when Redis is away; they come when it does. */
  start(): Promise<void>
  stop(): Promise<void>
  get(name: string): FunctionRecord | undefined
  /** Creates or replaces.  Throws Overloaded. */
  put(record: FunctionRecord): Promise<void>
  /** Throws Conflict ERR_FUNCTION_EXISTS, Overloaded. */
  create(record: FunctionRecord): Promise<void>
  /** Was it there?  Throws Overloaded. */
  remove(name: string): Promise<boolean>
  /** Sorted by name. */
  list(): readonly FunctionRecord[]
  /** LISTENER is called after every change of the list; returns the way to take it off again. */
  onChange(listener: () => void): () => void
}

export const FUNCTIONS_MAX = 10_000
const RELOAD_MS = 30_000
const START_WAIT_MS = 1_000
const RECORD_MAX_CHARS = 4 * 1024 ** 2

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const isText = (value: unknown): value is string => typeof value === 'string'
const isStrings = (value: unknown): boolean => Array.isArray(value) && value.every(isText)
const isTextMap = (value: unknown): boolean => isObject(value) && Object.values(value).every(isText)

function isSpec(value: unknown, name: string): value is FunctionSpec {
  if (!isObject(value) || !isObject(value['limits'])) return false
  const { memoryBytes, cpus, pids } = value['limits']
  return (
    value['name'] === name &&
    isText(value['image']) &&
    isText(value['contract']) &&
    (value['command'] === undefined || isStrings(value['command'])) &&
    (value['args'] === undefined || isStrings(value['args'])) &&
    isTextMap(value['envVars']) &&
    isTextMap(value['labels']) &&
    isTextMap(value['annotations']) &&
    [memoryBytes, cpus, pids, value['timeoutMs']].every(
      (n) => typeof n === 'number' && Number.isFinite(n) && n > 0,
    ) &&
    (value['namespace'] === undefined || isText(value['namespace'])) &&
    (value['user'] === undefined || isText(value['user'])) &&
    (value['workingDir'] === undefined || isText(value['workingDir'])) &&
    typeof value['readOnlyRootFilesystem'] === 'boolean' &&
    Array.isArray(value['volumes']) &&
    value['volumes'].every(
      (v) => isObject(v) && isText(v['name']) && isText(v['target']) && typeof v['readonly'] === 'boolean',
    )
  )
}

/**
 * Whoever can write to Redis can write anything: a stored spec is held to the same rules as a deployed one.
 */
function recheck(spec: FunctionSpec): FunctionSpec | undefined {
  try {
    return parseDeployment({ service: spec.name, ...describeSpec(spec) })
  } catch (err) {
    if (err instanceof InvalidRequest) return undefined
    throw err
  }
}

/** TEXT as it stands in the hash under NAME, or undefined when it is not a definition of that name. */
function parseFunctionRecord(name: string, text: string): FunctionRecord | undefined {
  if (text.length > RECORD_MAX_CHARS) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined // the caller names the key; why the JSON is bad helps nobody
  }
  if (!isObject(value) || !isSpec(value['spec'], name)) return undefined
  const { imageDigest, createdAtMs, updatedAtMs } = value
  if (!isText(imageDigest) || typeof createdAtMs !== 'number' || typeof updatedAtMs !== 'number')
    return undefined
  const spec = recheck(value['spec'])
  return spec && { spec, imageDigest, createdAtMs, updatedAtMs }
}

/** The store over REDIS, which stays its owner's; a second connection of its own listens for changes. */
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
      // An unchanged definition keeps its identity, so that others may compare by reference.
      const record = raw[name] === text ? records.get(name) : parseFunctionRecord(name, text)
      if (record) fresh.set(name, record)
      else if (raw[name] !== text)
        log.warn({ function: name, key }, 'a function definition in Redis is not understood and is left out')
    }
    raw = next
    records = fresh
    for (const listener of listeners) listener()
  }

  /** One load at a time; a call during a load makes one more happen after it, so that no change is missed. */
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
      log.debug({ err: error }, 'function definitions could not be read; the next try is soon'),
    )
  }

  async function change(write: () => Promise<void>): Promise<void> {
    try {
      await write()
      await redis.publish(channel, '')
      // The caller reads its own write: a load that began before the write does not count.
      await loading?.catch(() => undefined)
      await reload()
    } catch (error) {
      throw asOverloaded(error)
    }
  }

  function checkRoom(name: string): void {
    if (records.size >= FUNCTIONS_MAX && !records.has(name)) {
      throw new Overloaded(
        `there are ${FUNCTIONS_MAX} functions already; remove some first`,
        'ERR_QUEUE_FULL',
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
      listening.on('error', (error) => log.debug({ err: error }, 'the channel of function changes is away'))
      listening.on('message', refresh)
      // Listen first, then load: a change between the two is then heard.
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
        await redis.hset(key, record.spec.name, JSON.stringify(record))
      })
    },

    async create(record) {
      checkRoom(record.spec.name)
      await change(async () => {
        if ((await redis.hsetnx(key, record.spec.name, JSON.stringify(record))) === 0) {
          throw new Conflict(`there is a function "${record.spec.name}" already`, 'ERR_FUNCTION_EXISTS')
        }
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
