// What leaves the store: images that nobody needs, and the layers and blobs that no image has any more.
// Who needs what is the catalog's to say; here it is decided in memory, inside one transaction, and what
// goes is renamed into tmp/ before the transaction ends.  A pull that has pinned a layer sees it, or sees
// that it is gone; nobody ever sees half of one.  The slow part, rm(1), comes after.
// Refuses to know functions and registries.

import { renameSync, statSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import type { DatabaseSync } from 'node:sqlite'
import { Conflict } from '../contract/errors.ts'
import { dropDeadOwners, loadImages, type StoredImage } from './catalog.ts'
import type { CatalogFile } from './catalog-file.ts'
import { createListing, sumOf, type Item, type Listing } from './listing.ts'
import { SETTLE_MS } from './rebuild.ts'

/**
 * Something that no image has may still be on its way into one, unless it is older (or from a time to come:
 * the clock was set back).
 */
const ORPHAN_AGE_MIN_MS = 3_600_000
export interface PruneOptions {
  /** Images with a name too, not only those without. */
  readonly all?: boolean
  /** Only images not used for so long. */
  readonly olderThanMs?: number
  /** Only say what would go. */
  readonly dryRun?: boolean
  /** Stop when so much is free, beginning with what was used longest ago. */
  readonly bytes?: number
}

export interface Freed {
  readonly images: readonly StoredImage[]
  readonly layers: number
  readonly blobs: number
  /** On the disk. */
  readonly bytes: number
}

export interface Usage {
  /** Of layers and blobs, on the disk. */
  readonly storeBytes: number
  /**
   * Of the file system that the store is on, as df(1) counts: what is in use, and that plus what is
   * available.
   */
  readonly disk: { readonly usedBytes: number; readonly totalBytes: number }
}

/** A watermark: bytes of the store, or percent of its disk. */
export type Watermark = { readonly bytes: number } | { readonly percent: number }

export interface CollectorDeps {
  readonly file: CatalogFile
  /** Folders of blobs and layers; the store's own. */
  readonly blobs: string
  readonly layers: string
  /** Makes the folders. */
  readonly prepare: () => Promise<void>
  /** A new path in tmp/. */
  readonly temporaryPath: () => string
  readonly removeTrees: (paths: readonly string[]) => Promise<void>
}

/** Every blob that IMAGE consists of. */
function blobsOf(image: StoredImage): string[] {
  return [
    image.digest,
    image.manifestDigest,
    image.configDigest,
    ...image.layers.map((layer) => layer.digest),
  ]
}

function isFree(image: StoredImage, { all = false, olderThanMs = 0 }: PruneOptions, nowMs: number): boolean {
  return (
    !image.isPinned &&
    !image.isDeployed &&
    (all || image.names.length === 0) &&
    Math.max(0, nowMs - image.usedAtMs) >= olderThanMs
  )
}

/** What KEPT images, pins and claims need: names of layers and of blobs together, they are all digests. */
function neededBy(db: DatabaseSync, kept: readonly StoredImage[]): ReadonlySet<string> {
  const held = db
    .prepare('SELECT digest FROM pins UNION SELECT diff_id FROM claims')
    .all()
    .map((row) => String(row['digest']))
  return new Set([
    ...held,
    ...kept.flatMap((image) => [...blobsOf(image), ...image.layers.map((layer) => layer.diffId)]),
  ])
}

/** Takes things out of the store over FILE. */
export function createCollector({ file, blobs, layers, prepare, temporaryPath, removeTrees }: CollectorDeps) {
  const { list, listSome, layerSizes } = createListing({ file, blobs, layers, prepare })

  /** Those of LISTING that are in CONCERNED or old, and that nobody needs. */
  function deadItems(
    items: ReadonlyMap<string, Item>,
    needed: ReadonlySet<string>,
    concerned: ReadonlySet<string>,
    nowMs: number,
  ): Array<[string, Item]> {
    return [...items].filter(([digest, { path, changedAtMs }]) => {
      if (needed.has(digest) || !(concerned.has(digest) || Math.abs(nowMs - changedAtMs) > ORPHAN_AGE_MIN_MS))
        return false
      // Looked at once more: since it was listed somebody may have removed it, or put it there anew.
      const now = statSync(path, { throwIfNoEntry: false })
      return now !== undefined && (concerned.has(digest) || now.ctimeMs === changedAtMs)
    })
  }

  /** Which of the FREE images have to go, the one used longest ago first, until BYTES are free. */
  function choose(
    images: readonly StoredImage[],
    free: readonly StoredImage[],
    { layers, blobs }: Listing,
    bytes: number,
  ): StoredImage[] {
    if (bytes === Infinity) return [...free]
    const users = new Map<string, number>()
    const digestsOf = (image: StoredImage): Set<string> =>
      new Set([...blobsOf(image), ...image.layers.map((layer) => layer.diffId)])
    for (const image of images)
      for (const digest of digestsOf(image)) users.set(digest, (users.get(digest) ?? 0) + 1)
    const chosen: StoredImage[] = []
    let freed = 0
    for (const image of free.toSorted((a, b) => a.usedAtMs - b.usedAtMs)) {
      if (freed >= bytes) break
      chosen.push(image)
      for (const digest of digestsOf(image)) {
        const left = users.get(digest)! - 1
        users.set(digest, left)
        if (left === 0) freed += (layers.get(digest)?.bytes ?? 0) + (blobs.get(digest)?.bytes ?? 0)
      }
    }
    return chosen
  }

  /**
   * Remove from what LISTING has the images that SELECT names and what only they had; CONCERNED digests go
   * too when nobody needs them.
   */
  async function remove(
    listing: Listing,
    select: (images: readonly StoredImage[]) => readonly StoredImage[],
    { dryRun = false, concerned = [] }: { dryRun?: boolean; concerned?: readonly string[] } = {},
  ): Promise<Freed> {
    const gone: string[] = []
    const nowMs = Date.now()
    const freed = file.free((db): Freed => {
      dropDeadOwners(db)
      const images = loadImages(db)
      const chosen = select(images)
      const needed = neededBy(
        db,
        images.filter((image) => !chosen.includes(image)),
      )
      const own = new Set([
        ...concerned,
        ...chosen.flatMap((image) => [...blobsOf(image), ...image.layers.map((layer) => layer.diffId)]),
      ])
      const deadLayers = deadItems(listing.layers, needed, own, nowMs)
      const deadBlobs = deadItems(listing.blobs, needed, own, nowMs)
      const result = {
        images: chosen,
        layers: deadLayers.length,
        blobs: deadBlobs.length,
        bytes: sumOf([...deadLayers, ...deadBlobs].map(([, item]) => item)),
      }
      if (dryRun) return result
      for (const { digest } of chosen) {
        db.prepare('DELETE FROM names WHERE digest = ?').run(digest)
        db.prepare('DELETE FROM images WHERE digest = ?').run(digest)
      }
      for (const [digest] of deadLayers) db.prepare('DELETE FROM layer_sizes WHERE diff_id = ?').run(digest)
      for (const [, { path }] of [...deadLayers, ...deadBlobs]) {
        const draft = temporaryPath()
        renameSync(path, draft)
        gone.push(draft)
      }
      return result
    })
    await removeTrees(gone)
    return freed
  }

  async function usage(): Promise<Usage> {
    const listing = await list()
    const { blocks, bfree, bavail, bsize } = await statfs(layers)
    const usedBytes = (blocks - bfree) * bsize
    return {
      storeBytes: sumOf(listing.layers.values()) + sumOf(listing.blobs.values()),
      disk: { usedBytes, totalBytes: usedBytes + bavail * bsize },
    }
  }

  /** How many bytes have to go so that no more than MARK are in use; negative when there is room. */
  function excess({ storeBytes, disk }: Usage, mark: Watermark): number {
    return 'bytes' in mark ? storeBytes - mark.bytes : disk.usedBytes - (disk.totalBytes * mark.percent) / 100
  }

  /**
   * How long it may still take until all living processes have told a catalog that was made anew what they
   * need.
   */
  function unsettledMs(): number {
    const until = file.read(
      (db) => db.prepare("SELECT value FROM meta WHERE key = 'settled_at_ms'").get()?.['value'],
    )
    const leftMs = until === undefined ? 0 : Number(until) - Date.now()
    if (leftMs <= SETTLE_MS) return leftMs
    // The clock was set back: the minute begins anew, rather than to last for a day.
    file.free((db) =>
      db.prepare("UPDATE meta SET value = ? WHERE key = 'settled_at_ms'").run(String(Date.now() + SETTLE_MS)),
    )
    return SETTLE_MS
  }

  function checkSettled(): void {
    const leftMs = unsettledMs()
    if (leftMs <= 0) return
    const message = `the catalog of the image store was just made anew, and running workers have not all said yet what they need; try again in ${Math.ceil(leftMs / 1000)} s`
    throw new Conflict(message, 'ERR_IMAGE_IN_USE')
  }

  async function prune(options: PruneOptions = {}): Promise<Freed> {
    checkSettled()
    const nowMs = Date.now()
    const listing = await list()
    return await remove(
      listing,
      (images) => {
        const free = images.filter((image) => isFree(image, options, nowMs))
        return choose(images, free, listing, options.bytes ?? Infinity)
      },
      { dryRun: options.dryRun ?? false },
    )
  }

  return {
    usage,

    /** How many bytes each layer takes on the disk, by diffID. */
    layerSizes,

    /**
     * Remove what nobody needs: images without a name (with `all`, those with one too) that no function and
     * no living process has, and leftovers of failed pulls older than an hour.
     */
    prune,

    /**
     * When more than HIGH is in use, remove unnamed images that nobody needs, used longest ago first, until
     * LOW is reached.
     */
    async collect({ high, low }: { high: Watermark; low: Watermark }): Promise<Freed | undefined> {
      const used = await usage()
      if (excess(used, high) <= 0 || unsettledMs() > 0) return undefined
      return await prune({ bytes: Math.max(1, excess(used, low)) })
    },

    /**
     * Remove the image DIGEST, whatever it is called.  Throws Conflict when a function or a process needs it.
     */
    async removeImage(digest: string): Promise<Freed> {
      checkSettled()
      return await remove(await list(), (images) => {
        const image = images.find((image) => image.digest === digest)
        if (image?.isDeployed)
          throw new Conflict(
            `image ${digest} is needed by a function that is deployed; remove the function first`,
            'ERR_IMAGE_IN_USE',
          )
        if (image?.isPinned)
          throw new Conflict(
            `image ${digest} is needed by a process that runs; wait for it, or end it`,
            'ERR_IMAGE_IN_USE',
          )
        return image ? [image] : []
      })
    },

    /**
     * Remove those of DIGESTS (layers, blobs) that no image has and nobody holds: what a failed pull wrote.
     */
    async dropUnused(digests: readonly string[]): Promise<Freed> {
      const listing = await listSome(digests)
      return await remove(listing, () => [], { concerned: digests })
    },
  }
}
