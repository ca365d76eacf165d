// wherry image rm, prune and tag.

import { parseDurationMs } from '../../contract/quantity.ts'
import type { Freed } from '../../images/collect.ts'
import type { Context } from '../context.ts'
import { Failure, usageFailure } from '../failure.ts'
import { formatSize, shortDigest } from '../terminal.ts'
import { findImage, nameOf, withStore, type StoreOptions } from './open.ts'

export interface PruneFlags extends StoreOptions {
  readonly all?: boolean
  readonly older?: string
  readonly dryRun?: boolean
}

const titleOf = ({ names, digest }: Freed['images'][number]): string =>
  names.length > 0 ? `${names.join(', ')} (${shortDigest(digest)})` : shortDigest(digest)

function freedOf({ images, layers, blobs, bytes }: Freed): object {
  return { images: images.map(({ digest, names }) => ({ digest, names })), layers, blobs, bytes }
}

export async function removeImages(
  texts: readonly string[],
  options: StoreOptions,
  context: Context,
): Promise<void> {
  const say = (done: object, line: string): void => {
    context.stdout.write(options.json ? `${JSON.stringify(done)}\n` : `${line}\n`)
  }
  await withStore('image rm', options, context, async (store) => {
    for (const text of texts) {
      const { image, name } = findImage('image rm', store, text)
      if (name !== undefined && (image.names.length > 1 || image.isDeployed || image.isPinned)) {
        store.catalog.untag(name)
        const why =
          image.names.length > 1
            ? 'it has other names'
            : image.isDeployed
              ? 'a function uses it'
              : 'a process uses it'
        say({ untagged: name, digest: image.digest }, `untagged ${name}; the image is kept because ${why}`)
        continue
      }
      if (name === undefined && image.names.length > 1) {
        throw new Failure(
          'image rm',
          `image ${shortDigest(image.digest)} has ${image.names.length} names (${image.names.join(', ')})`,
          { remedy: 'remove it by name' },
        )
      }
      const freed = await store.collector.removeImage(image.digest)
      say(
        { removed: image.digest, ...freedOf(freed) },
        `removed ${titleOf(image)}, ${formatSize(freed.bytes)} freed`,
      )
    }
  })
}

export async function pruneImages(options: PruneFlags, context: Context): Promise<void> {
  const olderThanMs = options.older === undefined ? 0 : parseDurationMs(options.older)
  if (olderThanMs === undefined)
    throw usageFailure('image prune', `--older "${options.older}" must be a duration, for example "24h"`)
  await withStore('image prune', options, context, async (store) => {
    const dryRun = options.dryRun ?? false
    const freed = await store.collector.prune({ all: options.all ?? false, olderThanMs, dryRun })
    if (options.json) {
      context.stdout.write(`${JSON.stringify({ ...freedOf(freed), dryRun })}\n`)
      return
    }
    for (const image of freed.images)
      context.stdout.write(`${dryRun ? 'would remove' : 'removed'} ${titleOf(image)}\n`)
    const counts = `${freed.images.length} images, ${freed.layers} layers, ${freed.blobs} blobs`
    context.stdout.write(`${counts}: ${formatSize(freed.bytes)} ${dryRun ? 'would be freed' : 'freed'}\n`)
  })
}

export async function tagImage(
  text: string,
  newName: string,
  options: StoreOptions,
  context: Context,
): Promise<void> {
  await withStore('image tag', options, context, async (store) => {
    const { image } = findImage('image tag', store, text)
    const name = nameOf(newName)
    if (name === undefined) throw usageFailure('image tag', `"${newName}" is a digest, not a name`)
    const before = store.catalog.tag(name, image.digest)
    const moved = before !== undefined && before !== image.digest
    if (options.json)
      context.stdout.write(`${JSON.stringify({ name, digest: image.digest, ...(moved && { before }) })}\n`)
    else
      context.stdout.write(
        `${name} is now ${shortDigest(image.digest)}${moved ? `; previously ${shortDigest(before)}` : ''}\n`,
      )
  })
}
