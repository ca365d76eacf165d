// One layer from its registry to its folder, in one stream and one pass:
//   blob -> [size, digest] -> gunzip | zstd -> [ratio, budget, diffID] -> wherry-unpack
// Both checks end before the unpacker sees the end of its input, so a layer that is not what the manifest
// says never gets as far as "ok".  Whatever fails, the unpacker is killed and its folder removed.

import { createHash } from 'node:crypto'
import { Transform, type TransformCallback } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { AppError, ContentError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { layerCompression, type Compression } from './manifest.ts'
import type { Reference } from './reference.ts'
import type { RegistryClient } from './registry.ts'
import type { ImageStore } from './store.ts'
import { unreachable } from './transport.ts'
import { IMAGE_BYTES_MAX, startUnpacker, type Unpacker } from './unpack.ts'

/** More than gzip's best for real files; the first bytes are free because small layers of zeros are harmless. */
const RATIO_MAX = 1000
const RATIO_FREE_BYTES = 64 * 1024 ** 2
const LAYER_TIMEOUT_MS = 30 * 60_000
const INFLATED_CHUNK_BYTES = 1024 ** 2

export interface LayerDeps {
  readonly store: ImageStore
  readonly registry: Pick<RegistryClient, 'blob'>
  readonly nativeDir: string
}

export interface LayerRequest {
  readonly ref: Reference
  readonly descriptor: Descriptor
  readonly diffId: string
  /** Called with each piece's uncompressed size; throws when the image has become too large. */
  readonly spend: (bytes: number) => void
  readonly onReceived: (bytes: number) => void
  readonly signal: AbortSignal
}

/** How many uncompressed bytes an image may have, all its layers together. */
export function createBudget (maxBytes: number = IMAGE_BYTES_MAX): (bytes: number) => void {
  let left = maxBytes
  return bytes => {
    left -= bytes
    if (left < 0) throw new ContentError(`the image has more than ${maxBytes} bytes unpacked`, 'ERR_CONTENT_LIMIT')
  }
}

/** Passes bytes on while hashing them; `check` sees each piece's size, `finish` the digest before the end is passed on. */
function createMeter (check: (bytes: number) => void, finish: (digest: string) => void): Transform {
  const hash = createHash('sha256')
  return new Transform({
    transform (chunk: Buffer, _encoding, done: TransformCallback) {
      try {
        check(chunk.length)
        hash.update(chunk)
        done(null, chunk)
      } catch (error) {
        done(error as Error)
      }
    },
    flush (done: TransformCallback) {
      try {
        finish(`sha256:${hash.digest('hex')}`)
        done()
      } catch (error) {
        done(error as Error)
      }
    },
  })
}

/** The stream that undoes COMPRESSION; none for 'none'. */
export function createDecompressor (compression: Compression): Transform[] {
  if (compression === 'gzip') return [createGunzip({ chunkSize: INFLATED_CHUNK_BYTES })]
  if (compression === 'zstd') return [createZstdDecompress({ chunkSize: INFLATED_CHUNK_BYTES })]
  return []
}

function createMeters ({ descriptor, diffId, spend, onReceived }: LayerRequest): { packed: Transform, plain: Transform } {
  let packedBytes = 0
  let plainBytes = 0
  const mismatch = (what: string): never => { throw new ContentError(`layer ${descriptor.digest} ${what}`, 'ERR_DIGEST_MISMATCH') }
  const packed = createMeter(bytes => {
    packedBytes += bytes
    if (packedBytes > descriptor.size) mismatch(`is longer than the ${descriptor.size} bytes that the manifest says`)
    onReceived(bytes)
  }, digest => {
    if (packedBytes < descriptor.size) mismatch(`ended after ${packedBytes} of ${descriptor.size} bytes`)
    if (digest !== descriptor.digest) mismatch(`came with the digest ${digest}`)
  })
  const plain = createMeter(bytes => {
    plainBytes += bytes
    spend(bytes)
    if (plainBytes > RATIO_FREE_BYTES && plainBytes > packedBytes * RATIO_MAX) {
      throw new ContentError(`layer ${descriptor.digest} inflates to more than ${RATIO_MAX} times its size`, 'ERR_CONTENT_LIMIT')
    }
  }, digest => {
    if (digest !== diffId) mismatch(`has the diffID ${digest}, but the image config says ${diffId}`)
  })
  return { packed, plain }
}

/** ERROR of the stream in the words of this layer. */
function explain ({ ref, descriptor, signal }: LayerRequest, tooLong: AbortSignal, error: unknown): unknown {
  if (error instanceof AppError) return error
  if (signal.aborted) return signal.reason
  if (tooLong.aborted) return unreachable(ref.registry, new Error(`layer ${descriptor.digest} took longer than ${LAYER_TIMEOUT_MS} ms`))
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  if (/^(?:Z_|ZSTD_|ERR_ZSTD|ERR_ZLIB)/.test(code)) {
    return new ContentError(`layer ${descriptor.digest} is not valid ${layerCompression(descriptor)}`, 'ERR_INVALID_CONTENT', error)
  }
  return unreachable(ref.registry, error)
}

/** Did the stream break because the unpacker went away?  Then its answer is the reason. */
function isClosedByUnpacker (error: unknown): boolean {
  if (!(error instanceof Error && 'code' in error)) return false
  if (error.code === 'ERR_STREAM_PREMATURE_CLOSE' || error.code === 'ERR_STREAM_DESTROYED') return true
  return 'syscall' in error && error.syscall === 'write'
}

async function stream (deps: LayerDeps, request: LayerRequest, draft: string): Promise<void> {
  const { ref, descriptor } = request
  const tooLong = AbortSignal.timeout(LAYER_TIMEOUT_MS)
  const signal = AbortSignal.any([request.signal, tooLong])
  const body = await deps.registry.blob(ref, descriptor, signal)
  const { packed, plain } = createMeters(request)
  const unpacker: Unpacker = startUnpacker({ nativeDir: deps.nativeDir, directory: draft, layer: descriptor.digest })
  try {
    await pipeline([body, packed, ...createDecompressor(layerCompression(descriptor)), plain, unpacker.stdin], { signal })
  } catch (error) {
    if (!isClosedByUnpacker(error)) unpacker.kill()
    const result = await unpacker.result
    throw isClosedByUnpacker(error) && !result.ok ? result.error : explain(request, tooLong, error)
  }
  const result = await unpacker.result
  if (!result.ok) throw result.error
}

/** Fetch, check and unpack one layer into the store.  Throws RegistryError, ContentError, SyscallError; leaves nothing behind then. */
export async function fetchLayer (deps: LayerDeps, request: LayerRequest): Promise<void> {
  const draft = await deps.store.makeDraft()
  try {
    await stream(deps, request, draft)
    await deps.store.commitLayer(draft, request.diffId)
  } catch (error) {
    await deps.store.discard(draft)
    throw error
  }
}
