// Checks whether the Redis at a URL is reachable and suitable for queues, for wherry up --redis and wherry
// doctor.

import { checkRedis, openRedis, redactRedisUrl, type RedisFinding } from '../platform/redis.ts'

const TIMEOUT_MS = 3_000

/**
 * The problems of the Redis at URL; an unreachable one is a `refuse`. Throws InvalidRequest for an invalid
 * URL.
 */
export async function inspectRedis(url: string): Promise<RedisFinding[]> {
  let lastError = ''
  const redis = openRedis(url, {
    temper: 'patient',
    name: 'wherry-cli',
    onError: (err) => {
      lastError = err.message
    },
  })
  let slow: NodeJS.Timeout | undefined
  try {
    const timeout = new Promise<never>((_resolve, reject) => {
      slow = setTimeout(() => {
        reject(new Error('no answer'))
      }, TIMEOUT_MS)
    })
    return await Promise.race([checkRedis(redis), timeout])
  } catch (err) {
    return [
      {
        level: 'refuse',
        message: lastError || `Redis at ${redactRedisUrl(url)}: ${(err as Error).message}`,
        remedy: 'start it, or give its address with --redis',
      },
    ]
  } finally {
    clearTimeout(slow)
    redis.disconnect()
  }
}
