// The content-addressed store on disk, shared by all processes of a machine that name the same folder:
//   blobs/sha256/<hex>      blobs.ts: manifests, configs, packed layers
//   layers/sha256/<diffID>/ layers.ts: unpacked layers
//   catalog/                catalog.ts: which images these are, and what needs them
//   tmp/<pid>-<start>-<n>   what is being written, unpacked or removed
// Everything is written in tmp/, synced, and renamed to its final name.  When two processes write the same
// thing at once, both succeed and the later copy is removed.

import { chmod, mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { startTimeOf } from '../platform/process-identity.ts'
import { createBlobs } from './blobs.ts'
import { createCatalog } from './catalog.ts'
import { openCatalogFile, ownName } from './catalog-file.ts'
import { createCollector } from './collect.ts'
import { diskError, removeTrees } from './disk.ts'
import { createLayers } from './layers.ts'
import { fillCatalog } from './rebuild.ts'

export type ImageStore = ReturnType<typeof createImageStore>

export interface ImageStoreDeps {
  readonly dir: string
  /** Gets a line for people when the catalog had to be rebuilt. */
  readonly onNote?: (text: string) => void
}

/** A store in folder DIR, which is made on first use. */
export function createImageStore({ dir, onNote = () => {} }: ImageStoreDeps) {
  const blobs = join(dir, 'blobs', 'sha256')
  const layers = join(dir, 'layers', 'sha256')
  const temporary = join(dir, 'tmp')
  const ownPrefix = `${process.pid}-${startTimeOf(process.pid)}-`
  let opened: Promise<void> | undefined

  /** Remove what dead processes left in tmp/; drafts of live ones stay. */
  async function sweep(): Promise<void> {
    for (const name of await readdir(temporary)) {
      const owner = /^(\d{1,10})-(\d{1,20})-/.exec(name)
      if (owner && startTimeOf(Number(owner[1])) !== owner[2]) await removeTrees([join(temporary, name)])
    }
  }

  async function prepare(): Promise<void> {
    try {
      for (const folder of [blobs, layers, temporary]) await mkdir(folder, { recursive: true, mode: 0o700 })
      for (const folder of ['blobs', 'layers', 'tmp']) await chmod(join(dir, folder), 0o700)
    } catch (error) {
      throw diskError(dir, error)
    }
    await sweep()
  }

  /** Once; after a failure the next caller tries again. */
  function prepared(): Promise<void> {
    opened ??= prepare().catch((error: unknown) => {
      opened = undefined
      throw error
    })
    return opened
  }

  async function temporaryPath(): Promise<string> {
    await prepared()
    return join(temporary, ownName(ownPrefix))
  }

  const file = openCatalogFile({
    dir,
    temporaryName: () => ownName(ownPrefix),
    fill: (db, old) => fillCatalog(dir, db, old),
    onNote,
  })
  const catalog = createCatalog({ file, ownPrefix, onNote })
  const collector = createCollector({
    file,
    blobs,
    layers,
    prepare: prepared,
    temporaryPath: () => join(temporary, ownName(ownPrefix)),
    removeTrees,
  })

  return {
    /**
     * Make the folders and sweep tmp/.  Done on first use anyway; calling it early finds a bad folder early.
     */
    open: prepared,

    ...createBlobs(blobs, temporaryPath),
    ...createLayers(layers, temporaryPath),

    /** Which images there are, and what needs them; its database is opened on first use. */
    catalog,

    /** Removes images, and what no image needs any more. */
    collector,

    /** Give back pins and claims and close the catalog. */
    close(): void {
      catalog.close()
    },
  }
}
