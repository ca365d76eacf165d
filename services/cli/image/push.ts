// wherry push: copies images from this machine's store or from registries to a registry.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { pushIndex } from '../../images/assemble.ts'
import type { StoredImage } from '../../images/catalog.ts'
import {
  copyImage,
  eitherSource,
  registrySource,
  storeSource,
  type CopyProgress,
  type PartSource,
} from '../../images/copy.ts'
import { openRegistryClient } from '../../registry/open-registry.ts'
import { formatReference, parseReference, type Reference } from '../../registry/reference.ts'
import type { RegistryClient } from '../../registry/registry.ts'
import type { ImageStore } from '../../images/store.ts'
import type { Context } from '../context.ts'
import { usageFailure } from '../failure.ts'
import { interruptible } from '../interrupt.ts'
import { registryAccess, type AccessOptions } from '../registry-access.ts'
import { shortDigest } from '../terminal.ts'
import { dataFolder, findImage, nameOf, withStore } from './open.ts'
import { createProgress } from './progress.ts'

const WHAT = 'push'

export interface PushFlags extends AccessOptions {
  readonly index?: string
  readonly quiet?: boolean
  readonly json?: boolean
}

interface Pushing {
  readonly registry: RegistryClient
  readonly signal: AbortSignal
  readonly onProgress: (progress: CopyProgress) => void
  /** Ends the progress display. */
  readonly settle: () => void
}

/** Runs WORK with a registry client and progress on stderr, until the first signal. */
async function pushing(
  flags: PushFlags,
  context: Context,
  work: (pushing: Pushing) => Promise<void>,
): Promise<void> {
  const registry = openRegistryClient(registryAccess(flags, context))
  const progress = createProgress(context, { quiet: flags.quiet === true })
  const onProgress = ({ digest, sizeBytes, sentBytes, result }: CopyProgress): void => {
    if (result === undefined || result === 'uploaded')
      progress.onLayer({
        layer: digest,
        state: result === undefined ? 'receiving' : 'done',
        receivedBytes: sentBytes,
        sizeBytes,
        unpackedBytes: 0,
      })
    else if (flags.quiet !== true)
      context.stderr.write(
        `${shortDigest(digest)}  ${result === 'mounted' ? 'mounted from another repository' : 'already exists'}\n`,
      )
  }
  try {
    await interruptible(WHAT, context, (signal) =>
      work({ registry, signal, onProgress, settle: progress.end }),
    )
  } finally {
    progress.end()
    await registry.close()
  }
}

/**
 * Another repository of TO's registry that may have IMAGE's blobs, so that they can be mounted: that of one
 * of its names, or the source of the image or its base.
 */
function neighbourOf({ names, source }: StoredImage, to: Reference): Reference | undefined {
  return [...names, ...(source === undefined ? [] : [source])]
    .map(parseReference)
    .find(({ registry, repository }) => registry === to.registry && repository !== to.repository)
}

/** The parts of IMAGE: from STORE, or from the image's source if STORE has them only unpacked. */
function partsOf(
  store: ImageStore,
  image: StoredImage,
  to: Reference,
  { registry, signal }: Pushing,
): PartSource {
  const stored = storeSource(store, neighbourOf(image, to))
  if (image.source === undefined) return stored
  const { read, blob } = registrySource(registry, parseReference(image.source), signal)
  // Manifests are not fetched: only the platforms of an index that are stored here are pushed.
  return eitherSource(stored, {
    blob,
    read: async (descriptor) => (descriptor.size === undefined ? undefined : await read(descriptor)),
  })
}

/** TEXT as the destination. */
function placeOf(text: string): Reference {
  const to = parseReference(text)
  if (to.digest !== undefined)
    throw usageFailure(WHAT, `"${text}" has a digest, but the digest is that of the image`)
  return to
}

export async function pushOne(images: readonly string[], flags: PushFlags, context: Context): Promise<void> {
  const [text = '', place] = images
  if (images.length > 2)
    throw usageFailure(WHAT, 'give one image and one destination, or use --index to combine several images')
  const written = place === undefined ? undefined : placeOf(place)
  await withStore(WHAT, flags, context, (store) =>
    pushing(flags, context, async (pushing) => {
      const { image, name } = findImage(WHAT, store, text)
      if (written === undefined && name === undefined)
        throw usageFailure(WHAT, `"${text}" includes no destination; add one after it`)
      const to = written ?? parseReference(name!)
      store.catalog.pin(image.digest)
      try {
        const { digest, missing } = await copyImage({
          ...pushing,
          source: partsOf(store, image, to, pushing),
          digest: image.digest,
          to,
        })
        pushing.settle()
        if (missing.length > 0)
          context.stderr.write(
            `wherry: push: only the platform of this machine is stored here; not pushed: ${missing.join(', ')}\n`,
          )
        if (flags.json)
          context.stdout.write(
            `${JSON.stringify({ name: formatReference(to), digest, ...(missing.length > 0 && { missing }) })}\n`,
          )
        else context.stdout.write(`pushed ${formatReference(to)}, ${digest}\n`)
      } finally {
        store.catalog.unpin(image.digest)
      }
    }),
  )
}

/** The image TEXT from STORE if that has it, otherwise from its registry. */
async function findPart(
  text: string,
  store: ImageStore | undefined,
  to: Reference,
  pushing: Pushing,
): Promise<{ source: PartSource; digest: string }> {
  const name = nameOf(text)
  const known = name === undefined ? undefined : store?.catalog.find(name)
  const image = known === undefined ? undefined : store?.catalog.image(known)
  if (store && image) return { source: partsOf(store, image, to, pushing), digest: image.digest }
  const ref = parseReference(text)
  return {
    source: registrySource(pushing.registry, ref, pushing.signal),
    digest: (await pushing.registry.resolve(ref, pushing.signal)).digest,
  }
}

export async function pushIndexOf(
  images: readonly string[],
  index: string,
  flags: PushFlags,
  context: Context,
): Promise<void> {
  const to = placeOf(index)
  const work = (store?: ImageStore): Promise<void> =>
    pushing(flags, context, async (pushing) => {
      const parts = []
      for (const text of images) parts.push(await findPart(text, store, to, pushing))
      const { digest, entries } = await pushIndex({ ...pushing, to, parts })
      pushing.settle()
      if (flags.json)
        context.stdout.write(`${JSON.stringify({ name: formatReference(to), digest, manifests: entries })}\n`)
      else context.stdout.write(`pushed ${formatReference(to)}, ${digest}, an index of ${entries.length}\n`)
    })
  // Images in registries can be combined without a store and without root.
  const hasStore = process.getuid?.() === 0 && existsSync(join(dataFolder(flags, context), 'images'))
  await (hasStore ? withStore(WHAT, flags, context, work) : work())
}
