// May this gateway take calls? Not before Redis is there, fit for queues, and the functions are loaded; until
// then an unknown function would look like one that does not exist. Redis may come later than the gateway:
// the server answers 503 meanwhile and begins by itself. Once ready it stays so: when Redis goes away later,
// each command says so by itself.

import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { Overloaded } from '../contract/errors.ts'
import type { FunctionStore } from '../functions/store.ts'
import type { Log } from '../platform/log.ts'
import { checkRedis, type RedisClient } from '../platform/redis.ts'
import type { Producer } from '../queue/producer.ts'

const RETRY_MS = 250
/** A start waits this long for Redis, so that a gateway that says "ready" is, wherever Redis is there. */
const START_WAIT_MS = 1000

export interface Readiness {
  /** Throws Overloaded with the reason while not ready. */
  require(): void
  /**
   * Starts the parts that need Redis; returns when they are, or after START_WAIT_MS while it goes on trying.
   */
  start(): Promise<void>
  stop(): Promise<void>
}

export function createReadiness({
  redis,
  functions,
  producer,
  log,
}: {
  redis: RedisClient
  functions: FunctionStore
  producer: Producer
  log: Log
}): Readiness {
  const stopping = new AbortController()
  const { signal } = stopping
  let notReady: string | undefined = 'Redis is away and the functions are not known yet; try again later'
  let connecting: Promise<void> | undefined

  async function connect(): Promise<void> {
    if (redis.status !== 'ready') await once(redis, 'ready', { signal })
    for (const { level, message, remedy } of await checkRedis(redis)) {
      if (level === 'refuse') throw new Overloaded(`${message}; ${remedy}`, 'ERR_REDIS_AWAY')
      log.warn({ remedy }, message)
    }
    await producer.start()
    await functions.start()
  }

  async function connectUntilReady(): Promise<void> {
    while (!signal.aborted) {
      try {
        await connect()
        notReady = undefined
        return
      } catch (err) {
        if (signal.aborted) return
        if (err instanceof Overloaded && err.message !== notReady) {
          notReady = err.message
          log.error({ err }, 'not ready: calls get 503')
        }
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined) // aborted: the loop's own condition ends it
      }
    }
  }

  return {
    require() {
      if (notReady !== undefined) throw new Overloaded(notReady, 'ERR_REDIS_AWAY')
    },
    async start() {
      connecting = connectUntilReady()
      await Promise.race([
        connecting,
        delay(START_WAIT_MS, undefined, { signal, ref: false }).catch(() => undefined),
      ])
    },
    async stop() {
      stopping.abort()
      await connecting
      await Promise.all([producer.stop(), functions.stop()])
    },
  }
}
