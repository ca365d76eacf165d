// Errors of HTTP itself, whose status depends on the place and not on the code.

import { AppError } from '../contract/errors.ts'

export class HttpError extends AppError {
  constructor(
    statusCode: number,
    code: 'ERR_INVALID_REQUEST' | 'ERR_FOREIGN_ORIGIN' | 'ERR_METHOD_NOT_ALLOWED',
    message: string,
    cause?: unknown,
  ) {
    super(message, { code, statusCode, retryable: false, cause })
  }
}
