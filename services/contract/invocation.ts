// One call of a function. Calls over HTTP and plain BullMQ jobs both become an Invocation; code behind this
// point does not know which of the two it was.

/** What the caller sent.  The payload of a plain producer counts as a POST to "/". */
export interface InvocationRequest {
  readonly method: string
  /** The path after the function's name; begins with "/". */
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
/** Bodies up to this size travel inside the job or the reply, larger ones in a separate key. */
export const INLINE_MAX_BYTES = 16 * 1024
