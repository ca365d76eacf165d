// From a reference and a digest to an image that is ready to run: manifest, config, then the layers that the
// store lacks.  Calls for one image share one pull.  Tags never get here: the digest was chosen when the
// function was deployed.

import { defined } from '../contract/defined.ts'
import { AppError, ContentError, Overloaded } from '../contract/errors.ts'
import type { Image, ImageConfig, Manifest } from '../contract/image.ts'
import { createSingleFlight } from '../platform/single-flight.ts'
import { checkPlatform, hostPlatform, type HostPlatform } from '../registry/platform.ts'
import { formatReference, type Reference } from '../registry/reference.ts'
import type { RegistryClient } from '../registry/registry.ts'
import { createDocuments, type Hold } from './documents.ts'
import { createLayerFetcher, type PullProgress } from './layer-fetcher.ts'
import { createReadyImages } from './ready.ts'
import type { ImageStore } from './store.ts'
import { IMAGE_BYTES_MAX } from './unpack.ts'

export interface PullerDeps {
  readonly store: ImageStore
  /** Where manifests and blobs come from: a registry or an archive. */
  readonly registry: Pick<RegistryClient, 'manifest' | 'blob'>
  /** Where wherry-unpack is. */
  readonly nativeDir: string
  /** `registry` is an archive: its images have no source to be pulled from again. */
  readonly isArchive?: boolean
  readonly maxParallelLayers?: number
  readonly onProgress?: (progress: PullProgress) => void
}

export interface PullResult {
  readonly image: Image
  /** Whether anything had to be fetched. */
  readonly pulled: boolean
}

export type Puller = ReturnType<typeof createPuller>

const PARALLEL_LAYERS_DEFAULT = 3

/** Overlayfs refuses one folder twice; of a layer that occurs again only the highest place is visible. */
function distinctHighest(diffIds: readonly string[]): readonly string[] {
  return diffIds.filter((id, i) => diffIds.lastIndexOf(id) === i)
}

/** Manifest and config must agree on the layers, and nothing is fetched that is too large to unpack. */
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

/** A puller that fills `store` from `registry`.  `stop` ends all pulls in progress. */
export function createPuller({
  store,
  registry,
  nativeDir,
  isArchive = false,
  maxParallelLayers = PARALLEL_LAYERS_DEFAULT,
  onProgress,
}: PullerDeps) {
  const { catalog } = store
  const stopping = new AbortController()
  const { signal } = stopping
  const underWay = new Set<Promise<unknown>>()
  const host = hostPlatform()
  const ready = createReadyImages(catalog)
  const flight = createSingleFlight<PullResult>()
  const documents = createDocuments({ store, registry, signal })
  const fetchLayers = createLayerFetcher({
    store,
    registry,
    nativeDir,
    signal,
    maxParallelLayers,
    onProgress,
    tracked,
  })

  /** Let `stop` wait for WORK too. */
  async function tracked<T>(work: Promise<T>): Promise<T> {
    underWay.add(work)
    try {
      return await work
    } finally {
      underWay.delete(work)
    }
  }

  /**
   * An image for another platform is recorded under the digest of its manifest: the digest of its index
   * stands for the image of this machine.
   */
  async function fetchImage(
    ref: Reference,
    digest: string,
    wanted: HostPlatform,
    hold: Hold,
  ): Promise<PullResult> {
    const { manifest, manifestDigest, fetched } = await documents.find(ref, digest, wanted, hold)
    hold(manifest.config.digest, ...manifest.layers.map((layer) => layer.digest))
    const config = await documents.config(ref, manifest.config)
    const isHere = wanted.architecture === host.architecture
    checkPlatform(config, wanted, isHere)
    checkLayers(formatReference(ref), manifest, config)
    hold(...config.diffIds)
    const pulled = await fetchLayers({ ref, digest, manifest, config })
    const ownDigest = isHere ? digest : manifestDigest
    catalog.recordImage({
      digest: ownDigest,
      manifestDigest,
      configDigest: manifest.config.digest,
      ...defined({ source: isArchive ? undefined : `${ref.registry}/${ref.repository}` }),
      layers: manifest.layers.map((layer, i) => ({
        diffId: config.diffIds[i]!,
        digest: layer.digest,
        sizeBytes: layer.size,
      })),
    })
    const image = { digest: ownDigest, config, layers: distinctHighest(config.diffIds).map(store.layerPath) }
    if (isHere) ready.add(image)
    return { image, pulled: pulled || fetched }
  }

  /**
   * Whole layers of an interrupted pull shorten the next one; those of a pull that cannot succeed are
   * removed.
   */
  async function dropUseless(failure: unknown, digests: readonly string[]): Promise<void> {
    if (failure instanceof AppError && failure.retryable) return
    // The error of the pull matters more; what cannot be removed now goes with the next collection.
    await store.collector.dropUnused(digests).catch(() => undefined)
  }

  async function pull(ref: Reference, digest: string, wanted: HostPlatform): Promise<PullResult> {
    signal.throwIfAborted()
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
     * The image DIGEST of REF's repository, on the disk.  Takes microseconds when it was requested before.
     * Throws RegistryError, ContentError, SyscallError (ENOSPC …), Unsupported.
     */
    async ensure(ref: Reference, digest: string): Promise<PullResult> {
      const known = ready.find(digest)
      if (known) return { image: known, pulled: false }
      return await tracked(flight(digest, () => pull(ref, digest, host)))
    },

    /**
     * The same for another platform than this machine's, to build with and not to run. The image's digest is
     * that of its manifest.
     */
    async ensureFor(platform: HostPlatform, ref: Reference, digest: string): Promise<PullResult> {
      const key = `${digest} ${platform.architecture} ${platform.variants[0]}`
      return await tracked(flight(key, () => pull(ref, digest, platform)))
    },

    /**
     * A container of an image from `ensure` starts: its layers must stay. Call it before anything else is
     * awaited.
     */
    retain: ready.retain,

    /** … and has ended. */
    release: ready.release,

    /**
     * Images for which KEEP returns false may be removed from the store once they are no longer retained;
     * `ensure` checks the disk again for them.
     */
    letGo: ready.letGo,

    /** End the pulls in progress and leave no partial layer; later `ensure` calls for other images fail. */
    async stop(): Promise<void> {
      stopping.abort(
        new Overloaded('this process is stopping; the pull of the image was ended', 'ERR_STOPPING'),
      )
      await Promise.allSettled(underWay)
    },
  }
}
