// The catalog: which images the store has, their local names, what needs them, and when they were last used.
// All processes on one data folder share it; every method is one short transaction.
//   images, names      what `wherry image ls` shows
//   pins, deployed     what must not be removed
//   claims             which process is fetching a layer, so that only one on this host does
// A pin or claim is valid while the process that made it lives (identified by pid and start time), so kill -9
// leaves nothing to clean up.

import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { DatabaseSync } from 'node:sqlite'
import { Overloaded } from '../contract/errors.ts'
import { startTimeOf } from '../platform/process-identity.ts'
import { ownName, type CatalogFile } from './catalog-file.ts'

export interface StoredLayer {
  readonly diffId: string
  /** Of the packed layer. */
  readonly digest: string
  readonly sizeBytes: number
}

export interface StoredImage {
  /** The digest by which the image was requested: of an index or a manifest. */
  readonly digest: string
  readonly manifestDigest: string
  readonly configDigest: string
  /** The "registry/repository" it came from, from which missing packed layers can be fetched again. */
  readonly source?: string
  readonly pulledAtMs: number
  readonly usedAtMs: number
  /** Lowest first. */
  readonly layers: readonly StoredLayer[]
  readonly names: readonly string[]
  /** A deployed function uses this image. */
  readonly isDeployed: boolean
  /** A living process needs it now. */
  readonly isPinned: boolean
}

export type NewImage = Pick<StoredImage, 'digest' | 'manifestDigest' | 'configDigest' | 'layers'> & {
  readonly source?: string
}

export type Catalog = ReturnType<typeof createCatalog>

const CLAIM_POLL_MS = 75
/** Longer than any fetch of one layer: a process that holds a claim for longer hangs. */
const CLAIM_WAIT_MAX_MS = 35 * 60_000
const TOUCH_FLUSH_MS = 10_000
const TOUCHED_MAX = 10_000

type Row = Readonly<Record<string, unknown>>

/** Pids and start times repeat after a reboot. */
function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').slice(0, 8)
}

/** Whether the process of OWNER ("PID-START-BOOT-…") still runs. */
function isOwnerAlive(owner: string): boolean {
  const match = /^(\d{1,10})-(\d{1,20})-([0-9a-f]{8})-/.exec(owner)
  return match !== null && startTimeOf(Number(match[1])) === match[2] && match[3] === bootId()
}

/** Insert or update IMAGE; its names and pins do not change. */
export function insertImage(db: DatabaseSync, image: NewImage, nowMs: number): void {
  db.prepare(
    `INSERT INTO images (digest, manifest_digest, config_digest, source, pulled_at_ms, used_at_ms) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (digest) DO UPDATE SET manifest_digest = excluded.manifest_digest, config_digest = excluded.config_digest,
      source = coalesce(excluded.source, source), used_at_ms = excluded.used_at_ms`,
  ).run(image.digest, image.manifestDigest, image.configDigest, image.source ?? null, nowMs, nowMs)
  db.prepare('DELETE FROM image_layers WHERE image = ?').run(image.digest)
  const insert = db.prepare(
    'INSERT INTO image_layers (image, position, diff_id, digest, size_bytes) VALUES (?, ?, ?, ?, ?)',
  )
  image.layers.forEach((layer, i) => {
    insert.run(image.digest, i, layer.diffId, layer.digest, layer.sizeBytes)
  })
}

/** Remove the pins and claims of dead processes. */
export function dropDeadOwners(db: DatabaseSync): void {
  const owners = db
    .prepare('SELECT owner FROM pins UNION SELECT owner FROM claims')
    .all()
    .map((row) => String(row['owner']))
  for (const owner of owners.filter((owner) => !isOwnerAlive(owner))) {
    db.prepare('DELETE FROM pins WHERE owner = ?').run(owner)
    db.prepare('DELETE FROM claims WHERE owner = ?').run(owner)
  }
}

/** ROWS by the value of COLUMN. */
function groupBy(rows: readonly Row[], column: string): ReadonlyMap<string, readonly Row[]> {
  return Map.groupBy(rows, (row) => String(row[column]))
}

/** The images of DB, most recently used first; only DIGEST when given. */
export function loadImages(db: DatabaseSync, digest?: string): StoredImage[] {
  const all = (table: string, column: string, order: string): readonly Row[] =>
    digest === undefined
      ? db.prepare(`SELECT * FROM ${table} ORDER BY ${order}`).all()
      : db.prepare(`SELECT * FROM ${table} WHERE ${column} = ? ORDER BY ${order}`).all(digest)
  const layers = groupBy(all('image_layers', 'image', 'position'), 'image')
  const names = groupBy(all('names', 'digest', 'name'), 'digest')
  const pins = groupBy(all('pins', 'digest', 'owner'), 'digest')
  const deployed = new Set(all('deployed', 'digest', 'digest').map((row) => String(row['digest'])))
  const alive = new Set(
    [...new Set([...pins.values()].flat().map((row) => String(row['owner'])))].filter(isOwnerAlive),
  )
  return all('images', 'digest', 'used_at_ms DESC, digest').map((row) => {
    const digest = String(row['digest'])
    return {
      digest,
      manifestDigest: String(row['manifest_digest']),
      configDigest: String(row['config_digest']),
      ...(row['source'] !== null && { source: String(row['source']) }),
      pulledAtMs: Number(row['pulled_at_ms']),
      usedAtMs: Number(row['used_at_ms']),
      layers: (layers.get(digest) ?? []).map((l) => ({
        diffId: String(l['diff_id']),
        digest: String(l['digest']),
        sizeBytes: Number(l['size_bytes']),
      })),
      names: (names.get(digest) ?? []).map((n) => String(n['name'])),
      isDeployed: deployed.has(digest),
      isPinned: (pins.get(digest) ?? []).some((pin) => alive.has(String(pin['owner']))),
    }
  })
}

/** The catalog in FILE.  OWNPREFIX ("pid-start-") tells this process's pins and claims from others'. */
export function createCatalog({
  file,
  ownPrefix,
  onNote,
}: {
  file: CatalogFile
  ownPrefix: string
  onNote: (text: string) => void
}) {
  const owner = ownName(`${ownPrefix}${bootId()}-`)
  const pins = new Map<string, number>()
  const claims = new Set<string>()
  const touched = new Map<string, number>()
  let flushTimer: NodeJS.Timeout | undefined

  // Another process has replaced the database that had our pins and claims.
  file.onReplaced((db) => {
    const insertPin = db.prepare('INSERT OR REPLACE INTO pins (digest, owner) VALUES (?, ?)')
    for (const digest of pins.keys()) insertPin.run(digest, owner)
    const insertClaim = db.prepare('INSERT OR REPLACE INTO claims (diff_id, owner) VALUES (?, ?)')
    for (const diffId of claims) insertClaim.run(diffId, owner)
  })

  function flush(): void {
    clearTimeout(flushTimer)
    flushTimer = undefined
    if (touched.size === 0) return
    const batch = [...touched]
    touched.clear()
    file.write((db) => {
      const update = db.prepare('UPDATE images SET used_at_ms = max(used_at_ms, ?) WHERE digest = ?')
      for (const [digest, atMs] of batch) update.run(atMs, digest)
    })
  }

  function flushLater(): void {
    try {
      flush()
    } catch (error) {
      onNote(`the last use of images could not be recorded: ${(error as Error).message}`)
    }
  }

  /** Return: whether this process has the claim now. */
  function tryClaim(diffId: string): boolean {
    if (claims.has(diffId)) return false
    const isOurs = file.write((db) => {
      const holder = db.prepare('SELECT owner FROM claims WHERE diff_id = ?').get(diffId)?.['owner']
      if (holder !== undefined && isOwnerAlive(String(holder))) return false
      db.prepare('INSERT OR REPLACE INTO claims (diff_id, owner) VALUES (?, ?)').run(diffId, owner)
      return true
    })
    if (isOurs) claims.add(diffId)
    return isOurs
  }

  return {
    /** Record an image whose blobs and layers are in the store.  Recording it again keeps its names. */
    recordImage(image: NewImage): void {
      file.write((db) => {
        insertImage(db, image, Date.now())
      })
    },

    /**
     * Let NAME (formatReference of a reference with a tag) refer to DIGEST.  Return: the digest before.
     */
    tag(name: string, digest: string): string | undefined {
      return file.write((db) => {
        const before = db.prepare('SELECT digest FROM names WHERE name = ?').get(name)?.['digest']
        db.prepare('INSERT OR REPLACE INTO names (name, digest) VALUES (?, ?)').run(name, digest)
        return before === undefined ? undefined : String(before)
      })
    },

    /** Remove a name.  Return: whether it existed. */
    untag(name: string): boolean {
      return file.free((db) => Number(db.prepare('DELETE FROM names WHERE name = ?').run(name).changes) > 0)
    },

    /** The digest that NAME refers to. */
    find(name: string): string | undefined {
      const digest = file.read(
        (db) => db.prepare('SELECT digest FROM names WHERE name = ?').get(name)?.['digest'],
      )
      return digest === undefined ? undefined : String(digest)
    },

    /** Name → digest, sorted. */
    names(): ReadonlyMap<string, string> {
      const rows = file.read((db) => db.prepare('SELECT name, digest FROM names ORDER BY name').all())
      return new Map(rows.map((row) => [String(row['name']), String(row['digest'])]))
    },

    image(digest: string): StoredImage | undefined {
      return file.read((db) => loadImages(db, digest)[0])
    },

    /** All images, most recently used first. */
    images(): readonly StoredImage[] {
      flush()
      return file.read(loadImages)
    },

    /** The image was used now.  Cheap: uses are recorded together some seconds later. */
    touch(digest: string): void {
      if (touched.size >= TOUCHED_MAX && !touched.has(digest)) return
      touched.set(digest, Date.now())
      flushTimer ??= setTimeout(flushLater, TOUCH_FLUSH_MS).unref()
    },

    /**
     * Protect DIGESTS (an image with all it needs, a layer by its diffID, a blob) from removal until this
     * process unpins them as often, or ends.
     */
    pin(...digests: string[]): void {
      const fresh = digests.filter((digest, i) => !pins.has(digest) && digests.indexOf(digest) === i)
      if (fresh.length > 0) {
        file.write((db) => {
          const insert = db.prepare('INSERT OR REPLACE INTO pins (digest, owner) VALUES (?, ?)')
          for (const digest of fresh) insert.run(digest, owner)
        })
      }
      for (const digest of digests) pins.set(digest, (pins.get(digest) ?? 0) + 1)
    },

    unpin(...digests: string[]): void {
      const gone: string[] = []
      for (const digest of digests) {
        const count = pins.get(digest) ?? 0
        if (count > 1) pins.set(digest, count - 1)
        else if (pins.delete(digest)) gone.push(digest)
      }
      if (gone.length === 0) return
      file.free((db) => {
        const remove = db.prepare('DELETE FROM pins WHERE digest = ? AND owner = ?')
        for (const digest of gone) remove.run(digest, owner)
      })
    },

    /** The images of deployed functions; stays valid until the next call, also while no worker runs. */
    setDeployed(digests: readonly string[]): void {
      file.free((db) => {
        db.exec('DELETE FROM deployed')
        const insert = db.prepare('INSERT OR IGNORE INTO deployed (digest) VALUES (?)')
        for (const digest of digests) insert.run(digest)
      })
    },

    /**
     * Become the only process on this host that fetches layer DIFFID; waits while another one has the claim.
     * The caller must then check whether the layer exists now. Throws Overloaded after 35 minutes, or
     * SIGNAL's reason.
     */
    async claimLayer(diffId: string, signal?: AbortSignal): Promise<void> {
      const giveUpAt = performance.now() + CLAIM_WAIT_MAX_MS
      while (!tryClaim(diffId)) {
        signal?.throwIfAborted()
        if (performance.now() > giveUpAt)
          throw new Overloaded(
            `layer ${diffId} is being fetched by another process that hangs; stop that process`,
            'ERR_STORE_BUSY',
          )
        await delay(CLAIM_POLL_MS)
      }
    },

    releaseLayer(diffId: string): void {
      if (!claims.delete(diffId)) return
      file.free((db) => {
        db.prepare('DELETE FROM claims WHERE diff_id = ? AND owner = ?').run(diffId, owner)
      })
    },

    /** Release all pins and claims, record the last uses, close the file. */
    close(): void {
      flushLater() // a full disk gives a note only, so the pins are still released
      if (pins.size > 0 || claims.size > 0) {
        file.free((db) => {
          db.prepare('DELETE FROM pins WHERE owner = ?').run(owner)
          db.prepare('DELETE FROM claims WHERE owner = ?').run(owner)
        })
      }
      pins.clear()
      claims.clear()
      file.close()
    },
  }
}
