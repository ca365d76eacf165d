// How a call can end.  One closed union for the whole product; each dialect (HTTP here, OpenFaaS,
// Lambda and callbacks later) maps it by one table.  Function code that fails is a value of this
// union, never a thrown error.

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
  /** Status of an HTTP reply that carries this outcome. */
  readonly httpStatus: number
  /** May another attempt end differently?  `false` makes the queue give up at once. */
  readonly retryable: boolean
  /** For people: tables, docs, help texts. */
  readonly about: string
}

export const OUTCOME_RULES: Readonly<Record<Outcome, OutcomeRule>> = {
  ok: { httpStatus: 200, retryable: false, about: 'the function ended with exit code 0' },
  app_error: { httpStatus: 500, retryable: true, about: 'the function ended with an exit code other than 0' },
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
  pull_fail: { httpStatus: 503, retryable: true, about: 'the image could not be had from its registry' },
  throttled: { httpStatus: 429, retryable: true, about: 'a rate or concurrency limit was reached' },
  no_capacity: {
    httpStatus: 503,
    retryable: true,
    about: 'the queue is full, away, or no worker took the call in time',
  },
  too_large: { httpStatus: 413, retryable: false, about: 'the request or the response is over its limit' },
  cancelled: { httpStatus: 499, retryable: false, about: 'the caller took the call back' },
  expired: { httpStatus: 410, retryable: false, about: 'the call waited longer than it may' },
}

/** Is TEXT one of the outcomes? */
export function isOutcome(text: unknown): text is Outcome {
  return typeof text === 'string' && (OUTCOMES as readonly string[]).includes(text)
}
