// Whether this gateway takes calls: only once Redis is reachable and fit for queues and the functions are
// loaded; before that, every function would look undeployed. Redis may start later than the gateway, which
// answers 503 until then. Once ready, a gateway stays ready: if Redis goes away later, each command fails
// with its reason.

import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { Overloaded, type OverloadCode } from '../contract/errors.ts'
import type { FunctionStore } from '../functions/store.ts'
import type { Log } from '../platform/log.ts'
import { checkRedis, type RedisClient } from '../platform/redis.ts'
import type { Producer } from '../queue/producer.ts'

const RETRY_MS = 250
/** A start waits this long for Redis, so that "ready" is true wherever Redis is reachable. */
const START_WAIT_MS = 1000

export interface Readiness {
  /** Throws Overloaded with the reason until ready. */
  require(): void
  /**
   * Starts the parts that need Redis; returns after START_WAIT_MS at most and keeps trying in the background.
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
  let notReady: { readonly message: string; readonly code: OverloadCode } | undefined = {
    message: 'Redis is unreachable and the functions are not loaded yet; try again later',
    code: 'ERR_REDIS_AWAY',
  }
  let connecting: Promise<void> | undefined

  async function connect(): Promise<void> {
    if (redis.status !== 'ready') await once(redis, 'ready', { signal })
    for (const { level, message, remedy } of await checkRedis(redis)) {
      if (level === 'refuse') throw new Overloaded(`${message}; ${remedy}`, 'ERR_REDIS_UNFIT')
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
        if (err instanceof Overloaded && err.message !== notReady?.message) {
          notReady = { message: err.message, code: err.code }
          log.error({ err }, 'not ready: calls get 503')
        }
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined) // aborted: the loop ends
      }
    }
  }

  return {
    require() {
      if (notReady !== undefined) throw new Overloaded(notReady.message, notReady.code)
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
