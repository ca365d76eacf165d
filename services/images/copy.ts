// Pushes an existing image with all its parts: blobs first, then manifests, then the indexes that name them,
// so an incomplete image is never visible. Parts come from a store or from another registry.

import { defined } from '../contract/defined.ts'
import { digestOf } from '../contract/digest.ts'
import { ContentError } from '../contract/errors.ts'
import type { Descriptor, Index, Manifest } from '../contract/image.ts'
import { readBounded } from '../registry/bounded-body.ts'
import { uploadBlob, type Blob, type UploadResult, blobOfFile } from '../registry/upload.ts'
import { pushManifest } from '../registry/push-manifest.ts'
import { parseManifest, MANIFEST_BYTES_MAX } from '../registry/manifest.ts'
import { verifyDigest } from '../registry/verify-digest.ts'
import { platformText } from '../registry/platform.ts'
import { formatReference, type Reference } from '../registry/reference.ts'
import type { RegistryClient } from '../registry/registry.ts'
import { createSlots } from '../platform/single-flight.ts'

/** Where the parts of an image come from. */
export interface PartSource {
  /** The manifest, index or config DIGEST, or undefined. */
  readonly read: (
    descriptor: Pick<Descriptor, 'digest'> & { readonly size?: number },
  ) => Promise<Uint8Array | undefined>
  /** How to open the blob, or undefined. */
  readonly blob: (descriptor: Descriptor) => Promise<Pick<Blob, 'open' | 'openRange'> | undefined>
  /** The registry and repository that have the parts, for mounting blobs. */
  readonly origin?: Reference
}

export interface CopyProgress {
  readonly digest: string
  readonly sizeBytes: number
  readonly sentBytes: number
  /** Present when the blob is done. */
  readonly result?: UploadResult
}

export interface CopyRequest {
  readonly registry: RegistryClient
  readonly source: PartSource
  readonly digest: string
  readonly to: Reference
  readonly onProgress?: (progress: CopyProgress) => void
  readonly signal?: AbortSignal
}

interface Read {
  readonly bytes: Uint8Array
  readonly document: Manifest | Index
}

export interface CopyResult extends Read {
  readonly digest: string
  /** Platforms of an index that the source lacks; then its only image was pushed instead of the index. */
  readonly missing: readonly string[]
}

const PARALLEL_BLOBS = 3
const INDEX_DEPTH_MAX = 3
/** How many missing platforms a message lists. */
const SHOWN_MAX = 20

/** The part of a store that is needed here. */
export interface BlobStore {
  readBlob(digest: string): Promise<Uint8Array | undefined>
  hasBlob(digest: string, sizeBytes?: number): Promise<boolean>
  blobPath(digest: string): string
}

/** Parts from STORE; ORIGIN is where they came from, if known. */
export function storeSource(store: BlobStore, origin?: Reference): PartSource {
  return {
    read: ({ digest }) => store.readBlob(digest),
    blob: async ({ digest, size }) =>
      (await store.hasBlob(digest, size)) ? blobOfFile(store.blobPath(digest)) : undefined,
    ...defined({ origin }),
  }
}

/** Parts from the repository of REF. */
export function registrySource(registry: RegistryClient, ref: Reference, signal?: AbortSignal): PartSource {
  return {
    async read({ digest, size }) {
      if (size === undefined) return (await registry.manifest(ref, digest, signal)).bytes
      const what = `the config of ${formatReference(ref)}`
      if (size > MANIFEST_BYTES_MAX)
        throw new ContentError(`${what} is larger than ${MANIFEST_BYTES_MAX} bytes`, 'ERR_CONTENT_LIMIT')
      const bytes = await readBounded(
        await registry.blob(ref, { mediaType: '', digest, size }, signal),
        size,
        what,
        ref.registry,
      )
      verifyDigest(bytes, digest, what)
      return bytes
    },
    blob: async (descriptor) => ({ open: () => registry.blob(ref, descriptor, signal) }),
    origin: ref,
  }
}

/** Parts from FIRST, and what it lacks from SECOND. */
export function eitherSource(first: PartSource, second: PartSource): PartSource {
  return {
    read: async (descriptor) => (await first.read(descriptor)) ?? (await second.read(descriptor)),
    blob: async (descriptor) => (await first.blob(descriptor)) ?? (await second.blob(descriptor)),
    ...((first.origin ?? second.origin) && { origin: (first.origin ?? second.origin)! }),
  }
}

async function readDocument({ source }: CopyRequest, digest: string): Promise<Read | undefined> {
  const bytes = await source.read({ digest })
  return bytes && { bytes, document: parseManifest(bytes) }
}

async function copyBlob(
  { registry, source, to, onProgress, signal }: CopyRequest,
  descriptor: Descriptor,
): Promise<void> {
  const { digest, size } = descriptor
  const { origin } = source
  const parts = await source.blob(descriptor)
  const mountFrom =
    origin?.registry === to.registry && origin.repository !== to.repository ? origin.repository : undefined
  const blob = {
    digest,
    size,
    ...(parts ?? {
      open: () => {
        throw new ContentError(
          `blob ${digest} is neither in the store nor in ${formatReference(to)}; pull the image again`,
          'ERR_INVALID_CONTENT',
        )
      },
    }),
  }
  const result = await uploadBlob(registry, to, blob, {
    ...defined({ mountFrom, signal }),
    onSent: (sentBytes) => onProgress?.({ digest, sizeBytes: size, sentBytes }),
  })
  onProgress?.({ digest, sizeBytes: size, sentBytes: result === 'uploaded' ? size : 0, result })
}

async function copyManifest(
  request: CopyRequest,
  manifest: Manifest,
  inSlot: ReturnType<typeof createSlots>,
): Promise<void> {
  const blobs = new Map(
    [...manifest.layers, manifest.config].map((descriptor) => [descriptor.digest, descriptor]),
  )
  const ends = await Promise.allSettled(
    [...blobs.values()].map((descriptor) => inSlot(() => copyBlob(request, descriptor))),
  )
  const failed = ends.find((end) => end.status === 'rejected')
  if (failed) throw failed.reason
}

function missingParts(names: readonly string[]): ContentError {
  return new ContentError(
    `the store lacks parts of the index: ${names.slice(0, SHOWN_MAX).join(', ')}; pull them, or push each image alone`,
    'ERR_INVALID_CONTENT',
  )
}

/** Push the parts below READ under their digests, then READ itself under the tag of `to`, if any. */
async function copyTree(
  request: CopyRequest,
  { bytes, document }: Read,
  inSlot: ReturnType<typeof createSlots>,
  depth = 0,
): Promise<void> {
  const { registry, repository } = request.to
  if (!('manifests' in document)) await copyManifest(request, document, inSlot)
  else {
    if (depth === INDEX_DEPTH_MAX)
      throw new ContentError(
        `${formatReference(request.to)} nests indexes more than ${INDEX_DEPTH_MAX} deep`,
        'ERR_CONTENT_LIMIT',
      )
    for (const entry of document.manifests) {
      const child = await readDocument(request, entry.digest)
      if (!child) throw missingParts([platformText(entry)])
      await copyTree({ ...request, to: { registry, repository } }, child, inSlot, depth + 1)
    }
  }
  await pushManifest(request.registry, request.to, document.mediaType, bytes)
}

/** All of the image, or the only present image of an index, since a pull takes one platform. */
async function findParts(request: CopyRequest): Promise<{ read: Read; missing: readonly string[] }> {
  const read = await readDocument(request, request.digest)
  if (!read)
    throw new ContentError(
      `manifest ${request.digest} is not in the store; pull the image again`,
      'ERR_INVALID_CONTENT',
    )
  if (!('manifests' in read.document)) return { read, missing: [] }
  const here: Read[] = []
  const missing: string[] = []
  for (const entry of read.document.manifests) {
    const child = await readDocument(request, entry.digest)
    if (child) here.push(child)
    else missing.push(platformText(entry))
  }
  if (missing.length === 0) return { read, missing }
  if (here.length !== 1) throw missingParts(missing)
  return { read: here[0]!, missing }
}

/**
 * Push the image `digest` of `source` under the tag of `to`, or under its digest without a tag.
 * Throws RegistryError, ContentError when parts are missing or wrong, the signal's reason.
 */
export async function copyImage(request: CopyRequest): Promise<CopyResult> {
  const { read, missing } = await findParts(request)
  await copyTree(request, read, createSlots(PARALLEL_BLOBS))
  return { digest: digestOf(read.bytes), bytes: read.bytes, document: read.document, missing }
}
