// Digests as the OCI image spec writes them ("Digests"): `sha256:` and 64 lower-case hexadecimal digits.
// Only SHA-256 is supported, as in every registry in use.

import { createHash } from 'node:crypto'

/** The 64 digits without the algorithm, as in file names of the store. */
export const HEX = /^[0-9a-f]{64}$/

const PREFIX = 'sha256:'

/** Whether TEXT is a whole, well-formed SHA-256 digest. */
export const isDigest = (text: unknown): text is string =>
  typeof text === 'string' && text.startsWith(PREFIX) && HEX.test(text.slice(PREFIX.length))

/** The digest with these 64 hexadecimal digits. */
export const digestOfHex = (hex: string): string => `${PREFIX}${hex}`

/** The 64 hexadecimal digits of a well-formed digest. */
export const hexOf = (digest: string): string => digest.slice(PREFIX.length)

/** The digest of BYTES, or of the UTF-8 form of a string. */
export const digestOf = (bytes: Uint8Array | string): string =>
  digestOfHex(createHash('sha256').update(bytes).digest('hex'))
