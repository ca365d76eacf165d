// What the store has on the disk and how much space each item takes.  A layer is measured by du(1) once; the
// catalog remembers the result.

import { execFile } from 'node:child_process'
import { readdir, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { digestOfHex, HEX, hexOf } from '../contract/digest.ts'
import type { CatalogFile } from './catalog-file.ts'

const run = promisify(execFile)
const LAYERS_PER_DU = 256
/** The unit of st_blocks (inode(7)). */
const BLOCK_BYTES = 512
const DU_OUTPUT_CHARACTERS_MAX = 1024 ** 2

export interface Item {
  readonly path: string
  readonly bytes: number
  readonly changedAtMs: number
}

export interface Listing {
  readonly layers: ReadonlyMap<string, Item>
  readonly blobs: ReadonlyMap<string, Item>
}

export interface ListingDeps {
  readonly file: CatalogFile
  /** Folders of blobs and layers. */
  readonly blobs: string
  readonly layers: string
  /** Makes the folders. */
  readonly prepare: () => Promise<void>
}

/** Bytes on the disk of each of FOLDERS, by path, without those that have been removed meanwhile. */
async function measure(folders: readonly string[]): Promise<ReadonlyMap<string, number>> {
  const options = { maxBuffer: DU_OUTPUT_CHARACTERS_MAX }
  const output = await run('du', ['-s', '-B1', '--', ...folders], options).catch((error: unknown) => {
    // du(1) complains about missing folders and counts the rest.
    if (
      error instanceof Error &&
      'stdout' in error &&
      typeof error.stdout === 'string' &&
      'code' in error &&
      error.code === 1
    )
      return { stdout: error.stdout }
    throw error
  })
  const lines = [...output.stdout.matchAll(/^(\d+)\t(.+)$/gm)]
  return new Map(lines.map(([, bytes, path]) => [path!, Number(bytes)]))
}

export function sumOf(items: Iterable<Item>): number {
  let bytes = 0
  for (const item of items) bytes += item.bytes
  return bytes
}

/** Lists the folders BLOBS and LAYERS. */
export function createListing({ file, blobs, layers, prepare }: ListingDeps) {
  /** The NAMES that exist in FOLDER, with their known SIZES or else the blocks of their inodes. */
  async function statAll(
    folder: string,
    names: readonly string[],
    sizes?: ReadonlyMap<string, number>,
  ): Promise<Map<string, Item>> {
    const items = new Map<string, Item>()
    for (const name of names.filter((name) => HEX.test(name))) {
      const path = join(folder, name)
      const found = await stat(path).catch(() => undefined)
      const digest = digestOfHex(name)
      if (found)
        items.set(digest, {
          path,
          bytes: sizes?.get(digest) ?? found.blocks * BLOCK_BYTES,
          changedAtMs: found.ctimeMs,
        })
    }
    return items
  }

  function knownSizes(): Map<string, number> {
    const rows = file.read((db) => db.prepare('SELECT diff_id, disk_bytes FROM layer_sizes').all())
    return new Map(rows.map((row) => [String(row['diff_id']), Number(row['disk_bytes'])]))
  }

  /** The bytes of each layer on the disk, by diffID. */
  async function layerSizes(): Promise<ReadonlyMap<string, number>> {
    const names = (await readdir(layers)).filter((name) => HEX.test(name))
    const known = knownSizes()
    const unknown = names.filter((name) => !known.has(digestOfHex(name)))
    for (let i = 0; i < unknown.length; i += LAYERS_PER_DU) {
      const batch = unknown.slice(i, i + LAYERS_PER_DU)
      const sizes = [...(await measure(batch.map((name) => join(layers, name))))].map(
        ([path, bytes]) => [digestOfHex(basename(path)), bytes] as const,
      )
      file.free((db) => {
        const insert = db.prepare('INSERT OR REPLACE INTO layer_sizes (diff_id, disk_bytes) VALUES (?, ?)')
        for (const [diffId, bytes] of sizes) insert.run(diffId, bytes)
      })
      for (const [diffId, bytes] of sizes) known.set(diffId, bytes)
    }
    return known
  }

  async function list(): Promise<Listing> {
    await prepare()
    const sizes = await layerSizes()
    return {
      layers: await statAll(layers, await readdir(layers), sizes),
      blobs: await statAll(blobs, await readdir(blobs)),
    }
  }

  /** Those of DIGESTS that are on the disk. */
  async function listSome(digests: readonly string[]): Promise<Listing> {
    await prepare()
    const names = [...new Set(digests)].map(hexOf)
    return {
      layers: await statAll(layers, names, knownSizes()),
      blobs: await statAll(blobs, names),
    }
  }

  return { list, listSome, layerSizes }
}
