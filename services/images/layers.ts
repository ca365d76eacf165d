// The store's unpacked layers, one folder per diffID. A folder under its final name is whole, on the disk,
// and never written to again.

import { mkdir, rename, stat } from 'node:fs/promises'
import { isMissing, isOccupied, pathOf, removeTrees, syncFolder } from './disk.ts'

/** The layers in FOLDER, which are filled at a new TEMPORARYPATH first. */
export function createLayers(folder: string, temporaryPath: () => Promise<string>) {
  const layerPath = (diffId: string): string => pathOf(folder, diffId)

  return {
    /** The path of layer DIFFID, whether or not it exists. */
    layerPath,

    async hasLayer(diffId: string): Promise<boolean> {
      try {
        return (await stat(layerPath(diffId))).isDirectory()
      } catch (error) {
        if (isMissing(error)) return false
        throw error
      }
    },

    /** A new empty folder for one layer, until commitLayer or discard. */
    async makeDraft(): Promise<string> {
      const draft = await temporaryPath()
      await mkdir(draft, { mode: 0o700 })
      return draft
    },

    /** Rename DRAFT, whose files are on the disk, to its final name.  Return: that path. */
    async commitLayer(draft: string, diffId: string): Promise<string> {
      try {
        await rename(draft, layerPath(diffId))
      } catch (error) {
        if (!isOccupied(error)) throw error
        await removeTrees([draft]) // another process committed the same layer first
      }
      await syncFolder(folder)
      return layerPath(diffId)
    },

    /** Remove a draft; it may be gone already. */
    async discard(draft: string): Promise<void> {
      await removeTrees([draft])
    },
  }
}
