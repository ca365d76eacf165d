// An image that exists, with all its parts, into a registry: blobs first, then manifests, then what names
// them, so that nobody ever sees an image that is not whole. Knows where parts come from (a store, another
// registry) as one shape. Refuses to know how a blob travels: that is upload.ts.

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

/** Where an image's parts are. */
export interface PartSource {
  /** The manifest, index or config DIGEST; undefined when it is not there. */
  readonly read: (
    descriptor: Pick<Descriptor, 'digest'> & { readonly size?: number },
  ) => Promise<Uint8Array | undefined>
  /** How the blob is opened; undefined when it is not there. */
  readonly blob: (descriptor: Descriptor) => Promise<Pick<Blob, 'open' | 'openRange'> | undefined>
  /** For mounting: the registry and repository that have it. */
  readonly origin?: Reference
}

export interface CopyProgress {
  readonly digest: string
  readonly sizeBytes: number
  readonly sentBytes: number
  /** When it is over: how. */
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
  /** Platforms of an index that the source does not have: its one image that it has was pushed instead. */
  readonly missing: readonly string[]
}

const PARALLEL_BLOBS = 3
const INDEX_DEPTH_MAX = 3
/** So many missing platforms are listed in a message. */
const SHOWN_MAX = 20

/** What of a STORE's blobs is needed here. */
export interface BlobStore {
  readBlob(digest: string): Promise<Uint8Array | undefined>
  hasBlob(digest: string, sizeBytes?: number): Promise<boolean>
  blobPath(digest: string): string
}

/** Parts from a store on disk; ORIGIN is where they came from, if that is known. */
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

/** Parts from FIRST, and what it does not have from SECOND. */
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
          `blob ${digest} is neither here nor in ${formatReference(to)}; pull the image again`,
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
    `the index has parts that are not here: ${names.slice(0, SHOWN_MAX).join(', ')}; pull them, or push them one by one`,
    'ERR_INVALID_CONTENT',
  )
}

/** Push what READ is, and all below it: that under digests, itself under the tag of `to` if there is one. */
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
        `${formatReference(request.to)} has indexes in indexes, more than ${INDEX_DEPTH_MAX} deep`,
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

/** What of DIGEST is here: all of it, or of an index (a pull takes one platform) the one image that is. */
async function findParts(request: CopyRequest): Promise<{ read: Read; missing: readonly string[] }> {
  const read = await readDocument(request, request.digest)
  if (!read)
    throw new ContentError(
      `manifest ${request.digest} is not here; pull the image again`,
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
 * Push the image DIGEST of SOURCE under the tag of TO, or under its digest when TO has none.
 * Throws RegistryError, ContentError when parts are missing or wrong, the signal's reason.
 */
export async function copyImage(request: CopyRequest): Promise<CopyResult> {
  const { read, missing } = await findParts(request)
  await copyTree(request, read, createSlots(PARALLEL_BLOBS))
  return { digest: digestOf(read.bytes), bytes: read.bytes, document: read.document, missing }
}
