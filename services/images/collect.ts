// Removes unneeded images from the store, and the layers and blobs that no image has any more. The decision
// is made inside one transaction of the catalog, and what is removed is renamed into tmp/ before the
// transaction ends: a pull that has pinned a layer sees all of it or none. The slow part, rm(1), comes
// afterwards.

import { renameSync, statSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import type { DatabaseSync } from 'node:sqlite'
import { Conflict } from '../contract/errors.ts'
import { dropDeadOwners, loadImages, type StoredImage } from './catalog.ts'
import type { CatalogFile } from './catalog-file.ts'
import { createListing, sumOf, type Item, type Listing } from './listing.ts'
import { SETTLE_MS } from './rebuild.ts'

/**
 * A younger item without an image may belong to a pull in progress.  A time in the future, from before the
 * clock was set back, counts as old.
 */
const ORPHAN_AGE_MIN_MS = 3_600_000
export interface PruneOptions {
  /** Remove images with a name, too. */
  readonly all?: boolean
  /** Only images that were unused for this long. */
  readonly olderThanMs?: number
  /** Only report what would be removed. */
  readonly dryRun?: boolean
  /** Stop when this much is freed, least recently used first. */
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
   * The file system of the store, counted as df(1) does: used bytes, and used plus available bytes.
   */
  readonly disk: { readonly usedBytes: number; readonly totalBytes: number }
}

/** A watermark: bytes of the store, or percent of its disk. */
export type Watermark = { readonly bytes: number } | { readonly percent: number }

export interface CollectorDeps {
  readonly file: CatalogFile
  /** The store's folders of blobs and layers. */
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

/** What KEPT images, pins and claims need: the digests of blobs and the diffIDs of layers. */
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

/** Removes items from the store whose catalog is FILE. */
export function createCollector({ file, blobs, layers, prepare, temporaryPath, removeTrees }: CollectorDeps) {
  const { list, listSome, layerSizes } = createListing({ file, blobs, layers, prepare })

  /** The unneeded ITEMS that are in CONCERNED or old. */
  function deadItems(
    items: ReadonlyMap<string, Item>,
    needed: ReadonlySet<string>,
    concerned: ReadonlySet<string>,
    nowMs: number,
  ): Array<[string, Item]> {
    return [...items].filter(([digest, { path, changedAtMs }]) => {
      if (needed.has(digest) || !(concerned.has(digest) || Math.abs(nowMs - changedAtMs) > ORPHAN_AGE_MIN_MS))
        return false
      // Since the listing another process may have removed or replaced it.
      const now = statSync(path, { throwIfNoEntry: false })
      return now !== undefined && (concerned.has(digest) || now.ctimeMs === changedAtMs)
    })
  }

  /** The FREE images to remove, least recently used first, until BYTES are freed. */
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
   * Remove the images that SELECT returns and the items of LISTING that only they need; also CONCERNED
   * digests that nothing needs.
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

  /** How many bytes are used above MARK; negative when below. */
  function excess({ storeBytes, disk }: Usage, mark: Watermark): number {
    return 'bytes' in mark ? storeBytes - mark.bytes : disk.usedBytes - (disk.totalBytes * mark.percent) / 100
  }

  /**
   * How long to wait until all living processes have pinned what they need in a rebuilt catalog.
   */
  function unsettledMs(): number {
    const until = file.read(
      (db) => db.prepare("SELECT value FROM meta WHERE key = 'settled_at_ms'").get()?.['value'],
    )
    const leftMs = until === undefined ? 0 : Number(until) - Date.now()
    if (leftMs <= SETTLE_MS) return leftMs
    // The clock was set back: restart the minute instead of waiting perhaps for a day.
    file.free((db) =>
      db.prepare("UPDATE meta SET value = ? WHERE key = 'settled_at_ms'").run(String(Date.now() + SETTLE_MS)),
    )
    return SETTLE_MS
  }

  function checkSettled(): void {
    const leftMs = unsettledMs()
    if (leftMs <= 0) return
    const message = `the catalog of the image store was just rebuilt, and running workers may not have pinned their images yet; try again in ${Math.ceil(leftMs / 1000)} s`
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

    /** The bytes of each layer on the disk, by diffID. */
    layerSizes,

    /**
     * Remove images without a name (with `all`, named ones too) that no function and no living process needs,
     * and leftovers of failed pulls that are older than an hour.
     */
    prune,

    /**
     * When more than HIGH is used, remove unneeded images without a name, least recently used first, until
     * LOW is reached.
     */
    async collect({ high, low }: { high: Watermark; low: Watermark }): Promise<Freed | undefined> {
      const used = await usage()
      if (excess(used, high) <= 0 || unsettledMs() > 0) return undefined
      return await prune({ bytes: Math.max(1, excess(used, low)) })
    },

    /**
     * Remove the image DIGEST with all its names.  Throws Conflict when a function or a process needs it.
     */
    async removeImage(digest: string): Promise<Freed> {
      checkSettled()
      return await remove(await list(), (images) => {
        const image = images.find((image) => image.digest === digest)
        if (image?.isDeployed)
          throw new Conflict(
            `image ${digest} is used by a deployed function; remove the function first`,
            'ERR_IMAGE_IN_USE',
          )
        if (image?.isPinned)
          throw new Conflict(
            `image ${digest} is used by a running process; wait for it, or stop it`,
            'ERR_IMAGE_IN_USE',
          )
        return image ? [image] : []
      })
    },

    /**
     * Remove those of DIGESTS (layers, blobs) that nothing needs: what a failed pull wrote.
     */
    async dropUnused(digests: readonly string[]): Promise<Freed> {
      const listing = await listSome(digests)
      return await remove(listing, () => [], { concerned: digests })
    },
  }
}
