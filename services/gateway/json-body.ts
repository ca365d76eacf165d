// JSON of the control plane, parsed by us because every route takes its body as raw bytes.
// Knows what hostile JSON looks like: not UTF-8, nested without end, compressed.  Refuses to know
// what the fields mean; contract/ does.

import { AppError, InvalidRequest } from '../contract/errors.ts'

/** Largest body of a control plane request. */
export const JSON_MAX_BYTES = 1024 ** 2
const DEPTH_MAX = 64

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPENING = new Set([0x5b, 0x7b]) // [ {
const CLOSING = new Set([0x5d, 0x7d]) // ] }

/** BODY as a JSON value.  Throws InvalidRequest, or 415 for a Content-Encoding that is not "identity". */
export function parseJsonBody(body: Uint8Array | undefined, contentEncoding: string | undefined): unknown {
  if (contentEncoding !== undefined && contentEncoding.toLowerCase() !== 'identity') {
    throw new AppError(
      `a body with Content-Encoding "${contentEncoding}" is not accepted here; send plain JSON`,
      { code: 'ERR_INVALID_REQUEST', statusCode: 415, retryable: false },
    )
  }
  if (body === undefined || body.length === 0)
    throw new InvalidRequest([{ path: '', problem: 'the body is empty; JSON is expected' }])
  if (deeperThan(body, DEPTH_MAX))
    throw new InvalidRequest([{ path: '', problem: `the body nests deeper than ${DEPTH_MAX} levels` }])
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (err) {
    throw new InvalidRequest([
      { path: '', problem: `the body is not JSON: ${err instanceof Error ? err.message : String(err)}` },
    ])
  }
}

/** Counts brackets outside strings, so that no recursive reader of the value can run out of stack. */
function deeperThan(json: Uint8Array, depthMax: number): boolean {
  let depth = 0
  let inString = false
  for (let i = 0; i < json.length; i++) {
    const byte = json[i]!
    if (inString) {
      if (byte === BACKSLASH) i++
      else if (byte === QUOTE) inString = false
    } else if (byte === QUOTE) inString = true
    else if (OPENING.has(byte)) {
      if (++depth > depthMax) return true
    } else if (CLOSING.has(byte)) depth--
  }
  return false
}
