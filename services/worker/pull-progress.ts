// Progress of pulls, from the puller to the parts that follow an image.  The puller writes here and knows no
// follower, so data flows one way: puller, progress, prefetch.

import type { LayerProgress } from '../contract/image.ts'
import type { PullProgress } from '../images/layer-fetcher.ts'

export type PullProgressBoard = ReturnType<typeof createPullProgress>

/** Distributes what the puller reports, by image. */
export function createPullProgress() {
  const followers = new Map<string, (layer: LayerProgress) => void>()
  return {
    /** For the puller: how far one layer is. */
    report({ image, ...layer }: PullProgress): void {
      followers.get(image)?.(layer)
    },

    /** LISTENER gets the progress of image DIGEST until the returned function is called. */
    follow(digest: string, listener: (layer: LayerProgress) => void): () => void {
      followers.set(digest, listener)
      return () => {
        if (followers.get(digest) === listener) followers.delete(digest)
      }
    },
  }
}
