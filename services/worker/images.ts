// Keeps the image store small. The worker records which images functions use, releases its claims on the
// others, and runs the collector periodically and after pulls. The collector decides which images to remove
// (images/collect.ts).

import { InvalidRequest } from '../contract/errors.ts'
import type { Watermark } from '../images/collect.ts'
import type { Puller } from '../images/pull.ts'
import type { ImageStore } from '../images/store.ts'
import type { Log } from '../platform/log.ts'

export interface ImageKeeperDeps {
  readonly store: ImageStore
  readonly puller: Puller
  readonly high: Watermark
  readonly low: Watermark
  readonly log: Log
}

export type ImageKeeper = ReturnType<typeof createImageKeeper>

const COLLECT_MS = 5 * 60_000
/** One collection follows several pulls that end at about the same time. */
const AFTER_PULL_MS = 5_000

function checkMarks(high: Watermark, low: Watermark): void {
  const [above, below] =
    'percent' in high && 'percent' in low
      ? [high.percent, low.percent]
      : 'bytes' in high && 'bytes' in low
        ? [high.bytes, low.bytes]
        : [0, 0]
  if (below < above) return
  throw new InvalidRequest([
    {
      path: 'WHERRY_IMAGES_LOW',
      problem: 'must be below WHERRY_IMAGES_HIGH, both as sizes or both as percentages',
    },
  ])
}

/** Throws InvalidRequest when LOW is not below HIGH. */
export function createImageKeeper({ store, puller, high, low, log }: ImageKeeperDeps) {
  checkMarks(high, low)
  let deployed: ReadonlySet<string> = new Set()
  let timer: NodeJS.Timeout | undefined
  let collecting: Promise<void> | undefined
  let stopped = true

  async function collect(): Promise<void> {
    try {
      puller.letGo((digest) => deployed.has(digest))
      const freed = await store.collector.collect({ high, low })
      if (freed)
        log.info(
          { images: freed.images.map((image) => image.digest), layers: freed.layers, bytes: freed.bytes },
          'removed unused images: the image store was above its high watermark',
        )
    } catch (err) {
      log.warn({ err }, 'cannot remove unused images; retrying in a few minutes')
    }
  }

  function schedule(delayMs: number): void {
    clearTimeout(timer)
    if (stopped) return
    timer = setTimeout(() => {
      collecting = collect().finally(() => {
        collecting = undefined
        schedule(COLLECT_MS)
      })
    }, delayMs).unref()
  }

  return {
    start(): void {
      stopped = false
      schedule(AFTER_PULL_MS)
    },

    /** Waits for a running collection. */
    async stop(): Promise<void> {
      stopped = true
      clearTimeout(timer)
      await collecting
    },

    /** DIGESTS are the images of all functions. */
    deploy(digests: readonly string[]): void {
      const next = new Set(digests)
      if (next.size === deployed.size && digests.every((digest) => deployed.has(digest))) return
      try {
        store.catalog.setDeployed([...next])
        deployed = next
        puller.letGo((digest) => deployed.has(digest)) // an image can be removed as soon as its function is
      } catch (err) {
        log.warn({ err }, 'cannot record in the image store which images functions use')
      }
    },

    /** An image was fetched, so the store may be too large now. */
    pulled(): void {
      if (!collecting) schedule(AFTER_PULL_MS)
    },
  }
}
