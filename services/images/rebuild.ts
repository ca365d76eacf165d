// Rebuilds the catalog from the disk: manifests and configs say which images exist, folders say which of
// their layers do. What only the old catalog knew (names, sources, deployed and pinned images) is taken from
// it as far as it can be read. Runs once, synchronously, when the catalog is missing or damaged.

import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { DatabaseSync } from 'node:sqlite'
import { digestOf, digestOfHex, HEX, hexOf } from '../contract/digest.ts'
import type { ImageConfig, Index, Manifest } from '../contract/image.ts'
import { insertImage, type NewImage } from './catalog.ts'
import { parseImageConfig, parseManifest, MANIFEST_BYTES_MAX } from '../registry/manifest.ts'

const BLOBS_MAX = 100_000
const OPENING_BRACE = 0x7b
/** Pins of other processes may be lost with the old catalog; they pin again within this time. */
export const SETTLE_MS = 60_000
const SALVAGED: ReadonlyArray<readonly [table: string, ...columns: string[]]> = [
  ['names', 'name', 'digest'],
  ['pins', 'digest', 'owner'],
  ['claims', 'diff_id', 'owner'],
  ['deployed', 'digest'],
]

/** The blob HEX if it can be a document: small, and beginning like a JSON object. */
function readDocument(blobs: string, hex: string): Buffer | undefined {
  const path = join(blobs, hex)
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0
  if (size < 2 || size > MANIFEST_BYTES_MAX) return undefined
  const first = Buffer.alloc(1)
  const file = openSync(path, 'r')
  try {
    readSync(file, first, 0, 1, 0)
  } finally {
    closeSync(file)
  }
  if (first[0] !== OPENING_BRACE) return undefined
  const bytes = readFileSync(path)
  return digestOf(bytes) === digestOfHex(hex) ? bytes : undefined
}

function parsed<T>(parse: () => T): T | undefined {
  try {
    return parse()
  } catch {
    return undefined // another kind of document
  }
}

/** The images of folder DIR that have all their layers. */
function findImages(dir: string): NewImage[] {
  const blobs = join(dir, 'blobs', 'sha256')
  const hexes = existsSync(blobs)
    ? readdirSync(blobs)
        .filter((name) => HEX.test(name))
        .slice(0, BLOBS_MAX)
    : []
  const manifests = new Map<string, Manifest>()
  const indexes = new Map<string, Index>()
  const configs = new Map<string, ImageConfig>()
  for (const hex of hexes) {
    const bytes = readDocument(blobs, hex)
    if (!bytes) continue
    const manifest = parsed(() => parseManifest(bytes))
    if (manifest && 'manifests' in manifest) indexes.set(digestOfHex(hex), manifest)
    else if (manifest) manifests.set(digestOfHex(hex), manifest)
    else {
      const config = parsed(() => parseImageConfig(bytes))
      if (config) configs.set(digestOfHex(hex), config)
    }
  }
  const isPresent = (diffId: string): boolean => existsSync(join(dir, 'layers', 'sha256', hexOf(diffId)))
  const images = new Map<string, NewImage>()
  for (const [
    digest,
    {
      config: { digest: configDigest },
      layers,
    },
  ] of manifests) {
    const config = configs.get(configDigest)
    if (!config || config.diffIds.length !== layers.length || !config.diffIds.every(isPresent)) continue
    images.set(digest, {
      digest,
      manifestDigest: digest,
      configDigest,
      layers: layers.map((layer, i) => ({
        diffId: config.diffIds[i]!,
        digest: layer.digest,
        sizeBytes: layer.size,
      })),
    })
  }
  for (const [digest, index] of indexes) {
    const chosen = index.manifests.map((m) => images.get(m.digest)).find((image) => image !== undefined)
    if (chosen) images.set(digest, { ...chosen, digest })
  }
  return [...images.values()]
}

function salvage(db: DatabaseSync, old: DatabaseSync): void {
  for (const [table, ...columns] of SALVAGED) {
    const rows = parsed(() => old.prepare(`SELECT ${columns.join(', ')} FROM ${table}`).all()) ?? []
    const insert = db.prepare(
      `INSERT OR IGNORE INTO ${table} (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`,
    )
    for (const row of rows) parsed(() => insert.run(...columns.map((column) => row[column]!)))
  }
  const images =
    parsed(() =>
      old.prepare('SELECT digest, source, used_at_ms FROM images WHERE source IS NOT NULL').all(),
    ) ?? []
  const update = db.prepare('UPDATE images SET source = ?, used_at_ms = ? WHERE digest = ?')
  for (const { source, used_at_ms: usedAtMs, digest } of images)
    parsed(() => update.run(source!, usedAtMs!, digest!))
}

/** Fill the empty DB with the images of the store in folder DIR, and with what can be read of OLD. */
export function fillCatalog(dir: string, db: DatabaseSync, old: DatabaseSync | undefined): void {
  const nowMs = Date.now()
  const images = findImages(dir)
  for (const image of images) insertImage(db, image, nowMs)
  if (old) salvage(db, old)
  if (images.length > 0)
    db.prepare("INSERT INTO meta (key, value) VALUES ('settled_at_ms', ?)").run(String(nowMs + SETTLE_MS))
}
