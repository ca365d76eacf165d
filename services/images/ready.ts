// The images that this process has ready, found again in microseconds. Each is pinned in the catalog once,
// not per call. An image is retained while a container of it runs; others may be let go, and then removed.
// This is not a plain LRU cache: a retained image is never evicted.

import type { Image } from '../contract/image.ts'
import type { Catalog } from './catalog.ts'

interface Entry {
  readonly image: Image
  users: number
  /** Drop it when its last container has ended. */ isUnwanted: boolean
}

const READY_IMAGES_MAX = 256

/** The ready images of this process over CATALOG. */
export function createReadyImages(catalog: Catalog) {
  const entries = new Map<string, Entry>()

  function drop(digest: string): void {
    entries.delete(digest)
    catalog.unpin(digest)
  }

  /** Make room for one more.  Images in use stay, so running containers may exceed the bound. */
  function makeRoom(): void {
    if (entries.size < READY_IMAGES_MAX) return
    for (const [digest, entry] of entries) {
      if (entry.users > 0) continue
      drop(digest)
      return
    }
  }

  return {
    find(digest: string): Image | undefined {
      const entry = entries.get(digest)
      if (!entry) return undefined
      entries.delete(digest)
      entries.set(digest, entry) // now the most recently used
      catalog.touch(digest)
      return entry.image
    },

    /** IMAGE is on the disk; from now on its layers stay there. */
    add(image: Image): void {
      if (entries.has(image.digest)) return
      makeRoom()
      catalog.pin(image.digest)
      entries.set(image.digest, { image, users: 0, isUnwanted: false })
    },

    /** A container of DIGEST starts; call `release` when it has ended. */
    retain(digest: string): void {
      const entry = entries.get(digest)
      if (entry) entry.users++
    },

    release(digest: string): void {
      const entry = entries.get(digest)
      if (!entry) return
      entry.users--
      if (entry.users === 0 && entry.isUnwanted) drop(digest)
    },

    /** Let go of the images for which KEEP returns false; of those that still run, when they end. */
    letGo(keep: (digest: string) => boolean): void {
      for (const [digest, entry] of entries) {
        entry.isUnwanted = !keep(digest)
        if (entry.isUnwanted && entry.users === 0) drop(digest)
      }
    },
  }
}
