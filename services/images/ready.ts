// The images that this process has ready: asked for again, they cost microseconds.  Each one is pinned in the
// catalog as long as it is here, once per image and not per call.  Whoever runs a container of an image
// retains it meanwhile; an image that nobody runs may be let go, and is then no longer safe from removal.

import type { Image } from '../contract/image.ts'
import type { Catalog } from './catalog.ts'

interface Entry {
  readonly image: Image
  users: number
  /** It goes when nobody runs it any more. */ isUnwanted: boolean
}

const READY_IMAGES_MAX = 256

/** The ready images of this process over CATALOG. */
export function createReadyImages(catalog: Catalog) {
  const entries = new Map<string, Entry>()

  function drop(digest: string): void {
    entries.delete(digest)
    catalog.unpin(digest)
  }

  /** Room for one more; an image in use is never dropped, so there can be as many more as containers run. */
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
      entries.set(digest, entry) // used last
      catalog.touch(digest)
      return entry.image
    },

    /** IMAGE is on the disk; its layers stay there from now on. */
    add(image: Image): void {
      if (entries.has(image.digest)) return
      makeRoom()
      catalog.pin(image.digest)
      entries.set(image.digest, { image, users: 0, isUnwanted: false })
    },

    /** A container of DIGEST begins; `release` when it has ended. */
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

    /** Let go of all but those that KEEP says yes to; of what still runs, when it has ended. */
    letGo(keep: (digest: string) => boolean): void {
      for (const [digest, entry] of entries) {
        entry.isUnwanted = !keep(digest)
        if (entry.isUnwanted && entry.users === 0) drop(digest)
      }
    },
  }
}
