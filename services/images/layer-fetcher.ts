// Fetches the layers of an image that the store lacks, a few at a time.  No layer is fetched twice at once:
// inside this process calls for one diffID share one fetch, and a claim in the catalog keeps the other
// processes of the host waiting.

import { ContentError } from '../contract/errors.ts'
import type { Descriptor, ImageConfig, LayerProgress, LayerState, Manifest } from '../contract/image.ts'
import { createSingleFlight, createSlots } from '../platform/single-flight.ts'
import type { Reference } from '../registry/reference.ts'
import { createBudget, fetchLayer, type LayerDeps, type LayerRequest } from './layer.ts'

/** How far one layer of IMAGE is. */
export interface PullProgress extends LayerProgress {
  readonly image: string
}

export interface LayerFetcherDeps extends LayerDeps {
  readonly signal: AbortSignal
  readonly maxParallelLayers: number
  readonly onProgress?: ((progress: PullProgress) => void) | undefined
  /** Registers work that `stop` must wait for. */
  readonly tracked: <T>(work: Promise<T>) => Promise<T>
}

/** The image that layers are fetched for, and where from. */
export interface LayersRequest {
  readonly ref: Reference
  readonly digest: string
  readonly manifest: Manifest
  readonly config: ImageConfig
}

interface Wanted {
  readonly ref: Reference
  readonly image: string
  readonly descriptor: Descriptor
  readonly diffId: string
}

/** A function that brings all layers of an image to the disk.  Return: whether any had to be fetched. */
export function createLayerFetcher(deps: LayerFetcherDeps) {
  const { store, signal, onProgress, tracked } = deps
  const { catalog } = store
  const flight = createSingleFlight<void>()
  const inSlot = createSlots(deps.maxParallelLayers)

  function report(
    { image, descriptor }: Wanted,
    state: LayerState,
    receivedBytes: number,
    unpackedBytes = 0,
  ): void {
    const { digest: layer, size: sizeBytes } = descriptor
    onProgress?.({ image, layer, state, receivedBytes, sizeBytes, unpackedBytes })
  }

  function fetchOnce(wanted: Wanted, spend: LayerRequest['spend']): Promise<void> {
    const { ref, descriptor, diffId } = wanted
    let received = 0
    let unpacked = 0
    const progress = (): void =>
      report(wanted, received < descriptor.size ? 'receiving' : 'unpacking', received, unpacked)
    return fetchLayer(deps, {
      ref,
      descriptor,
      diffId,
      spend,
      signal,
      onReceived(bytes) {
        received = bytes
        progress()
      },
      onUnpacked(bytes) {
        unpacked = bytes
        progress()
      },
    })
  }

  async function fetchMissing(wanted: Wanted, spend: LayerRequest['spend']): Promise<void> {
    if (await store.hasLayer(wanted.diffId)) return
    signal.throwIfAborted()
    try {
      await fetchOnce(wanted, spend)
    } catch (error) {
      // The packed layer in the store may be damaged; then the registry has a good one.
      if (!(error instanceof ContentError) || !(await store.dropDamaged(wanted.descriptor.digest)))
        throw error
      await fetchOnce(wanted, spend)
    }
  }

  async function fetchClaimed(wanted: Wanted, spend: LayerRequest['spend']): Promise<void> {
    await catalog.claimLayer(wanted.diffId, signal)
    try {
      await inSlot(() => fetchMissing(wanted, spend))
    } finally {
      catalog.releaseLayer(wanted.diffId)
    }
  }

  return async ({ ref, digest, manifest, config }: LayersRequest): Promise<boolean> => {
    const spend = createBudget()
    const missing: Wanted[] = []
    for (const [i, descriptor] of manifest.layers.entries()) {
      const layer = { ref, image: digest, descriptor, diffId: config.diffIds[i]! }
      const isPresent = await store.hasLayer(layer.diffId)
      if (!isPresent) missing.push(layer)
      report(layer, isPresent ? 'present' : 'queued', isPresent ? descriptor.size : 0)
    }
    await Promise.all(
      missing.map(async (layer) => {
        await tracked(flight(layer.diffId, () => fetchClaimed(layer, spend)))
        report(layer, 'done', layer.descriptor.size)
      }),
    )
    return missing.length > 0
  }
}
