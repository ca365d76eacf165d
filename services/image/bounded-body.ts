// Small bodies (manifests, configs, tokens, errors) whole in memory, and never more than was allowed.

import type { Readable } from 'node:stream'
import { ContentError } from '../contract/errors.ts'
import { unreachable } from './transport.ts'

/** All of BODY.  Throws ContentError ERR_CONTENT_LIMIT above MAXBYTES, RegistryError when the connection breaks. */
export async function readBounded (body: Readable, maxBytes: number, what: string, registry: string): Promise<Buffer> {
  const pieces: Buffer[] = []
  let total = 0
  try {
    for await (const piece of body as AsyncIterable<Buffer>) {
      total += piece.length
      if (total > maxBytes) throw new ContentError(`${what} is larger than ${maxBytes} bytes`, 'ERR_CONTENT_LIMIT')
      pieces.push(piece)
    }
  } catch (error) {
    body.destroy()
    throw unreachable(registry, error)
  }
  return Buffer.concat(pieces)
}
