// The documents of an image: from the digest that a function has, through indexes, to the manifest for one
// platform and its config.  Each is read from the store, or fetched, checked and stored.

import { ContentError } from '../contract/errors.ts'
import type { Descriptor, ImageConfig, Index, Manifest } from '../contract/image.ts'
import { readBounded } from '../registry/bounded-body.ts'
import {
  DOCKER_INDEX,
  MANIFEST_BYTES_MAX,
  OCI_INDEX,
  parseImageConfig,
  parseManifest,
} from '../registry/manifest.ts'
import { choosePlatform, type HostPlatform } from '../registry/platform.ts'
import { formatReference, type Reference } from '../registry/reference.ts'
import type { RegistryClient } from '../registry/registry.ts'
import { verifyDigest } from '../registry/verify-digest.ts'
import type { ImageStore } from './store.ts'

/** Keeps DIGESTS from being removed until the pull ends. */
export type Hold = (...digests: string[]) => void

export interface DocumentsDeps {
  readonly store: Pick<ImageStore, 'readBlob' | 'writeBlob'>
  readonly registry: Pick<RegistryClient, 'manifest' | 'blob'>
  readonly signal: AbortSignal
}

interface Read<T> {
  readonly manifest: T
  readonly fetched: boolean
}

export interface FoundManifest extends Read<Manifest> {
  readonly manifestDigest: string
}

const INDEX_DEPTH_MAX = 3

/** An index states size and type of each manifest below it; a manifest that differs is refused. */
function checkEntry(entry: Descriptor, manifest: Manifest | Index, sizeBytes: number): void {
  const { digest, size, mediaType } = entry
  if (size !== sizeBytes)
    throw new ContentError(
      `manifest ${digest} has ${sizeBytes} bytes, but its index says ${size}`,
      'ERR_DIGEST_MISMATCH',
    )
  const isIndex = mediaType === OCI_INDEX || mediaType === DOCKER_INDEX
  if ('manifests' in manifest !== isIndex)
    throw new ContentError(
      `manifest ${digest} is ${manifest.mediaType}, but its index says ${mediaType}`,
      'ERR_INVALID_CONTENT',
    )
}

/** Reads documents from STORE, or from REGISTRY into it. */
export function createDocuments({ store, registry, signal }: DocumentsDeps) {
  async function blobOf(
    digest: string,
    fetch: () => Promise<Uint8Array>,
  ): Promise<{ bytes: Uint8Array; fetched: boolean }> {
    const stored = await store.readBlob(digest)
    if (stored) return { bytes: stored, fetched: false }
    const bytes = await fetch()
    await store.writeBlob(digest, bytes)
    return { bytes, fetched: true }
  }

  /** The manifest or index DIGEST; ENTRY is its descriptor in the index above. */
  async function manifestOf(
    ref: Reference,
    digest: string,
    entry?: Descriptor,
  ): Promise<Read<Manifest | Index>> {
    let mediaType: string | undefined
    const { bytes, fetched } = await blobOf(digest, async () => {
      const answer = await registry.manifest(ref, digest, signal)
      mediaType = answer.mediaType
      // Checked before it is stored, because later readers have no Content-Type to compare.
      parseManifest(answer.bytes, mediaType)
      return answer.bytes
    })
    const manifest = parseManifest(bytes, mediaType)
    if (entry) checkEntry(entry, manifest, bytes.length)
    return { manifest, fetched }
  }

  return {
    /**
     * The manifest for WANTED below DIGEST, a manifest or an index.  HOLD gets each digest before its use.
     */
    async find(ref: Reference, digest: string, wanted: HostPlatform, hold: Hold): Promise<FoundManifest> {
      hold(digest)
      const top = await manifestOf(ref, digest)
      let chosen = top
      let manifestDigest = digest
      for (let depth = 0; 'manifests' in chosen.manifest; depth++) {
        if (depth === INDEX_DEPTH_MAX)
          throw new ContentError(
            `${formatReference(ref)} nests indexes more than ${INDEX_DEPTH_MAX} deep`,
            'ERR_CONTENT_LIMIT',
          )
        const entry = choosePlatform(chosen.manifest, wanted)
        manifestDigest = entry.digest
        hold(manifestDigest)
        chosen = await manifestOf(ref, manifestDigest, entry)
      }
      return { manifest: chosen.manifest, manifestDigest, fetched: top.fetched || chosen.fetched }
    },

    /** The image config of DESCRIPTOR. */
    async config(ref: Reference, descriptor: Descriptor): Promise<ImageConfig> {
      const what = `the config of ${formatReference(ref)}`
      if (descriptor.size > MANIFEST_BYTES_MAX)
        throw new ContentError(`${what} is larger than ${MANIFEST_BYTES_MAX} bytes`, 'ERR_CONTENT_LIMIT')
      const { bytes } = await blobOf(descriptor.digest, async () => {
        const body = await registry.blob(ref, descriptor, signal)
        const bytes = await readBounded(body, descriptor.size, what, ref.registry)
        verifyDigest(bytes, descriptor.digest, what)
        return bytes
      })
      return parseImageConfig(bytes)
    },
  }
}
