// A short memory for failures that took long.  Each call of a function whose registry hangs would hold a slot
// of its worker until the timeout; while such a failure is fresh, the next request fails with it at once.
// Quick failures are not kept: they cost little, and a person who has just pushed the missing image retries.

import { LRUCache } from 'lru-cache'
import { RegistryError } from '../contract/errors.ts'

const SLOW_MS = 1000
const KEPT_MAX_MS = 10_000
const FAILURES_MAX = 256

/** A function that runs WORK, or throws the error of a recent slow failure of WORK for the same KEY. */
export function createFailureMemory(): <T>(key: string, work: () => Promise<T>) => Promise<T> {
  const failures = new LRUCache<string, RegistryError>({ max: FAILURES_MAX })
  return async (key, work) => {
    const known = failures.get(key)
    if (known) throw known
    const startedAtMs = performance.now()
    try {
      return await work()
    } catch (error) {
      const tookMs = performance.now() - startedAtMs
      if (error instanceof RegistryError && error.retryable && tookMs > SLOW_MS)
        failures.set(key, error, { ttl: Math.min(tookMs, KEPT_MAX_MS) })
      throw error
    }
  }
}
