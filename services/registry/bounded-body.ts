// Reads small bodies (manifests, configs, tokens, errors) into memory, within a bound.

import type { Readable } from 'node:stream'
import { ContentError } from '../contract/errors.ts'
import { unreachable } from './transport.ts'

/** No honest server needs longer for a body of a few megabytes. */
const BODY_TIMEOUT_MS = 60_000

/**
 * All of BODY, called WHAT in messages. Throws ContentError ERR_CONTENT_LIMIT above MAXBYTES, RegistryError
 * when the connection breaks or after TIMEOUTMS.
 */
export async function readBounded(
  body: Readable,
  maxBytes: number,
  what: string,
  registry: string,
  timeoutMs: number = BODY_TIMEOUT_MS,
): Promise<Buffer> {
  const pieces: Buffer[] = []
  let total = 0
  const late = setTimeout(
    () => body.destroy(new Error(`${what} took longer than ${timeoutMs} ms`)),
    timeoutMs,
  )
  try {
    for await (const piece of body as AsyncIterable<Buffer>) {
      total += piece.length
      if (total > maxBytes)
        throw new ContentError(`${what} is larger than ${maxBytes} bytes`, 'ERR_CONTENT_LIMIT')
      pieces.push(piece)
    }
  } catch (error) {
    body.destroy()
    throw unreachable(registry, error)
  } finally {
    clearTimeout(late)
  }
  return Buffer.concat(pieces)
}
