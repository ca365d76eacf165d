// The content-addressed store on disk, shared by all workers of a machine that name the same folder:
//   blobs/sha256/<hex>      manifests and configs as they came
//   layers/sha256/<diffID>/ unpacked layers, never written to again
//   tmp/<pid>-<start>-<n>/  layers being unpacked
// What has its final name is whole and on the disk: write to tmp, fsync, rename, fsync the folder.  Two
// that make the same thing at once both succeed; the later one's copy is thrown away.
// Refuses to know registries and tar.

import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, open, readdir, readFile, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { startTimeOf } from '../platform/process-identity.ts'
import { digestOf } from './registry.ts'

export type ImageStore = ReturnType<typeof createImageStore>

const run = promisify(execFile)

function hexOf (digest: string): string {
  const match = /^sha256:([0-9a-f]{64})$/.exec(digest)
  if (!match) throw new TypeError(`not a digest: ${digest}`)
  return match[1]!
}

function isMissing (error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

/** A layer's tree may be deep and wide: rm(1) walks it by descriptors and outside of this process. */
async function removeTree (path: string): Promise<void> {
  await run('rm', ['-rf', '--one-file-system', '--', path])
}

async function syncFolder (path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** A store in folder DIR, made on first use. */
export function createImageStore ({ dir }: { dir: string }) {
  const blobs = join(dir, 'blobs', 'sha256')
  const layers = join(dir, 'layers', 'sha256')
  const temporary = join(dir, 'tmp')
  let opened: Promise<string> | undefined

  /** Remove what dead processes were unpacking; those of live ones stay. */
  async function sweep (): Promise<void> {
    for (const name of await readdir(temporary)) {
      const owner = /^(\d{1,10})-(\d{1,20})-/.exec(name)
      if (owner && startTimeOf(Number(owner[1])) !== owner[2]) await removeTree(join(temporary, name))
    }
  }

  /** Return: the beginning of this process's names in tmp/. */
  async function prepare (): Promise<string> {
    for (const folder of [blobs, layers, temporary]) await mkdir(folder, { recursive: true, mode: 0o700 })
    for (const folder of ['blobs', 'layers', 'tmp']) await chmod(join(dir, folder), 0o700)
    await sweep()
    const pid = String(process.pid)
    return `${pid}-${startTimeOf(process.pid)}-`
  }

  /** Once; after a failure the next caller tries again. */
  function prepared (): Promise<string> {
    opened ??= prepare().catch((error: unknown) => {
      opened = undefined
      throw error
    })
    return opened
  }

  async function temporaryPath (): Promise<string> {
    return join(temporary, `${await prepared()}${randomBytes(8).toString('hex')}`)
  }

  const layerPath = (diffId: string): string => join(layers, hexOf(diffId))

  return {
    /** Make the folders and sweep tmp/.  Happens by itself on first use; calling it early finds a bad folder early. */
    async open (): Promise<void> {
      await prepared()
    },

    /** The blob DIGEST, or undefined when it is not there or not whole any more. */
    async readBlob (digest: string): Promise<Buffer | undefined> {
      try {
        const bytes = await readFile(join(blobs, hexOf(digest)))
        return digestOf(bytes) === digest ? bytes : undefined
      } catch (error) {
        if (isMissing(error)) return undefined
        throw error
      }
    },

    /** Keep BYTES, whose digest the caller has checked. */
    async writeBlob (digest: string, bytes: Uint8Array): Promise<void> {
      const draft = await temporaryPath()
      try {
        const file = await open(draft, 'wx', 0o600)
        try {
          await file.writeFile(bytes)
          await file.sync()
        } finally {
          await file.close()
        }
        await rename(draft, join(blobs, hexOf(digest)))
      } catch (error) {
        await removeTree(draft)
        throw error
      }
      await syncFolder(blobs)
    },

    layerPath,

    async hasLayer (diffId: string): Promise<boolean> {
      try {
        return (await stat(layerPath(diffId))).isDirectory()
      } catch (error) {
        if (isMissing(error)) return false
        throw error
      }
    },

    /** A new empty folder for one layer; commitLayer or discard ends its life. */
    async makeDraft (): Promise<string> {
      const draft = await temporaryPath()
      await mkdir(draft, { mode: 0o700 })
      return draft
    },

    /** Give a DRAFT, whose files are on the disk already, its final name.  Return: that path. */
    async commitLayer (draft: string, diffId: string): Promise<string> {
      try {
        await rename(draft, layerPath(diffId))
      } catch (error) {
        // Another worker was first (rename(2): ENOTEMPTY or EEXIST); its layer is the same.
        if (!(error instanceof Error && 'code' in error && (error.code === 'ENOTEMPTY' || error.code === 'EEXIST'))) throw error
        await removeTree(draft)
      }
      await syncFolder(layers)
      return layerPath(diffId)
    },

    /** Throw a draft away; it may be gone already. */
    async discard (draft: string): Promise<void> {
      await removeTree(draft)
    },
  }
}
