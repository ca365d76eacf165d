// One call of a function, from the moment somebody asked for it.  HTTP and plain BullMQ jobs both
// become an Invocation; from there on nobody can tell (or needs to tell) where it came from.

/** What the caller sent.  A plain producer's payload is a POST of that payload to "/". */
export interface InvocationRequest {
  readonly method: string
  /** Behind the function's name, begins with "/". */
  readonly path: string
  /** Without "?"; may be empty. */
  readonly query: string
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array
}

export interface Invocation {
  /**
   * Unique over all functions; safe in keys, headers and file names ([A-Za-z0-9_.~-], at most 200; "~" only
   * in those of plain BullMQ jobs).
   */
  readonly callId: string
  readonly function: string
  /** 1 for the first. */
  readonly attempt: number
  readonly enqueuedAtMs: number
  readonly request: InvocationRequest
}

export const BODY_MAX_BYTES_DEFAULT = 6 * 1024 ** 2
/** Bodies up to this ride inside the job or the reply; larger ones in a key of their own. */
export const INLINE_MAX_BYTES = 16 * 1024
