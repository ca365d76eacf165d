// One layer from its registry to its folder, in one stream and one pass:
//   blob -> [size] -> wherry-unpack: [digest] inflate -> [diffID, ratio, limits] -> files The unpacker
//   reports the digests it computed; the folder gets its final name only when they match manifest and config.
//   On any failure the unpacker is killed and its folder removed.

import { Transform, type TransformCallback } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { AppError, ContentError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { layerCompression } from '../registry/manifest.ts'
import type { Reference } from '../registry/reference.ts'
import type { RegistryClient } from '../registry/registry.ts'
import type { ImageStore } from './store.ts'
import { unreachable } from '../registry/transport.ts'
import { IMAGE_BYTES_MAX, IMAGE_ENTRIES_MAX, startUnpacker } from './unpack.ts'

const LAYER_TIMEOUT_MS = 30 * 60_000

export interface LayerDeps {
  readonly store: ImageStore
  readonly registry: Pick<RegistryClient, 'blob'>
  readonly nativeDir: string
}

export interface LayerRequest {
  readonly ref: Reference
  readonly descriptor: Descriptor
  readonly diffId: string
  /**
   * Called with the uncompressed size of each piece, some MiB each, and at the end with the entries; throws
   * when the image has become too large.
   */
  readonly spend: (bytes: number, entries?: number) => void
  /** Called with the packed bytes so far. */
  readonly onReceived: (bytes: number) => void
  /** Called with the plain bytes so far. */
  readonly onUnpacked?: (bytes: number) => void
  readonly signal: AbortSignal
}

/** Limits the uncompressed bytes and entries of an image, all its layers together. */
export function createBudget(
  maxBytes: number = IMAGE_BYTES_MAX,
  maxEntries: number = IMAGE_ENTRIES_MAX,
): LayerRequest['spend'] {
  let bytesLeft = maxBytes
  let entriesLeft = maxEntries
  return (bytes, entries = 0) => {
    bytesLeft -= bytes
    entriesLeft -= entries
    if (bytesLeft < 0)
      throw new ContentError(`the image has more than ${maxBytes} bytes unpacked`, 'ERR_CONTENT_LIMIT')
    if (entriesLeft < 0)
      throw new ContentError(`the image has more than ${maxEntries} entries`, 'ERR_CONTENT_LIMIT')
  }
}

function mismatch(descriptor: Descriptor, what: string): ContentError {
  return new ContentError(`layer ${descriptor.digest} ${what}`, 'ERR_DIGEST_MISMATCH')
}

/** Counts the packed bytes that pass. */
function createMeter({ descriptor, onReceived }: LayerRequest): Transform {
  let received = 0
  return new Transform({
    transform(chunk: Buffer, _encoding, done: TransformCallback) {
      received += chunk.length
      if (received > descriptor.size) {
        done(mismatch(descriptor, `is longer than the ${descriptor.size} bytes that the manifest says`))
        return
      }
      onReceived(received)
      done(null, chunk)
    },
    flush(done: TransformCallback) {
      done(
        received < descriptor.size
          ? mismatch(descriptor, `ended after ${received} of ${descriptor.size} bytes`)
          : null,
      )
    },
  })
}

/** ERROR of the stream as an error about this layer; SIGNAL tells whether the stream was aborted. */
function explain({ ref, descriptor }: LayerRequest, signal: AbortSignal, error: unknown): unknown {
  if (signal.aborted) {
    const isTimeout = signal.reason instanceof DOMException && signal.reason.name === 'TimeoutError'
    return isTimeout
      ? unreachable(
          ref.registry,
          new Error(`layer ${descriptor.digest} took longer than ${LAYER_TIMEOUT_MS} ms`),
        )
      : signal.reason
  }
  return error instanceof AppError ? error : unreachable(ref.registry, error)
}

/** Whether the stream broke because the unpacker exited: then its answer is the reason. */
function isClosedByUnpacker(error: unknown): boolean {
  if (error instanceof AppError || !(error instanceof Error && 'code' in error)) return false
  if (
    ['ERR_STREAM_PREMATURE_CLOSE', 'ERR_STREAM_DESTROYED', 'ERR_STREAM_UNABLE_TO_PIPE'].includes(
      String(error.code),
    )
  )
    return true
  return 'syscall' in error && error.syscall === 'write'
}

async function stream(deps: LayerDeps, request: LayerRequest, draft: string): Promise<void> {
  const { ref, descriptor, diffId, onUnpacked } = request
  const broken = new AbortController()
  const signal = AbortSignal.any([request.signal, AbortSignal.timeout(LAYER_TIMEOUT_MS), broken.signal])
  let spent = 0
  const unpacker = startUnpacker({
    nativeDir: deps.nativeDir,
    directory: draft,
    compression: layerCompression(descriptor),
    layer: descriptor.digest,
    onUnpacked(bytes) {
      try {
        request.spend(bytes - spent)
      } catch (error) {
        broken.abort(error)
      }
      spent = bytes
      onUnpacked?.(bytes)
    },
  })
  signal.addEventListener('abort', unpacker.kill, { once: true })
  try {
    const body = await deps.registry.blob(ref, descriptor, signal)
    await pipeline([body, createMeter(request), unpacker.stdin], { signal })
  } catch (error) {
    const isClosed = isClosedByUnpacker(error) && !signal.aborted
    if (!isClosed) unpacker.kill()
    const result = await unpacker.result
    throw isClosed && !result.ok ? result.error : explain(request, signal, error)
  }
  const result = await unpacker.result
  signal.removeEventListener('abort', unpacker.kill)
  if (signal.aborted) throw explain(request, signal, signal.reason)
  if (!result.ok) throw result.error
  if (result.digest !== descriptor.digest) throw mismatch(descriptor, `came with the digest ${result.digest}`)
  if (result.diffId !== diffId)
    throw mismatch(descriptor, `has the diffID ${result.diffId}, but the image config says ${diffId}`)
  request.spend(0, result.entries)
}

/**
 * Fetch, check and unpack one layer into the store. Throws RegistryError, ContentError, SyscallError,
 * Unsupported, or the signal's reason; then nothing is left behind.
 */
export async function fetchLayer(deps: LayerDeps, request: LayerRequest): Promise<void> {
  const draft = await deps.store.makeDraft()
  try {
    await stream(deps, request, draft)
    await deps.store.commitLayer(draft, request.diffId)
  } catch (error) {
    await deps.store.discard(draft)
    throw error
  }
}
