// Waiting for work in many queues on one blocked connection. BullMQ keeps a "marker" per queue: a sorted set
// that has a member while the queue may have work. BZPOPMIN takes many keys and pops from the first that has
// a member. If a popped marker is lost, because this process died or its connection broke, the sweep raises
// it again.

import { randomUUID } from 'node:crypto'
import type { Log } from '../platform/log.ts'
import { isRedisAway, openRedis, type RedisClient } from '../platform/redis.ts'
import { keysOf } from './keys.ts'

export interface Markers {
  start(): void
  stop(): Promise<void>
  /** Wait for work in exactly these functions from now on. */
  watch(functions: readonly string[]): void
  readonly watched: readonly string[]
  /** A function that may have work, or undefined after a while, a change, or a broken connection. */
  next(): Promise<string | undefined>
  /** Tell all workers, now or at a time within TIMER_MAX_MS, that a function may have work. */
  raise(name: string, atMs?: number): void
  /** Make a waiting `next` return. */
  wake(): void
}

const BLOCK_S = 5
/** Redis answers within BLOCK_S; a connection that is silent for longer is dead. */
const WATCHDOG_MS = BLOCK_S * 1000 + 2_000
const RECONNECT_WAIT_MS = 1_000
/** The sweep raises later times when they come near. */
export const TIMER_MAX_MS = 15_000
const WAKE_LIFE_MS = 60_000
const LENT_LIFE_MS = 60_000
/** BullMQ: member "0" means work now, member "1" carries the time of the next delayed job as its score. */
const WORK_NOW = '0'

export interface MarkersDeps {
  readonly redisUrl: string
  readonly prefix: string
  readonly workerName: string
  /** The connection for commands that do not block. */
  readonly commands: RedisClient
  readonly onReady: () => void
  readonly log: Log
}

export function createMarkers({
  redisUrl,
  prefix,
  workerName,
  commands,
  onReady,
  log,
}: MarkersDeps): Markers {
  const keys = keysOf(prefix)
  const wakeKey = `${prefix}:@wake:${workerName}:${randomUUID()}`
  const timers = new Map<string, { atMs: number; timer: NodeJS.Timeout }>()
  let blocked: RedisClient | undefined
  let functions: readonly string[] = []
  let markerKeys: readonly string[] = []
  let byKey: ReadonlyMap<string, string> = new Map()
  /**
   * Index of the first key of the next wait: the one behind the function served last, so that none starves.
   */
  let first = 0

  function putBack(name: string): void {
    const key = keys.queue(name, 'marker')
    if (!byKey.has(key)) return // no longer watched; workers that still watch it sweep
    commands
      .zadd(key, 0, WORK_NOW)
      .catch((error: unknown) =>
        log.debug({ err: error, function: name }, 'a marker was not put back; the sweep will do it'),
      )
  }

  /**
   * Put back the marker KEY of a function that is no longer watched. It expires in case no worker watches it.
   */
  function lend(key: string, member: string, score: string): void {
    commands
      .multi()
      .zadd(key, score, member)
      .pexpire(key, LENT_LIFE_MS)
      .exec()
      .catch((error: unknown) =>
        log.debug({ err: error, key }, 'a marker was not put back; the sweep will do it'),
      )
  }

  function raise(name: string, atMs = 0): void {
    const waitMs = atMs - Date.now()
    if (waitMs <= 0) return putBack(name)
    const known = timers.get(name)
    if (waitMs > TIMER_MAX_MS || (known !== undefined && known.atMs <= atMs)) return
    clearTimeout(known?.timer)
    const timer = setTimeout(() => {
      timers.delete(name)
      putBack(name)
    }, Math.ceil(waitMs))
    timers.set(name, { atMs, timer })
  }

  function wake(): void {
    if (blocked === undefined || commands.status !== 'ready') return
    commands
      .multi()
      .zadd(wakeKey, 0, WORK_NOW)
      .pexpire(wakeKey, WAKE_LIFE_MS)
      .exec()
      .catch((error: unknown) =>
        log.debug({ err: error }, 'the blocked connection was not woken; it returns by itself'),
      )
  }

  /** Wait for CLIENT's next connection, at most RECONNECT_WAIT_MS; with UNTILREADY an open one will do. */
  async function pause(client: RedisClient, untilReady: boolean): Promise<void> {
    if (untilReady && client.status === 'ready') return
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, RECONNECT_WAIT_MS)
    client.once('ready', resolve)
    await promise
    clearTimeout(timer)
    client.off('ready', resolve)
  }

  async function pop(client: RedisClient): Promise<[string, string, string] | null> {
    const watchdog = setTimeout(() => {
      log.warn('the connection that waits for work does not answer; reconnecting')
      client.disconnect(true)
    }, WATCHDOG_MS)
    try {
      return await client.bzpopmin(
        wakeKey,
        ...markerKeys.slice(first),
        ...markerKeys.slice(0, first),
        BLOCK_S,
      )
    } catch (error) {
      if (isRedisAway(error)) log.debug({ err: error }, 'waiting for work was interrupted')
      else log.error({ err: error }, 'Redis refused the wait for work')
      await pause(client, isRedisAway(error))
      return null
    } finally {
      clearTimeout(watchdog)
    }
  }

  return {
    start() {
      blocked = openRedis(redisUrl, {
        temper: 'patient',
        name: `wherry-worker-${workerName}-markers`,
        onError: (error) => log.warn({ err: error }, 'Redis is away; waiting for it'),
      })
      blocked.on('ready', onReady)
    },

    async stop() {
      for (const { timer } of timers.values()) clearTimeout(timer)
      timers.clear()
      blocked?.disconnect()
      blocked = undefined
    },

    watch(names) {
      functions = [...new Set(names)]
      markerKeys = functions.map((name) => keys.queue(name, 'marker'))
      byKey = new Map(functions.map((name, i) => [markerKeys[i]!, name]))
      first = 0
      for (const [name, { timer }] of timers) {
        if (byKey.has(keys.queue(name, 'marker'))) continue
        clearTimeout(timer)
        timers.delete(name)
      }
      wake()
    },

    get watched() {
      return functions
    },

    async next() {
      if (blocked === undefined) return undefined
      const popped = await pop(blocked)
      if (popped === null) return undefined
      const [key, member, score] = popped
      const name = byKey.get(key)
      if (name === undefined) {
        if (key !== wakeKey) lend(key, member, score) // no longer watched since the wait began
        return undefined
      }
      first = (markerKeys.indexOf(key) + 1) % markerKeys.length
      if (member === WORK_NOW || Number(score) <= Date.now()) return name
      raise(name, Number(score))
      return undefined
    },

    raise,
    wake,
  }
}
