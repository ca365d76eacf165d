// Which HTTP status an outcome or an error has.  Statuses are a matter of HTTP and stay in this room; the
// tables are mirrored in docs/http-api.md and docs/errors.md.

import {
  AppError,
  Conflict,
  ContentError,
  InvalidRequest,
  NotFound,
  NotSigned,
  Overloaded,
  RegistryError,
  TooLarge,
} from '../contract/errors.ts'
import type { Outcome } from '../contract/outcome.ts'

/** 499 is nginx's "client closed request"; nobody is left to read it. */
export const OUTCOME_STATUS: Readonly<Record<Outcome, number>> = {
  ok: 200,
  app_error: 500,
  crash: 500,
  oom: 500,
  timeout: 504,
  init_fail: 500,
  pull_fail: 503,
  throttled: 429,
  no_capacity: 503,
  too_large: 413,
  cancelled: 499,
  expired: 410,
}

/** An error of HTTP itself, whose status its code does not tell. */
export class HttpError extends AppError {
  readonly statusCode: number

  constructor(
    statusCode: number,
    code: 'ERR_INVALID_REQUEST' | 'ERR_FOREIGN_ORIGIN' | 'ERR_METHOD_NOT_ALLOWED',
    message: string,
    cause?: unknown,
  ) {
    super(message, { code, retryable: false, cause })
    this.statusCode = statusCode
  }
}

const ERROR_STATUS = [
  [InvalidRequest, 400],
  [NotSigned, 403],
  [NotFound, 404],
  [Conflict, 409],
  [TooLarge, 413],
  [RegistryError, 502],
  [ContentError, 502],
  [Overloaded, 503],
] as const

/** The status of ERR; 500 for errors that no caller can do anything about. */
export function statusOf(err: AppError): number {
  if (err instanceof HttpError) return err.statusCode
  return ERROR_STATUS.find(([kind]) => err instanceof kind)?.[1] ?? 500
}
