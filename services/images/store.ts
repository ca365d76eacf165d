// The content-addressed store on disk, shared by all workers of a machine that name the same folder:
//   blobs/sha256/<hex>      manifests and configs as they came, and packed layers where somebody wanted them
//   layers/sha256/<diffID>/ unpacked layers, never written to again
//   catalog/                which images these are, and who needs them (catalog.ts)
//   tmp/<pid>-<start>-<n>   what is being written, unpacked or removed
// What has its final name is whole and on the disk: write to tmp, fsync, rename, fsync the folder.  Two
// that make the same thing at once both succeed; the later one's copy is thrown away.
// Refuses to know registries and tar.

import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { chmod, mkdir, open, readdir, readFile, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { ContentError, SyscallError } from '../contract/errors.ts'
import { startTimeOf } from '../platform/process-identity.ts'
import { createCatalog } from './catalog.ts'
import { openCatalogFile, ownName } from './catalog-file.ts'
import { createCollector } from './collect.ts'
import { fillCatalog } from './rebuild.ts'
import { digestOf } from '../registry/registry.ts'
import { IMAGE_BYTES_MAX } from './unpack.ts'

export type ImageStore = ReturnType<typeof createImageStore>

const run = promisify(execFile)
const PATHS_PER_RM = 256

function hexOf(digest: string): string {
  const match = /^sha256:([0-9a-f]{64})$/.exec(digest)
  if (!match) throw new TypeError(`not a digest: ${digest}`)
  return match[1]!
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

/** A layer's tree may be deep and wide: rm(1) walks it by descriptors and outside of this process. */
async function removeTrees(paths: readonly string[]): Promise<void> {
  for (let i = 0; i < paths.length; i += PATHS_PER_RM)
    await run('rm', ['-rf', '--one-file-system', '--', ...paths.slice(i, i + PATHS_PER_RM)])
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

export interface ExpectedBlob {
  readonly digest?: string
  readonly size?: number
}

const DISK_ADVICE: Readonly<Record<string, string>> = {
  ENOSPC:
    'no space is left on the disk of the image store; free some (wherry image prune) or move the data folder',
  EDQUOT: 'the disk quota of the image store is used up',
  EROFS: 'the disk of the image store can only be read',
}

/** ERROR of writing WHAT in words that say what to do; anything unexpected as it is. */
function diskError(what: string, error: unknown): unknown {
  const errno = error instanceof Error && 'code' in error ? String(error.code) : ''
  const advice = DISK_ADVICE[errno]
  if (advice === undefined) return error
  return new SyscallError(`${what} cannot be kept: ${advice} (${errno})`, {
    errno,
    syscall: 'write',
    op: 'store',
  })
}

/** Copies SOURCE into PATH, through to the disk.  Throws ContentError when it is not what EXPECTED says. */
async function writeChecked(
  path: string,
  source: Readable | Uint8Array,
  expected: ExpectedBlob,
): Promise<{ digest: string; size: number }> {
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
    const digest = `sha256:${hash.digest('hex')}`
    if (expected.digest !== undefined && digest !== expected.digest)
      throw new ContentError(`${what} came with the digest ${digest}`, 'ERR_DIGEST_MISMATCH')
    await file.sync()
    return { digest, size }
  } finally {
    await file.close()
  }
}

/**
 * A store in folder DIR, made on first use.  ONNOTE hears what a person should know, in one line: a catalog
 * that had to be made anew.
 */
export function createImageStore({
  dir,
  onNote = () => {},
}: {
  dir: string
  onNote?: (text: string) => void
}) {
  const blobs = join(dir, 'blobs', 'sha256')
  const layers = join(dir, 'layers', 'sha256')
  const temporary = join(dir, 'tmp')
  const ownPrefix = `${process.pid}-${startTimeOf(process.pid)}-`
  const catalogFile = openCatalogFile({
    dir,
    temporaryName: () => ownName(ownPrefix),
    fill: (db, old) => fillCatalog(dir, db, old),
    onNote,
  })
  const catalog = createCatalog({ file: catalogFile, ownPrefix, onNote })
  let opened: Promise<void> | undefined

  /** Remove what dead processes were unpacking; those of live ones stay. */
  async function sweep(): Promise<void> {
    for (const name of await readdir(temporary)) {
      const owner = /^(\d{1,10})-(\d{1,20})-/.exec(name)
      if (owner && startTimeOf(Number(owner[1])) !== owner[2]) await removeTrees([join(temporary, name)])
    }
  }

  async function prepare(): Promise<void> {
    try {
      for (const folder of [blobs, layers, temporary]) await mkdir(folder, { recursive: true, mode: 0o700 })
      for (const folder of ['blobs', 'layers', 'tmp']) await chmod(join(dir, folder), 0o700)
    } catch (error) {
      throw diskError(dir, error)
    }
    await sweep()
  }

  /** Once; after a failure the next caller tries again. */
  function prepared(): Promise<void> {
    opened ??= prepare().catch((error: unknown) => {
      opened = undefined
      throw error
    })
    return opened
  }

  async function temporaryPath(): Promise<string> {
    await prepared()
    return join(temporary, ownName(ownPrefix))
  }

  const blobPath = (digest: string): string => join(blobs, hexOf(digest))

  async function putBlob(
    source: Readable | Uint8Array,
    expected: ExpectedBlob = {},
  ): Promise<{ digest: string; size: number }> {
    const draft = await temporaryPath()
    try {
      const written = await writeChecked(draft, source, expected)
      await rename(draft, blobPath(written.digest))
      await syncFolder(blobs)
      return written
    } catch (error) {
      if (!(source instanceof Uint8Array)) source.destroy()
      await removeTrees([draft])
      throw diskError(expected.digest === undefined ? 'a blob' : `blob ${expected.digest}`, error)
    }
  }

  const collector = createCollector({
    file: catalogFile,
    blobs,
    layers,
    prepare: prepared,
    temporaryPath: () => join(temporary, ownName(ownPrefix)),
    removeTrees,
  })
  const layerPath = (diffId: string): string => join(layers, hexOf(diffId))

  return {
    /**
     * Make the folders and sweep tmp/. Happens by itself on first use; calling it early finds a bad folder
     * early.
     */
    async open(): Promise<void> {
      await prepared()
    },

    /**
     * The blob DIGEST, or undefined when it is not there. One that was damaged on the disk is removed, so
     * that it can be had anew.
     */
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

    /** Keep BYTES, whose digest the caller has checked. */
    async writeBlob(digest: string, bytes: Uint8Array): Promise<void> {
      await putBlob(bytes, { digest })
    },

    /** Where the blob DIGEST is, if it is there. */
    blobPath,

    /**
     * Is a blob of that name there, and as large as it should be? Its bytes are not read again: they were
     * checked when they came.
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

    /** Remove the blob DIGEST if it is not what its name says any more.  Return: was it? */
    async dropDamaged(digest: string): Promise<boolean> {
      const hash = createHash('sha256')
      try {
        for await (const piece of createReadStream(blobPath(digest)) as AsyncIterable<Buffer>)
          hash.update(piece)
      } catch (error) {
        if (isMissing(error)) return false
        throw error
      }
      if (`sha256:${hash.digest('hex')}` === digest) return false
      await removeTrees([blobPath(digest)])
      return true
    },

    /**
     * Keep SOURCE, of any size, under the digest that it turns out to have.  Throws ContentError when that is
     * not what EXPECTED says, SyscallError (ENOSPC …), or the stream's own error; leaves nothing behind then.
     */
    putBlob,

    /** Which images there are, and who needs them; opens its database on first use. */
    catalog,

    layerPath,

    async hasLayer(diffId: string): Promise<boolean> {
      try {
        return (await stat(layerPath(diffId))).isDirectory()
      } catch (error) {
        if (isMissing(error)) return false
        throw error
      }
    },

    /** A new empty folder for one layer; commitLayer or discard ends its life. */
    async makeDraft(): Promise<string> {
      const draft = await temporaryPath()
      await mkdir(draft, { mode: 0o700 })
      return draft
    },

    /** Give a DRAFT, whose files are on the disk already, its final name.  Return: that path. */
    async commitLayer(draft: string, diffId: string): Promise<string> {
      try {
        await rename(draft, layerPath(diffId))
      } catch (error) {
        // Another worker was first (rename(2): ENOTEMPTY or EEXIST); its layer is the same.
        if (!(
          error instanceof Error &&
          'code' in error &&
          (error.code === 'ENOTEMPTY' || error.code === 'EEXIST')
        ))
          throw error
        await removeTrees([draft])
      }
      await syncFolder(layers)
      return layerPath(diffId)
    },

    /** Throw a draft away; it may be gone already. */
    async discard(draft: string): Promise<void> {
      await removeTrees([draft])
    },

    /** Removes images, and what no image has any more. */
    collector,

    /** Give back pins and claims and close the catalog. */
    close(): void {
      catalog.close()
    },
  }
}
