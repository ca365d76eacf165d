// Saves images to archives and loads them. A saved archive is an OCI image layout that docker load, podman
// load and skopeo also accept; loading takes either format, of any age. A loaded layer is checked and
// unpacked like a pulled one. archive-contents.ts reads the documents in an archive.

import { createReadStream } from 'node:fs'
import { addAbortSignal, type Readable, type Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { pack, type Pack } from 'tar-stream'
import { digestOf, hexOf } from '../contract/digest.ts'
import { ContentError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { readContents, type ArchivedImage } from './archive-contents.ts'
import { compressionOf, readFolder, stageTar, type ArchiveFiles } from './archive-files.ts'
import type { StoredImage } from './catalog.ts'
import { createLocalFirst, type ImageSource } from './local-first.ts'
import { OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, parseManifest } from '../registry/manifest.ts'
import { createPuller } from './pull.ts'
import { parseReference } from '../registry/reference.ts'
import type { ImageStore } from './store.ts'

export interface SaveRequest {
  readonly store: ImageStore
  /** The source of packed layers that the store lacks. */
  readonly registry: ImageSource
  readonly images: ReadonlyArray<{ readonly image: StoredImage; readonly names: readonly string[] }>
  /** 'docker' writes manifest.json as well as the layout. */
  readonly format: 'docker' | 'oci'
  readonly out: Writable
  readonly signal: AbortSignal
}

export interface LoadedImage {
  readonly digest: string
  readonly names: readonly string[]
  /** Names that referred to another image before, and its digest. */
  readonly moved: Readonly<Record<string, string>>
}

export interface LoadRequest {
  readonly store: ImageStore
  /** A tar stream, or the path of a folder. */
  readonly source: Readable | string
  readonly nativeDir: string
  readonly signal: AbortSignal
}

const LAYER_TYPES = {
  none: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
} as const
const MAGIC_BYTES = 6

interface Part {
  readonly names: readonly string[]
  readonly manifest: Descriptor
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
}

/** The parts of IMAGE; packed layers that the store lacks are fetched from the image's source. */
async function partsOf(
  { store, registry, signal }: SaveRequest,
  image: StoredImage,
  names: readonly string[],
): Promise<Part> {
  const bytes = await store.readBlob(image.manifestDigest)
  if (!bytes)
    throw new ContentError(
      `the manifest ${image.manifestDigest} is missing or damaged; pull the image again`,
      'ERR_INVALID_CONTENT',
    )
  const manifest = parseManifest(bytes)
  if ('manifests' in manifest)
    throw new ContentError(`${image.manifestDigest} is an index, not a manifest`, 'ERR_INVALID_CONTENT')
  for (const layer of [manifest.config, ...manifest.layers]) {
    if (await store.hasBlob(layer.digest, layer.size)) continue
    if (image.source === undefined)
      throw new ContentError(
        `layer ${layer.digest} is stored only unpacked, and its source is unknown; pull the image again`,
        'ERR_INVALID_CONTENT',
      )
    const body = await registry.blob(
      { ...parseReference(`${image.source}@${image.manifestDigest}`) },
      layer,
      signal,
    )
    await store.putBlob(body, layer)
  }
  return {
    names,
    manifest: { mediaType: manifest.mediaType, digest: image.manifestDigest, size: bytes.length },
    config: manifest.config,
    layers: manifest.layers,
  }
}

function layoutIndex(parts: readonly Part[]): object {
  const describe = ({ manifest }: Part, name?: string): object => ({
    ...manifest,
    ...(name !== undefined && {
      annotations: { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': name },
    }),
  })
  return {
    schemaVersion: 2,
    mediaType: OCI_INDEX,
    manifests: parts.flatMap((part) =>
      part.names.length === 0 ? [describe(part)] : part.names.map((name) => describe(part, name)),
    ),
  }
}

function dockerManifest(parts: readonly Part[]): object {
  const file = ({ digest }: Descriptor): string => `blobs/sha256/${hexOf(digest)}`
  return parts.map(({ names, config, layers }) => ({
    Config: file(config),
    RepoTags: names.length === 0 ? null : names,
    Layers: layers.map(file),
  }))
}

/** Makes archives reproducible. */
const FIXED = { mtime: new Date(0), uid: 0, gid: 0 }

function addText(tar: Pack, name: string, value: object): void {
  tar.entry({ ...FIXED, name, mode: 0o644 }, JSON.stringify(value))
}

async function fillTar(tar: Pack, { store, format }: SaveRequest, parts: readonly Part[]): Promise<void> {
  for (const name of ['blobs/', 'blobs/sha256/'])
    tar.entry({ ...FIXED, name, mode: 0o755, type: 'directory' })
  const blobs = new Map(
    parts
      .flatMap((part) => [part.manifest, part.config, ...part.layers])
      .map((blob) => [blob.digest, blob.size]),
  )
  for (const [digest, size] of [...blobs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    await pipeline(
      createReadStream(store.blobPath(digest)),
      tar.entry({ ...FIXED, name: `blobs/sha256/${hexOf(digest)}`, mode: 0o644, size }),
    )
  }
  addText(tar, 'index.json', layoutIndex(parts))
  if (format === 'docker') addText(tar, 'manifest.json', dockerManifest(parts))
  addText(tar, 'oci-layout', { imageLayoutVersion: '1.0.0' })
  tar.finalize()
}

/**
 * Write the images as one tar to OUT. Throws ContentError, RegistryError when a layer cannot be fetched, or
 * OUT's error.
 */
export async function saveArchive(request: SaveRequest): Promise<void> {
  const { store, images, out, signal } = request
  const held = images.flatMap(({ image }) => [image.digest])
  store.catalog.pin(...held)
  try {
    const parts: Part[] = []
    for (const { image, names } of images) parts.push(await partsOf(request, image, names))
    const tar = pack()
    const written = pipeline(tar, out, { signal })
    await Promise.all([
      written,
      fillTar(tar, request, parts).catch((error: unknown) => {
        tar.destroy(error as Error)
        throw error
      }),
    ])
  } finally {
    store.catalog.unpin(...held)
  }
}

/**
 * Store the parts of IMAGE. HOLD gets each known digest before it is stored. Return: the image's digest.
 */
async function storeParts(
  { store, signal }: LoadRequest,
  files: ArchiveFiles,
  image: ArchivedImage,
  hold: (digest: string) => void,
): Promise<string> {
  const layers: Descriptor[] = []
  for (const { file, descriptor } of image.layers) {
    if (descriptor) hold(descriptor.digest)
    if (descriptor && (await store.hasBlob(descriptor.digest, descriptor.size))) continue
    const kept = await store.putBlob(addAbortSignal(signal, await files.open(file)), descriptor)
    hold(kept.digest)
    if (!descriptor) layers.push({ mediaType: await layerType(await files.open(file)), ...kept })
  }
  const documents = [...image.documents]
  if (image.config) {
    const config = { mediaType: OCI_CONFIG, digest: digestOf(image.config), size: image.config.length }
    documents.push(
      image.config,
      Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers })),
    )
  }
  for (const bytes of documents) {
    hold(digestOf(bytes))
    await store.putBlob(bytes)
  }
  return image.digest ?? digestOf(documents.at(-1)!)
}

async function layerType(source: Readable): Promise<string> {
  for await (const piece of source as AsyncIterable<Buffer>) {
    const compression = compressionOf(piece.subarray(0, MAGIC_BYTES))
    if (compression === 'bzip2' || compression === 'xz')
      throw new ContentError(
        `a layer of the archive is compressed with ${compression}, which images do not use`,
        'ERR_UNSUPPORTED_MEDIA_TYPE',
      )
    return LAYER_TYPES[compression]
  }
  return LAYER_TYPES.none
}

async function loadFiles(request: LoadRequest, files: ArchiveFiles): Promise<readonly LoadedImage[]> {
  const { store, nativeDir, signal } = request
  const images = await readContents(files)
  const puller = createPuller({ store, registry: createLocalFirst({ store }), nativeDir, isArchive: true })
  const stop = (): void => {
    void puller.stop()
  }
  signal.addEventListener('abort', stop, { once: true })
  const held: string[] = []
  const hold = (digest: string): void => {
    store.catalog.pin(digest)
    held.push(digest)
  }
  const loaded: LoadedImage[] = []
  try {
    for (const image of images) {
      signal.throwIfAborted()
      const digest = await storeParts(request, files, image, hold)
      await puller.ensure(
        parseReference(`${image.names[0]?.replace(/:[^:/]*$/, '') ?? 'archive'}@${digest}`),
        digest,
      )
      const moved = image.names
        .map((name) => [name, store.catalog.tag(name, digest)] as const)
        .filter((entry): entry is [string, string] => entry[1] !== undefined && entry[1] !== digest)
      loaded.push({ digest, names: image.names, moved: Object.fromEntries(moved) })
    }
    return loaded
  } finally {
    signal.removeEventListener('abort', stop)
    await puller.stop()
    store.catalog.unpin(...held)
    // What an image has stays; the rest belongs to one that failed.
    if (loaded.length < images.length) await store.collector.dropUnused(held)
  }
}

/**
 * Load the images of the source into the store. Throws ContentError, SyscallError (ENOSPC …), the signal's
 * reason; images that were loaded before the failing one stay.
 */
export async function loadArchive(request: LoadRequest): Promise<readonly LoadedImage[]> {
  const { store, source, signal } = request
  await store.open()
  if (typeof source === 'string') return await loadFiles(request, readFolder(source))
  const draft = await store.makeDraft()
  try {
    return await loadFiles(request, await stageTar(addAbortSignal(signal, source), draft))
  } catch (error) {
    throw signal.aborted ? signal.reason : error
  } finally {
    await store.discard(draft)
  }
}
