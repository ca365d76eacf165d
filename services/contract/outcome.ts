// How a call can end: one closed union for the whole product. A function that fails is a value of this union,
// never a thrown error.

export const OUTCOMES = [
  'ok',
  'app_error',
  'crash',
  'oom',
  'timeout',
  'init_fail',
  'pull_fail',
  'throttled',
  'no_capacity',
  'too_large',
  'cancelled',
  'expired',
] as const

export type Outcome = (typeof OUTCOMES)[number]

export interface OutcomeRule {
  /** HTTP status in our own dialect, which call records have, too. */
  readonly httpStatus: number
  /** Whether another attempt can end differently; the queue retries only those. */
  readonly retryable: boolean
  /** For messages and help texts. */
  readonly about: string
}

export const OUTCOME_RULES: Readonly<Record<Outcome, OutcomeRule>> = {
  ok: { httpStatus: 200, retryable: false, about: 'the function exited with code 0' },
  app_error: { httpStatus: 500, retryable: true, about: 'the function exited with a code other than 0' },
  crash: { httpStatus: 500, retryable: true, about: 'the function was killed by a signal' },
  oom: { httpStatus: 500, retryable: true, about: 'the function needed more memory than its limit' },
  timeout: {
    httpStatus: 504,
    retryable: true,
    about: 'the function was still running at its timeout and was killed',
  },
  init_fail: {
    httpStatus: 500,
    retryable: true,
    about: 'the container could not be started (command, user, volume, limits)',
  },
  pull_fail: { httpStatus: 503, retryable: true, about: 'the image could not be pulled' },
  throttled: { httpStatus: 429, retryable: true, about: 'a rate or concurrency limit was reached' },
  no_capacity: {
    httpStatus: 503,
    retryable: true,
    about: 'the queue is full or unreachable, or no worker took the call in time',
  },
  too_large: { httpStatus: 413, retryable: false, about: 'the request or the response exceeds its limit' },
  cancelled: { httpStatus: 499, retryable: false, about: 'the caller cancelled the call' },
  expired: { httpStatus: 410, retryable: false, about: 'the call waited too long' },
}

/** Whether TEXT is one of the outcomes. */
export function isOutcome(text: unknown): text is Outcome {
  return typeof text === 'string' && (OUTCOMES as readonly string[]).includes(text)
}
