// Errors that cross a border.  Each has a stable `code`, which means one thing, and says whether a retry can
// help.  Users match on `code`; docs/errors.md has the table, gateway/statuses.ts the HTTP statuses.
// The expected ends of a call are not errors but outcomes (outcome.ts).

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
  readonly retryable: boolean
  readonly cause?: unknown
}

/** Base class of the product's errors.  `message` says what failed, where, why, and what to do. */
export class AppError extends Error {
  readonly code: string
  readonly retryable: boolean

  constructor(message: string, facts: ErrorFacts) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause })
    this.name = new.target.name
    this.code = facts.code
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
      retryable: false,
    })
    this.faults = faults
  }
}

export class NotFound extends AppError {
  constructor(
    message: string,
    code: 'ERR_FUNCTION_NOT_FOUND' | 'ERR_INVOCATION_NOT_FOUND' | 'ERR_NOT_FOUND',
  ) {
    super(message, { code, retryable: false })
  }
}

export class Conflict extends AppError {
  constructor(message: string, code: 'ERR_CALL_EXISTS' | 'ERR_IMAGE_IN_USE') {
    super(message, { code, retryable: false })
  }
}

/** The image is not signed as the namespace's policy requires. */
export class NotSigned extends AppError {
  constructor(message: string) {
    super(message, { code: 'ERR_NOT_SIGNED', retryable: false })
  }
}

/** A body over its limit. */
export class TooLarge extends AppError {
  constructor(message: string) {
    super(message, { code: 'ERR_TOO_LARGE', retryable: false })
  }
}

export type OverloadCode =
  /** The function has as many waiting calls as it may have. */
  | 'ERR_QUEUE_FULL'
  /** A bound of this process is reached: callers, bodies, followers of logs. */
  | 'ERR_NO_SLOT'
  | 'ERR_TOO_MANY_FUNCTIONS'
  | 'ERR_REDIS_AWAY'
  | 'ERR_REDIS_FULL'
  /** Redis is configured so that calls would be lost. */
  | 'ERR_REDIS_UNFIT'
  /** The call ended, but its result is no longer kept. */
  | 'ERR_RESULT_EXPIRED'
  /** Another process holds the image store for longer than this one waits. */
  | 'ERR_IMAGE_STORE_BUSY'
  /** This process is shutting down. */
  | 'ERR_STOPPING'

/** Not now; the same request can succeed later. */
export class Overloaded extends AppError {
  declare readonly code: OverloadCode

  constructor(message: string, code: OverloadCode, cause?: unknown) {
    super(message, { code, retryable: true, cause })
  }
}

/**
 * The registry refused or could not be reached; `registryCode` is the registry's code, such as
 * MANIFEST_UNKNOWN.
 */
export class RegistryError extends AppError {
  readonly registryCode: string

  constructor(message: string, facts: { registryCode: string; retryable: boolean; cause?: unknown }) {
    super(message, { code: 'ERR_REGISTRY', retryable: facts.retryable, cause: facts.cause })
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
    super(message, { code, retryable: false, cause })
  }
}

/** A step of a container's start failed: which operation, system call and errno. */
export class SyscallError extends AppError {
  readonly errno: string
  readonly syscall: string
  readonly op: string
  /** Index of the operation in its plan; -1 when none of them failed. */
  readonly index: number

  constructor(message: string, facts: { errno: string; syscall: string; op: string; index?: number }) {
    super(message, {
      code: facts.errno,
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
    super(message, { code, retryable: false, cause })
  }
}

/** This machine lacks something that the product needs; the message says what to do. */
export class Unsupported extends AppError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: 'ERR_UNSUPPORTED', retryable: false, cause })
  }
}
