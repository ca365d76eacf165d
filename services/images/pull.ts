// From a reference and a digest to an image that is ready to run.
// Knows the order of things: manifest (of an index, the one for this machine), config, then the layers that
// the store does not have, some at a time.  The same image or layer is never fetched twice at once.
// Refuses to know tags: a digest was chosen when the function was deployed.

import { constants, type Stats } from 'node:fs'
import { lstat, open } from 'node:fs/promises'
import { join } from 'node:path'
import { AppError, ContentError, Overloaded } from '../contract/errors.ts'
import type {
  Descriptor,
  Image,
  ImageConfig,
  LayerProgress,
  LayerState,
  Manifest,
} from '../contract/image.ts'
import { readBounded } from '../registry/bounded-body.ts'
import { createBudget, fetchLayer } from './layer.ts'
import { DOCKER_INDEX, OCI_INDEX, parseImageConfig, parseManifest } from '../registry/manifest.ts'
import { checkPlatform, choosePlatform, hostPlatform, type HostPlatform } from '../registry/platform.ts'
import { createReadyImages } from './ready.ts'
import { formatReference, type Reference } from '../registry/reference.ts'
import { MANIFEST_BYTES_MAX, verify, type RegistryClient } from '../registry/registry.ts'
import { createSingleFlight, createSlots } from '../platform/single-flight.ts'
import type { ImageStore } from './store.ts'
import { IMAGE_BYTES_MAX } from './unpack.ts'

/** How far one layer of IMAGE is. */
export interface PullProgress extends LayerProgress {
  readonly image: string
}

export interface PullerDeps {
  readonly store: ImageStore
  /** Where manifests and blobs come from; an archive can be one, too. */
  readonly registry: Pick<RegistryClient, 'manifest' | 'blob'>
  /** Where wherry-unpack is. */
  readonly nativeDir: string
  /** `registry` is an archive: images that come from it can be had nowhere again. */
  readonly isArchive?: boolean
  readonly maxParallelLayers?: number
  readonly onProgress?: (progress: PullProgress) => void
}

export interface PullResult {
  readonly image: Image
  /** Did anything have to be fetched? */
  readonly pulled: boolean
}

export type Puller = ReturnType<typeof createPuller>

const INDEX_DEPTH_MAX = 3
const PARALLEL_LAYERS_DEFAULT = 3
const FILE_BYTES_MAX = 1024 ** 2

/** Overlayfs refuses one folder twice; of a layer that comes again only the highest place can be seen. */
function distinctHighest(diffIds: readonly string[]): readonly string[] {
  return diffIds.filter((id, i) => diffIds.lastIndexOf(id) === i)
}

/** Manifest and config must agree on the layers, and nobody fetches more than can be unpacked. */
function checkLayers(image: string, { layers }: Manifest, { diffIds }: ImageConfig): void {
  if (diffIds.length !== layers.length) {
    throw new ContentError(
      `${image} has ${layers.length} layers, but its config names ${diffIds.length}`,
      'ERR_INVALID_CONTENT',
    )
  }
  const sizeBytes = layers.reduce((sum, layer) => sum + layer.size, 0)
  if (sizeBytes > IMAGE_BYTES_MAX)
    throw new ContentError(
      `${image} has ${sizeBytes} bytes, more than ${IMAGE_BYTES_MAX}`,
      'ERR_CONTENT_LIMIT',
    )
}

/** A puller that fills `store` from `registry`.  `stop` ends all pulls under way. */
export function createPuller(deps: PullerDeps) {
  const { store, registry, onProgress } = deps
  const { catalog } = store
  const ready = createReadyImages(catalog)
  const imageFlight = createSingleFlight<PullResult>()
  const layerFlight = createSingleFlight<void>()
  const inSlot = createSlots(deps.maxParallelLayers ?? PARALLEL_LAYERS_DEFAULT)
  const stopping = new AbortController()
  const under = new Set<Promise<unknown>>()
  const host = hostPlatform()

  /** Let `stop` wait for WORK too. */
  async function tracked<T>(work: Promise<T>): Promise<T> {
    under.add(work)
    try {
      return await work
    } finally {
      under.delete(work)
    }
  }

  /** From the store, or fetched and kept. */
  async function blobOf(
    digest: string,
    fetch: () => Promise<Uint8Array>,
  ): Promise<{ bytes: Uint8Array; fetched: boolean }> {
    const kept = await store.readBlob(digest)
    if (kept) return { bytes: kept, fetched: false }
    const bytes = await fetch()
    await store.writeBlob(digest, bytes)
    return { bytes, fetched: true }
  }

  /** The manifest or index DIGEST; ENTRY is what the index above says of it. */
  async function manifestOf(ref: Reference, digest: string, entry?: Descriptor) {
    let mediaType: string | undefined
    const { bytes, fetched } = await blobOf(digest, async () => {
      const answer = await registry.manifest(ref, digest, stopping.signal)
      mediaType = answer.mediaType
      parseManifest(answer.bytes, mediaType) // before it is kept: later readers have no Content-Type to compare
      return answer.bytes
    })
    const manifest = parseManifest(bytes, mediaType)
    if (entry && entry.size !== bytes.length)
      throw new ContentError(
        `manifest ${digest} has ${bytes.length} bytes, but its index says ${entry.size}`,
        'ERR_DIGEST_MISMATCH',
      )
    const isIndex = 'manifests' in manifest
    if (entry && isIndex !== (entry.mediaType === OCI_INDEX || entry.mediaType === DOCKER_INDEX))
      throw new ContentError(
        `manifest ${digest} is ${manifest.mediaType}, but its index says ${entry.mediaType}`,
        'ERR_INVALID_CONTENT',
      )
    return { manifest, fetched }
  }

  async function configOf(ref: Reference, descriptor: Descriptor): Promise<ImageConfig> {
    const what = `the config of ${formatReference(ref)}`
    if (descriptor.size > MANIFEST_BYTES_MAX)
      throw new ContentError(`${what} is larger than ${MANIFEST_BYTES_MAX} bytes`, 'ERR_CONTENT_LIMIT')
    const { bytes } = await blobOf(descriptor.digest, async () => {
      const body = await registry.blob(ref, descriptor, stopping.signal)
      const bytes = await readBounded(body, descriptor.size, what, ref.registry)
      verify(bytes, descriptor.digest, what)
      return bytes
    })
    return parseImageConfig(bytes)
  }

  function report(
    image: string,
    { digest, size }: Descriptor,
    state: LayerState,
    receivedBytes: number,
    unpackedBytes = 0,
  ): void {
    onProgress?.({ image, layer: digest, state, receivedBytes, sizeBytes: size, unpackedBytes })
  }

  async function fetchMissing(
    ref: Reference,
    digest: string,
    descriptor: Descriptor,
    diffId: string,
    spend: (bytes: number) => void,
  ): Promise<void> {
    if (await store.hasLayer(diffId)) return
    stopping.signal.throwIfAborted()
    let receivedBytes = 0
    let unpackedBytes = 0
    const progress = (): void =>
      report(
        digest,
        descriptor,
        receivedBytes < descriptor.size ? 'receiving' : 'unpacking',
        receivedBytes,
        unpackedBytes,
      )
    const fetch = (): Promise<void> =>
      fetchLayer(deps, {
        ref,
        descriptor,
        diffId,
        spend,
        signal: stopping.signal,
        onReceived(bytes) {
          receivedBytes = bytes
          progress()
        },
        onUnpacked(bytes) {
          unpackedBytes = bytes
          progress()
        },
      })
    try {
      await fetch()
    } catch (error) {
      // The store's own packed layer may have been damaged on its disk; the registry has another.
      if (!(error instanceof ContentError) || !(await store.dropDamaged(descriptor.digest))) throw error
      await fetch()
    }
  }

  async function layersOf(
    ref: Reference,
    digest: string,
    manifest: Manifest,
    config: ImageConfig,
  ): Promise<boolean> {
    const spend = createBudget()
    const layers = manifest.layers.map((descriptor, i) => ({ descriptor, diffId: config.diffIds[i]! }))
    const missing = []
    for (const layer of layers) {
      const isPresent = await store.hasLayer(layer.diffId)
      if (!isPresent) missing.push(layer)
      report(
        digest,
        layer.descriptor,
        isPresent ? 'present' : 'queued',
        isPresent ? layer.descriptor.size : 0,
      )
    }
    await Promise.all(
      missing.map(({ descriptor, diffId }) =>
        tracked(
          layerFlight(diffId, async () => {
            await catalog.claimLayer(diffId, stopping.signal) // another worker of this host may be fetching it
            try {
              await inSlot(() => fetchMissing(ref, digest, descriptor, diffId, spend))
            } finally {
              catalog.releaseLayer(diffId)
            }
          }),
        ).then(() => report(digest, descriptor, 'done', descriptor.size)),
      ),
    )
    return missing.length > 0
  }

  /**
   * HOLD keeps what it names from being removed while this runs. An image that is not for this machine is
   * recorded as itself, never as what its index stands for here.
   */
  async function fetchImage(
    ref: Reference,
    digest: string,
    wanted: HostPlatform,
    hold: (...digests: string[]) => void,
  ): Promise<PullResult> {
    hold(digest)
    const top = await manifestOf(ref, digest)
    let chosen = top
    let manifestDigest = digest
    for (let depth = 0; 'manifests' in chosen.manifest; depth++) {
      if (depth === INDEX_DEPTH_MAX)
        throw new ContentError(
          `${formatReference(ref)} has indexes in indexes, more than ${INDEX_DEPTH_MAX} deep`,
          'ERR_CONTENT_LIMIT',
        )
      const entry = choosePlatform(chosen.manifest, wanted)
      manifestDigest = entry.digest
      hold(manifestDigest)
      chosen = await manifestOf(ref, manifestDigest, entry)
    }
    const { manifest } = chosen
    hold(manifest.config.digest, ...manifest.layers.map((layer) => layer.digest))
    const config = await configOf(ref, manifest.config)
    const isHere = wanted.architecture === host.architecture
    checkPlatform(config, wanted, isHere)
    checkLayers(formatReference(ref), manifest, config)
    hold(...config.diffIds)
    const pulled = await layersOf(ref, digest, manifest, config)
    const ownDigest = isHere ? digest : manifestDigest
    catalog.recordImage({
      digest: ownDigest,
      manifestDigest,
      configDigest: manifest.config.digest,
      ...(deps.isArchive !== true && { source: `${ref.registry}/${ref.repository}` }),
      layers: manifest.layers.map((layer, i) => ({
        diffId: config.diffIds[i]!,
        digest: layer.digest,
        sizeBytes: layer.size,
      })),
    })
    const image = { digest: ownDigest, config, layers: distinctHighest(config.diffIds).map(store.layerPath) }
    if (isHere) ready.add(image)
    return { image, pulled: pulled || top.fetched || chosen.fetched }
  }

  /** Whole layers of a pull that was cut shorten the next one; of one that cannot succeed nothing stays. */
  async function dropUseless(failure: unknown, digests: readonly string[]): Promise<void> {
    if (failure instanceof AppError && failure.retryable) return
    // The pull's own error says what matters; what cannot be removed now goes with the next collection.
    await store.collector.dropUnused(digests).catch(() => undefined)
  }

  async function pull(ref: Reference, digest: string, wanted: HostPlatform): Promise<PullResult> {
    stopping.signal.throwIfAborted()
    await store.open()
    const held: string[] = []
    const hold = (...digests: string[]): void => {
      catalog.pin(...digests)
      held.push(...digests)
    }
    let failure: unknown
    try {
      return await fetchImage(ref, digest, wanted, hold)
    } catch (error) {
      failure = error
      throw error
    } finally {
      catalog.unpin(...held)
      if (failure !== undefined) await dropUseless(failure, held)
    }
  }

  return {
    /**
     * The image DIGEST of REF's repository, on the disk.  Microseconds when it was asked for before.
     * Throws RegistryError, ContentError, SyscallError (ENOSPC …), Unsupported.
     */
    async ensure(ref: Reference, digest: string): Promise<PullResult> {
      const known = ready.find(digest)
      return known
        ? { image: known, pulled: false }
        : await tracked(imageFlight(digest, () => pull(ref, digest, host)))
    },

    /**
     * The same for another platform than this machine's, to build with and not to run: the digest of its
     * image is that of the one manifest.
     */
    async ensureFor(platform: HostPlatform, ref: Reference, digest: string): Promise<PullResult> {
      return await tracked(
        imageFlight(`${digest} ${platform.architecture} ${platform.variants[0]}`, () =>
          pull(ref, digest, platform),
        ),
      )
    },

    /**
     * A container of an image that `ensure` gave begins: its layers must stay. Call it before anything else
     * is awaited.
     */
    retain: ready.retain,

    /** … and has ended. */
    release: ready.release,

    /**
     * Images that KEEP says no to may be removed from the store, as soon as they are not retained; `ensure`
     * looks at the disk again for them.
     */
    letGo: ready.letGo,

    /** End what is under way and leave no half layer; later calls of `ensure` for other images fail. */
    async stop(): Promise<void> {
      stopping.abort(
        new Overloaded('this process is stopping, the image was not pulled to its end', 'ERR_STOPPING'),
      )
      await Promise.allSettled(under)
    },
  }
}

/**
 * What LAYER has at PARTS: a thing, 'hidden' when something above it is no directory, or undefined when the
 * layer does not say.
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
 * symlink; layers are immutable and root's, so looking before opening is safe. Throws ContentError
 * ERR_CONTENT_LIMIT above 1 MiB. Does not see opaque directories: a file that only a lower layer has is found
 * although a directory above hides it.
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
