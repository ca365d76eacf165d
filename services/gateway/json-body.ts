// JSON bodies of the control plane.  Every route receives raw bytes, so that hostile JSON (not UTF-8, endless
// nesting, compressed) is refused here before a recursive parser sees it.

import { InvalidRequest } from '../contract/errors.ts'
import { HttpError } from './http-error.ts'

/** Largest body of a request to the control plane. */
export const JSON_MAX_BYTES = 1024 ** 2
const DEPTH_MAX = 64

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPENING = new Set([0x5b, 0x7b]) // [ {
const CLOSING = new Set([0x5d, 0x7d]) // ] }

/** BODY as a JSON value.  Throws InvalidRequest, or 415 for a Content-Encoding that is not "identity". */
export function parseJsonBody(body: Uint8Array | undefined, contentEncoding: string | undefined): unknown {
  if (contentEncoding !== undefined && contentEncoding.toLowerCase() !== 'identity') {
    throw new HttpError(
      415,
      'ERR_INVALID_REQUEST',
      `Content-Encoding "${contentEncoding}" is not supported here; send plain JSON`,
    )
  }
  if (body === undefined || body.length === 0)
    throw new InvalidRequest([{ path: '', problem: 'the body is empty; expected JSON' }])
  if (deeperThan(body, DEPTH_MAX))
    throw new InvalidRequest([{ path: '', problem: `the body is nested deeper than ${DEPTH_MAX} levels` }])
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (err) {
    throw new InvalidRequest([
      { path: '', problem: `the body is not JSON: ${err instanceof Error ? err.message : String(err)}` },
    ])
  }
}

/** Counts brackets outside strings, so that no recursive reader of the value overflows the stack. */
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
