// Is the Redis behind a URL there, and fit for queues?  For wherry up --redis and wherry doctor.
// Refuses to know what makes it fit; platform/redis.ts does.

import { checkRedis, openRedis, redactRedisUrl, type RedisFinding } from '../platform/redis.ts'

const TIMEOUT_MS = 3_000

/**
 * What is wrong with the Redis at URL; unreachable is one `refuse`. Throws InvalidRequest for a URL it does
 * not understand.
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
