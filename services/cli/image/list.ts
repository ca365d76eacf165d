// wherry image ls, inspect and history.

import { defined } from '../../contract/defined.ts'
import type { StoredImage } from '../../images/catalog.ts'
import { readDetails } from '../../images/details.ts'
import type { ImageStore } from '../../images/store.ts'
import type { Context } from '../context.ts'
import { formatFields, formatTable } from '../table.ts'
import { formatAge, formatSize, printable, shortDigest, terminalWidth } from '../terminal.ts'
import { findArtifacts } from './artifacts.ts'
import { findImage, withStore, type StoreOptions } from './open.ts'

const LIST_COLUMNS = [
  { title: 'NAME', shrinks: true },
  { title: 'DIGEST' },
  { title: 'SIZE', right: true },
  { title: 'PULLED', right: true },
  { title: 'USED', right: true },
  { title: 'IN USE BY' },
]
const HISTORY_COLUMNS = [
  { title: 'CREATED', right: true },
  { title: 'SIZE', right: true },
  { title: 'STEP', shrinks: true },
  { title: 'COMMENT' },
]

/** What keeps IMAGE from being removed by prune. */
function reasonOf(image: StoredImage): string {
  return image.isDeployed ? 'function' : image.isPinned ? 'process' : image.names.length > 0 ? 'tag' : '-'
}

/** Unpacked size on disk. A shared layer counts for each of its images. */
function sizeOf(image: StoredImage, sizes: ReadonlyMap<string, number>): number {
  return [...new Set(image.layers.map((layer) => layer.diffId))].reduce(
    (sum, diffId) => sum + (sizes.get(diffId) ?? 0),
    0,
  )
}

const ago = (atMs: number): string => formatAge(Date.now() - atMs)

export async function listImages(options: StoreOptions, context: Context): Promise<void> {
  await withStore('image ls', options, context, async (store) => {
    const images = store.catalog.images()
    const { storeBytes } = await store.collector.usage()
    const sizes = await store.collector.layerSizes()
    if (options.json) {
      context.stdout.write(
        `${JSON.stringify(images.map((image) => ({ ...image, sizeBytes: sizeOf(image, sizes) })))}\n`,
      )
      return
    }
    const rows = images.flatMap((image) => {
      const names =
        image.names.length > 0
          ? image.names
          : [image.source === undefined ? '-' : `(no name) from ${image.source}`]
      return names.map((name) => [
        name,
        shortDigest(image.digest),
        formatSize(sizeOf(image, sizes)),
        ago(image.pulledAtMs),
        ago(image.usedAtMs),
        reasonOf(image),
      ])
    })
    context.stdout.write(formatTable(LIST_COLUMNS, rows, terminalWidth(context)))
    context.stderr.write(
      `${images.length} image${images.length === 1 ? '' : 's'}, ${formatSize(storeBytes)} on disk\n`,
    )
  })
}

async function inspectOne(store: ImageStore, image: StoredImage) {
  const sizes = await store.collector.layerSizes()
  const {
    createdAt,
    config: { diffIds: _, ...config },
    history: __,
    ...rest
  } = await readDetails(store, image)
  const layers = await Promise.all(
    image.layers.map(async (layer) => ({
      diffId: layer.diffId,
      digest: layer.digest,
      packedBytes: layer.sizeBytes,
      diskBytes: sizes.get(layer.diffId) ?? 0,
      isKeptPacked: await store.hasBlob(layer.digest),
    })),
  )
  const { names, digest, manifestDigest, configDigest, source, isDeployed, isPinned } = image
  return {
    names,
    digest,
    manifestDigest,
    configDigest,
    ...defined({ source, createdAt }),
    pulledAt: new Date(image.pulledAtMs).toISOString(),
    usedAt: new Date(image.usedAtMs).toISOString(),
    isDeployed,
    isPinned,
    sizeBytes: sizeOf(image, sizes),
    ...config,
    ...rest,
    layers,
  }
}

export async function inspectImages(
  texts: readonly string[],
  options: StoreOptions & { readonly offline?: boolean },
  context: Context,
): Promise<void> {
  await withStore('image inspect', options, context, async (store) => {
    const images = texts.map((text) => findImage('image inspect', store, text).image)
    const found = options.offline ? undefined : await findArtifacts(images, options, context)
    const inspected = []
    for (const image of images) {
      const artifacts = found?.get(image.digest)
      inspected.push({ ...(await inspectOne(store, image)), ...defined({ artifacts }) })
    }
    if (options.json) context.stdout.write(`${JSON.stringify(inspected)}\n`)
    else
      context.stdout.write(inspected.map((one) => printable(`${formatFields(one).join('\n')}\n`)).join('\n'))
  })
}

export async function showHistory(text: string, options: StoreOptions, context: Context): Promise<void> {
  await withStore('image history', options, context, async (store) => {
    const { image } = findImage('image history', store, text)
    const sizes = await store.collector.layerSizes()
    const { history, createdAt } = await readDetails(store, image)
    // Steps that made no layer are marked as empty; the others match the layers in order. There may be more
    // layers than steps.
    let next = 0
    const known = history.map((step) => ({ ...step, ...(!step.isEmpty && { layer: image.layers[next++] }) }))
    const unknown = image.layers.slice(next).map((layer) => ({
      createdBy: '',
      comment: 'not in the history',
      isEmpty: false,
      layer,
      ...defined({ createdAt }),
    }))
    const steps = [...known, ...unknown].map(({ layer, ...step }) => ({
      ...step,
      sizeBytes: layer === undefined ? 0 : (sizes.get(layer.diffId) ?? 0),
      ...defined({ layer: layer?.digest }),
    }))
    if (options.json) {
      context.stdout.write(`${JSON.stringify(steps)}\n`)
      return
    }
    const rows = steps
      .toReversed()
      .map((step) => [
        step.createdAt === undefined ? '-' : ago(Date.parse(step.createdAt)),
        formatSize(step.sizeBytes),
        step.createdBy,
        step.comment,
      ])
    context.stdout.write(formatTable(HISTORY_COLUMNS, rows, terminalWidth(context)))
  })
}
