// Wall-clock time with a fraction: Date.now() has whole milliseconds, and a call may wait for less than one.
// Follows the system clock when it is stepped.

import { performance } from 'node:perf_hooks'

const DRIFT_MAX_MS = 2

let offsetMs = performance.timeOrigin

/** Unix milliseconds with a fraction. */
export function preciseNowMs(): number {
  const wholeMs = Date.now()
  const fineMs = offsetMs + performance.now()
  if (Math.abs(fineMs - wholeMs) <= DRIFT_MAX_MS) return fineMs
  offsetMs = wholeMs - performance.now()
  return wholeMs
}
