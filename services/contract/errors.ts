// Errors that cross a border. Each has a stable `code`, which means one thing, the HTTP status it becomes,
// and whether a retry can help. Users match on `code`; docs/errors.md has the table. The expected ends of a
// call are not errors but outcomes (outcome.ts).

/**
 * One wrong field: `path` as the caller wrote it ("limits.memory"), `problem` the rest of the sentence ("must
 * be at least 4Mi"); for a text file also the lines around the place, ready to print.
 */
export interface Fault {
  readonly path: string
  readonly problem: string
  readonly excerpt?: string
}

export interface ErrorFacts {
  readonly code: string
  readonly statusCode: number
  readonly retryable: boolean
  readonly cause?: unknown
}

/** Base class of the product's errors.  `message` says what failed, where, why, and what to do. */
export class AppError extends Error {
  readonly code: string
  readonly statusCode: number
  readonly retryable: boolean

  constructor(message: string, facts: ErrorFacts) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause })
    this.name = new.target.name
    this.code = facts.code
    this.statusCode = facts.statusCode
    this.retryable = facts.retryable
  }
}

/** The caller's input is wrong; lists every fault, field by field. */
export class InvalidRequest extends AppError {
  readonly faults: readonly Fault[]

  constructor(
    faults: readonly Fault[],
    code: 'ERR_INVALID_REQUEST' | 'ERR_INVALID_REFERENCE' | 'ERR_INVALID_DOCKERFILE' = 'ERR_INVALID_REQUEST',
  ) {
    super(faults.map((f) => (f.path === '' ? f.problem : `${f.path}: ${f.problem}`)).join('; '), {
      code,
      statusCode: 400,
      retryable: false,
    })
    this.faults = faults
  }
}

export class NotFound extends AppError {
  constructor(
    message: string,
    code: 'ERR_FUNCTION_NOT_FOUND' | 'ERR_INVOCATION_NOT_FOUND' | 'ERR_RESULT_EXPIRED' | 'ERR_NOT_FOUND',
  ) {
    super(message, { code, statusCode: 404, retryable: false })
  }
}

export class Conflict extends AppError {
  constructor(message: string, code: 'ERR_CALL_EXISTS' | 'ERR_IMAGE_IN_USE') {
    super(message, { code, statusCode: 409, retryable: false })
  }
}

/** The image is not signed as the namespace's policy requires. */
export class NotSigned extends AppError {
  constructor(message: string) {
    super(message, { code: 'ERR_NOT_SIGNED', statusCode: 403, retryable: false })
  }
}

/** A body over its limit. */
export class TooLarge extends AppError {
  constructor(message: string) {
    super(message, { code: 'ERR_TOO_LARGE', statusCode: 413, retryable: false })
  }
}

export type OverloadCode =
  /** The function has as many waiting calls as it may have. */
  | 'ERR_QUEUE_FULL'
  | 'ERR_TOO_MANY_FUNCTIONS'
  /** A limit of this process is reached: callers, bodies, followers of logs. */
  | 'ERR_NO_SLOT'
  | 'ERR_REDIS_AWAY'
  | 'ERR_REDIS_FULL'
  /** Redis is configured so that calls would be lost. */
  | 'ERR_REDIS_UNFIT'
  /** Another process holds the image store for too long. */
  | 'ERR_STORE_BUSY'
  /** This process is shutting down. */
  | 'ERR_STOPPING'

/** Not now; the same request can succeed later.  Becomes 503 with Retry-After. */
export class Overloaded extends AppError {
  declare readonly code: OverloadCode

  constructor(message: string, code: OverloadCode, cause?: unknown) {
    super(message, { code, statusCode: 503, retryable: true, cause })
  }
}

/** The container runtime has no free slot.  The call is not at fault, and another attempt may find one. */
export class RuntimeFull extends AppError {
  constructor(message: string) {
    super(message, { code: 'ERR_RUNTIME_FULL', statusCode: 503, retryable: true })
  }
}

/** The registry refused or could not be reached; `registryCode` is its code, such as MANIFEST_UNKNOWN. */
export class RegistryError extends AppError {
  readonly registryCode: string

  constructor(message: string, facts: { registryCode: string; retryable: boolean; cause?: unknown }) {
    super(message, { code: 'ERR_REGISTRY', statusCode: 502, retryable: facts.retryable, cause: facts.cause })
    this.registryCode = facts.registryCode
  }
}

export type ContentCode =
  | 'ERR_DIGEST_MISMATCH'
  | 'ERR_UNSAFE_LAYER'
  | 'ERR_UNSUPPORTED_MEDIA_TYPE'
  | 'ERR_CONTENT_LIMIT'
  | 'ERR_INVALID_CONTENT'

/** The registry sent content that is wrong or hostile. */
export class ContentError extends AppError {
  constructor(message: string, code: ContentCode, cause?: unknown) {
    super(message, { code, statusCode: 502, retryable: false, cause })
  }
}

/** A step of a container's start failed: which operation, system call and errno. */
export class SyscallError extends AppError {
  readonly errno: string
  readonly syscall: string
  readonly op: string
  /** Index of the operation in its plan; -1 if none of them failed. */
  readonly index: number

  constructor(message: string, facts: { errno: string; syscall: string; op: string; index?: number }) {
    super(message, {
      code: facts.errno,
      statusCode: 500,
      retryable: ['EAGAIN', 'EBUSY', 'ENOMEM', 'EINTR'].includes(facts.errno),
    })
    this.errno = facts.errno
    this.syscall = facts.syscall
    this.op = facts.op
    this.index = facts.index ?? -1
  }
}

/**
 * The container cannot be created as requested (unknown user, missing command …): an `init_fail`, not a bug.
 */
export class StartError extends AppError {
  constructor(
    message: string,
    code:
      | 'ERR_COMMAND_NOT_FOUND'
      | 'ERR_COMMAND_NOT_EXECUTABLE'
      | 'ERR_UNKNOWN_USER'
      | 'ERR_NO_COMMAND'
      | 'ERR_INVALID_ROOTFS'
      | 'ERR_START',
    cause?: unknown,
  ) {
    super(message, { code, statusCode: 500, retryable: false, cause })
  }
}

/** This machine lacks something that the product needs; the message says what to do. */
export class Unsupported extends AppError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: 'ERR_UNSUPPORTED', statusCode: 500, retryable: false, cause })
  }
}
