// The one check of content against the digest it was requested by.

import { digestOf } from '../contract/digest.ts'
import { ContentError } from '../contract/errors.ts'

/** Return: DIGEST.  Throws ContentError ERR_DIGEST_MISMATCH when BYTES, called WHAT, have another one. */
export function verifyDigest(bytes: Uint8Array, digest: string, what: string): string {
  const actual = digestOf(bytes)
  if (actual === digest) return digest
  throw new ContentError(`${what} should have the digest ${digest}, but has ${actual}`, 'ERR_DIGEST_MISMATCH')
}
