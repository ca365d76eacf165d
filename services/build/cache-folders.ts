// Folders of RUN --mount=type=cache. They persist between builds under their id, are shared or locked, and
// are removed when no build has used them for two weeks. A lock is a claim in the store's catalog, which a
// killed build loses.

import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, chown, mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { digestOf, hexOf } from '../contract/digest.ts'
import type { Catalog } from '../images/catalog.ts'
import type { CacheMount } from './dockerfile/mounts.ts'

const UNUSED_MAX_MS = 14 * 24 * 3_600_000

export interface CacheFolder {
  readonly path: string
  /** It has never been used. */
  readonly isNew: boolean
  release(): void
}

export type CacheFolders = ReturnType<typeof createCacheFolders>

/**
 * Creates PATH with its owner and mode atomically; returns false if another build was first. The draft of a
 * killed build is trimmed like a cache.
 */
async function makeFolder(
  path: string,
  { mode, uid, gid }: Pick<CacheMount, 'mode' | 'uid' | 'gid'>,
): Promise<boolean> {
  const draft = `${path}.${randomBytes(8).toString('hex')}`
  await mkdir(draft, { mode: 0o700 })
  await chown(draft, uid, gid)
  await chmod(draft, mode)
  try {
    await rename(draft, path)
    return true
  } catch (err) {
    await rm(draft, { recursive: true, force: true })
    if (['EEXIST', 'ENOTEMPTY'].includes((err as NodeJS.ErrnoException).code ?? '')) return false
    throw err
  }
}

/** Caches in folder DIR. */
export function createCacheFolders({ dir, catalog }: { dir: string; catalog: Catalog }) {
  return {
    /**
     * The folder of MOUNT. Waits while another build has it locked. (With a `private` cache, Docker gives the
     * second build a new folder; here it waits.) Throws SIGNAL's reason.
     */
    async take(
      mount: Pick<CacheMount, 'id' | 'sharing' | 'mode' | 'uid' | 'gid'>,
      signal: AbortSignal,
    ): Promise<CacheFolder> {
      const key = hexOf(digestOf(mount.id))
      const claim = `cache:${key}`
      if (mount.sharing !== 'shared') await catalog.claimLayer(claim, signal)
      const path = join(dir, key)
      await mkdir(dir, { recursive: true, mode: 0o700 })
      const isNew = !existsSync(path) && (await makeFolder(path, mount))
      const now = new Date()
      await utimes(path, now, now)
      return {
        path,
        isNew,
        release: () => {
          if (mount.sharing !== 'shared') catalog.releaseLayer(claim)
        },
      }
    },

    /** Removes folders that no build has used for two weeks. */
    async trim(): Promise<void> {
      const nowMs = Date.now()
      for (const name of await readdir(dir).catch(() => [])) {
        const path = join(dir, name)
        const found = await stat(path).catch(() => undefined)
        if (found && nowMs - found.mtimeMs > UNUSED_MAX_MS) await rm(path, { recursive: true, force: true })
      }
    },
  }
}
