// The layer cache: maps the inputs of a step to the layer that it made last time. A key is the digest of
// everything that the step can see: the layers below by content, its text with values filled in, and the
// files it copies. So a changed LABEL above a RUN does not run it again, and a changed file does. Entries
// name layers of the store; an entry whose layer was removed does not count.

import { randomUUID } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { digestOf, hexOf, isDigest } from '../contract/digest.ts'
import type { ImageStore } from '../images/store.ts'
import type { BuiltLayer } from './layers.ts'

/** Incremented when the same key would no longer give the same layer. */
const VERSION = 1
const ENTRIES_MAX = 4096

export type BuildCache = ReturnType<typeof createBuildCache>

/** `layer` is undefined for a step that wrote nothing. */
export type CachedLayer = { readonly layer: BuiltLayer | undefined }

function parseEntry(text: string): CachedLayer | undefined {
  try {
    const value: unknown = JSON.parse(text)
    if (value === null) return { layer: undefined }
    const { diffId, digest, sizeBytes, createdAt } = value as Record<string, unknown>
    return isDigest(diffId) &&
      isDigest(digest) &&
      typeof sizeBytes === 'number' &&
      typeof createdAt === 'string'
      ? { layer: { diffId, digest, sizeBytes, createdAt } }
      : undefined
  } catch {
    return undefined // truncated by a crash of the machine
  }
}

/** A cache in folder DIR for layers of STORE whose times are at most CLAMPSECONDS. */
export function createBuildCache({
  dir,
  store,
  clampSeconds,
}: {
  dir: string
  store: ImageStore
  clampSeconds: number | undefined
}) {
  return {
    /** The key of PARTS: any JSON with a fixed order of fields. */
    key: (parts: readonly unknown[]): string =>
      hexOf(digestOf(JSON.stringify([VERSION, clampSeconds ?? null, ...parts]))),

    /**
     * The result of the step with KEY, if its layer is still complete. The layer is pinned while this process
     * lives.
     */
    async find(key: string): Promise<CachedLayer | undefined> {
      const path = join(dir, key)
      const entry = parseEntry(await readFile(path, 'utf8').catch(() => ''))
      if (entry?.layer === undefined) return entry
      const { diffId, digest } = entry.layer
      store.catalog.pin(diffId, digest)
      if (!(await store.hasLayer(diffId)) || !(await store.hasBlob(digest))) return undefined
      const now = new Date()
      await utimes(path, now, now).catch(() => {}) // pruned by another build a moment ago
      return entry
    },

    async remember(key: string, layer: BuiltLayer | undefined): Promise<void> {
      await mkdir(dir, { recursive: true, mode: 0o700 })
      const draft = join(dir, `.${randomUUID()}`)
      await writeFile(draft, JSON.stringify(layer ?? null))
      await rename(draft, join(dir, key))
    },

    /** Removes the least recently used entries above 4096, and drafts of killed builds. */
    async trim(): Promise<void> {
      const names = await readdir(dir).catch(() => [])
      if (names.length <= ENTRIES_MAX) return
      const entries = await Promise.all(
        names.map(async (name) => ({
          name,
          usedAtMs: (await stat(join(dir, name)).catch(() => undefined))?.mtimeMs ?? 0,
        })),
      )
      const oldest = entries.toSorted((a, b) => a.usedAtMs - b.usedAtMs).slice(0, names.length - ENTRIES_MAX)
      for (const { name } of oldest) await rm(join(dir, name), { force: true })
    },
  }
}
