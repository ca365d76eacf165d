// Folders of RUN --mount=type=cache: kept from build to build by their id, shared or taken by one build at a
// time, and removed when no build used them for two weeks. The store's catalog says who has one for himself,
// by claims that a killed build loses. Refuses to know what is in them: it is whatever steps left there.

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
  /** Nobody has used it before. */
  readonly isNew: boolean
  release(): void
}

export type CacheFolders = ReturnType<typeof createCacheFolders>

/**
 * PATH with its owner and mode, all of it or nothing; false when another build was first. A draft that a
 * killed build left is trimmed like a cache.
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
     * The folder of MOUNT; waits while another build has it and not all may. (Docker gives a second build a
     * copy of its own when a cache is `private`; here it waits, too.) Throws SIGNAL's reason.
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

    /** Remove folders that no build used for two weeks. */
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
