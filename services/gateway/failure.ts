// Any error that reaches HTTP, as the plain facts that a dialect writes into its reply.  An error that is not
// ours becomes ERR_INTERNAL without its message: the message may hold anything, so it goes to the log only.

import type { FastifyError } from 'fastify'
import { defined } from '../contract/defined.ts'
import {
  AppError,
  InvalidRequest,
  Overloaded,
  RegistryError,
  TooLarge,
  type Fault,
} from '../contract/errors.ts'
import type { Outcome } from '../contract/outcome.ts'
import { HttpError } from './http-error.ts'

export interface Failure {
  readonly statusCode: number
  readonly error: ErrorFields
  /** How the call ended, if the error ended a call. */
  readonly outcome?: Outcome
  /** A bug of ours, to be logged. */
  readonly unexpected: boolean
}

interface ErrorFields {
  readonly code: string
  readonly message: string
  readonly faults?: readonly Fault[]
  readonly registryCode?: string
}

const INTERNAL: Failure = {
  statusCode: 500,
  error: { code: 'ERR_INTERNAL', message: 'internal error; see the log of the gateway' },
  unexpected: true,
}

/** ERR as a failure; BODYMAXBYTES is the limit of the route, for the message of a 413. */
export function failureOf(err: unknown, bodyMaxBytes: number): Failure {
  const known = toAppError(err, bodyMaxBytes)
  if (known === undefined) return INTERNAL
  const outcome =
    known instanceof TooLarge ? 'too_large' : known instanceof Overloaded ? 'no_capacity' : undefined
  return {
    statusCode: known.statusCode,
    error: {
      code: known.code,
      message: known.message,
      ...(known instanceof InvalidRequest && { faults: known.faults }),
      ...(known instanceof RegistryError && { registryCode: known.registryCode }),
    },
    ...defined({ outcome }),
    unexpected: false,
  }
}

function toAppError(err: unknown, bodyMaxBytes: number): AppError | undefined {
  if (err instanceof AppError) return err
  if (!isFastifyError(err)) return undefined
  if (err.code === 'FST_ERR_CTP_BODY_TOO_LARGE')
    return new TooLarge(`the body is larger than ${bodyMaxBytes} bytes`)
  if (err.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
    return new HttpError(415, 'ERR_INVALID_REQUEST', 'the Content-Type header is not a media type')
  const statusCode = err.statusCode ?? 500
  return statusCode >= 400 && statusCode <= 499
    ? new HttpError(statusCode, 'ERR_INVALID_REQUEST', err.message, err)
    : undefined
}

function isFastifyError(err: unknown): err is FastifyError {
  return (
    err instanceof Error &&
    'code' in err &&
    typeof err.code === 'string' &&
    'statusCode' in err &&
    typeof err.statusCode === 'number'
  )
}
