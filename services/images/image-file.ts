// Reads one small file of an image from its unpacked layers, without mounting them: /etc/passwd, for the user
// that an image names.

import { constants, type Stats } from 'node:fs'
import { lstat, open } from 'node:fs/promises'
import { join } from 'node:path'
import { ContentError } from '../contract/errors.ts'
import type { Image } from '../contract/image.ts'

const FILE_BYTES_MAX = 1024 ** 2

/**
 * What LAYER has at PARTS: its stat, 'hidden' when a parent is not a directory, or undefined when the layer
 * does not mention it.
 */
async function findInLayer(layer: string, parts: readonly string[]): Promise<Stats | 'hidden' | undefined> {
  let found: Stats | undefined
  for (let depth = 1; depth <= parts.length; depth++) {
    try {
      found = await lstat(join(layer, ...parts.slice(0, depth)))
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
      throw error
    }
    if (depth < parts.length && !found.isDirectory()) return 'hidden'
  }
  return found
}

/**
 * The text of IMAGE's file PATH ("/etc/passwd") as its container would see it, or undefined. Never follows a
 * symlink. Layers are immutable and owned by root, so checking before opening is safe. Opaque directories are
 * ignored: a file that only a lower layer has is found even if a directory above hides it. Throws
 * ContentError ERR_CONTENT_LIMIT above 1 MiB.
 */
export async function readImageFile(image: Pick<Image, 'layers'>, path: string): Promise<string | undefined> {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.')
  if (parts.length === 0 || parts.includes('..')) return undefined
  for (const layer of image.layers.toReversed()) {
    const found = await findInLayer(layer, parts)
    if (!found) continue
    if (found === 'hidden' || !found.isFile()) return undefined
    if (found.size > FILE_BYTES_MAX)
      throw new ContentError(
        `${path} of the image is larger than ${FILE_BYTES_MAX} bytes`,
        'ERR_CONTENT_LIMIT',
      )
    const file = await open(
      join(layer, ...parts),
      constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
    )
    try {
      return await file.readFile('utf8')
    } finally {
      await file.close()
    }
  }
  return undefined
}
