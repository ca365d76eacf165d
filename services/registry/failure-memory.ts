// A short memory for failures that took long. Each call of a function whose registry hangs would hold a slot
// of its worker until the timeout; while one such failure is fresh, the next one gets it at once. Quick
// failures are not kept: they cost nothing, and whoever has just pushed the missing image wants to see it.

import { RegistryError } from '../contract/errors.ts'

const SLOW_MS = 1000
const KEPT_MAX_MS = 10_000
const FAILURES_MAX = 256

/**
 * A function that runs WORK, or throws again what WORK for the same KEY took long to fail with a moment ago.
 */
export function createFailureMemory(): <T>(key: string, work: () => Promise<T>) => Promise<T> {
  const failures = new Map<string, { error: RegistryError; untilMs: number }>()
  return async (key, work) => {
    const startedAtMs = performance.now()
    const known = failures.get(key)
    if (known && known.untilMs > startedAtMs) throw known.error
    failures.delete(key)
    try {
      return await work()
    } catch (error) {
      const now = performance.now()
      const tookMs = now - startedAtMs
      if (error instanceof RegistryError && error.retryable && tookMs > SLOW_MS) {
        if (failures.size >= FAILURES_MAX) failures.delete(failures.keys().next().value!)
        failures.set(key, { error, untilMs: now + Math.min(tookMs, KEPT_MAX_MS) })
      }
      throw error
    }
  }
}
