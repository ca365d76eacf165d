// The store's blobs: manifests and configs as they came, and packed layers where save or push needs them.
// A blob under its final name is whole and on the disk.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readFile, rename, stat } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import { digestOf, digestOfHex } from '../contract/digest.ts'
import { ContentError } from '../contract/errors.ts'
import { diskError, isMissing, pathOf, removeTrees, syncFolder } from './disk.ts'
import { IMAGE_BYTES_MAX } from './unpack.ts'

export interface ExpectedBlob {
  readonly digest?: string
  readonly size?: number
}

export interface StoredBlob {
  readonly digest: string
  readonly size: number
}

/** Copy SOURCE into the new file PATH and sync it.  Throws ContentError when it is not as EXPECTED. */
async function writeChecked(
  path: string,
  source: Readable | Uint8Array,
  expected: ExpectedBlob,
): Promise<StoredBlob> {
  const what = expected.digest === undefined ? 'the blob' : `blob ${expected.digest}`
  const maxBytes = expected.size ?? IMAGE_BYTES_MAX
  const hash = createHash('sha256')
  let size = 0
  const file = await open(path, 'wx', 0o600)
  try {
    for await (const piece of source instanceof Uint8Array ? [source] : (source as AsyncIterable<Buffer>)) {
      size += piece.length
      if (size > maxBytes)
        throw new ContentError(
          `${what} has more than ${maxBytes} bytes`,
          expected.size === undefined ? 'ERR_CONTENT_LIMIT' : 'ERR_DIGEST_MISMATCH',
        )
      hash.update(piece)
      await file.writeFile(piece)
    }
    if (expected.size !== undefined && size < expected.size)
      throw new ContentError(`${what} ended after ${size} of ${expected.size} bytes`, 'ERR_DIGEST_MISMATCH')
    const digest = digestOfHex(hash.digest('hex'))
    if (expected.digest !== undefined && digest !== expected.digest)
      throw new ContentError(`${what} came with the digest ${digest}`, 'ERR_DIGEST_MISMATCH')
    await file.sync()
    return { digest, size }
  } finally {
    await file.close()
  }
}

/** The blobs in FOLDER, which are written at a new TEMPORARYPATH first. */
export function createBlobs(folder: string, temporaryPath: () => Promise<string>) {
  const blobPath = (digest: string): string => pathOf(folder, digest)

  async function putBlob(source: Readable | Uint8Array, expected: ExpectedBlob = {}): Promise<StoredBlob> {
    const draft = await temporaryPath()
    try {
      const written = await writeChecked(draft, source, expected)
      await rename(draft, blobPath(written.digest))
      await syncFolder(folder)
      return written
    } catch (error) {
      if (!(source instanceof Uint8Array)) source.destroy()
      await removeTrees([draft])
      throw diskError(expected.digest === undefined ? 'a blob' : `blob ${expected.digest}`, error)
    }
  }

  return {
    /** The path of blob DIGEST, whether or not it exists. */
    blobPath,

    /**
     * Store SOURCE, of any size, under its digest.  Throws ContentError when it is not as EXPECTED,
     * SyscallError (ENOSPC …), or the stream's own error; then nothing is left behind.
     */
    putBlob,

    /** Store BYTES, whose digest the caller has checked. */
    async writeBlob(digest: string, bytes: Uint8Array): Promise<void> {
      await putBlob(bytes, { digest })
    },

    /** The blob DIGEST, or undefined when there is none. A damaged one is removed, so it is fetched again. */
    async readBlob(digest: string): Promise<Buffer | undefined> {
      try {
        const bytes = await readFile(blobPath(digest))
        if (digestOf(bytes) === digest) return bytes
        await removeTrees([blobPath(digest)])
        return undefined
      } catch (error) {
        if (isMissing(error)) return undefined
        throw error
      }
    },

    /**
     * Whether blob DIGEST exists with SIZEBYTES. Its bytes were checked when they came and are not read
     * again.
     */
    async hasBlob(digest: string, sizeBytes?: number): Promise<boolean> {
      try {
        const found = await stat(blobPath(digest))
        return found.isFile() && found.size === (sizeBytes ?? found.size)
      } catch (error) {
        if (isMissing(error)) return false
        throw error
      }
    },

    /** Remove blob DIGEST if its content no longer has that digest.  Return: whether it was removed. */
    async dropDamaged(digest: string): Promise<boolean> {
      const hash = createHash('sha256')
      try {
        for await (const piece of createReadStream(blobPath(digest)) as AsyncIterable<Buffer>)
          hash.update(piece)
      } catch (error) {
        if (isMissing(error)) return false
        throw error
      }
      if (digestOfHex(hash.digest('hex')) === digest) return false
      await removeTrees([blobPath(digest)])
      return true
    },
  }
}
