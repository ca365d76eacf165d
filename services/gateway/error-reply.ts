// Every error that reaches HTTP, as status and body in one shape: {"error": {code, message, …}}.
// Knows the error classes and fastify's own errors; refuses to know routes.  An error that is not
// ours becomes ERR_INTERNAL without its message: it may hold anything, and it goes to the log instead.

import type { FastifyError } from 'fastify'
import {
  AppError,
  InvalidRequest,
  Overloaded,
  RegistryError,
  TooLarge,
  type Fault,
} from '../contract/errors.ts'
import type { Outcome } from '../contract/outcome.ts'

export interface ErrorReply {
  readonly statusCode: number
  readonly body: { readonly error: ErrorFields }
  /** How the call ended, when the error is the end of a call. */
  readonly outcome?: Outcome
  /** Seconds, for 429 and 503. */
  readonly retryAfter?: string
  /** A bug of ours: to be logged. */
  readonly unexpected: boolean
}

interface ErrorFields {
  readonly code: string
  readonly message: string
  readonly faults?: readonly Fault[]
  readonly registryCode?: string
}

/** What a client that got 429 or 503 is asked to wait. */
export const RETRY_AFTER_SECONDS = '1'

/** ERR as a reply; BODYMAXBYTES is the limit of the route, for the text of a 413. */
export function errorReply(err: unknown, bodyMaxBytes: number): ErrorReply {
  const known = toAppError(err, bodyMaxBytes)
  if (known === undefined) {
    return {
      statusCode: 500,
      body: { error: { code: 'ERR_INTERNAL', message: 'an internal error; the log of the gateway has it' } },
      unexpected: true,
    }
  }
  const outcome =
    known instanceof TooLarge ? 'too_large' : known instanceof Overloaded ? 'no_capacity' : undefined
  return {
    statusCode: known.statusCode,
    body: {
      error: {
        code: known.code,
        message: known.message,
        ...(known instanceof InvalidRequest && { faults: known.faults }),
        ...(known instanceof RegistryError && { registryCode: known.registryCode }),
      },
    },
    ...(outcome !== undefined && { outcome }),
    ...((known.statusCode === 503 || known.statusCode === 429) && { retryAfter: RETRY_AFTER_SECONDS }),
    unexpected: false,
  }
}

function toAppError(err: unknown, bodyMaxBytes: number): AppError | undefined {
  if (err instanceof AppError) return err
  if (!isFastifyError(err)) return undefined
  if (err.code === 'FST_ERR_CTP_BODY_TOO_LARGE')
    return new TooLarge(`the body is larger than ${bodyMaxBytes} bytes`)
  if (err.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
    return new AppError('the Content-Type header is not a media type', {
      code: 'ERR_INVALID_REQUEST',
      statusCode: 415,
      retryable: false,
    })
  const statusCode = err.statusCode ?? 500
  if (statusCode < 400 || statusCode > 499) return undefined
  return new AppError(err.message, { code: 'ERR_INVALID_REQUEST', statusCode, retryable: false, cause: err })
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
