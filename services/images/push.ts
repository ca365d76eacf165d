// Pushing an image: its layers and config as blobs, then the manifest that names them (distribution-spec,
// "Push"). Knows digests and diffIDs. Refuses to know how a layer was made.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { RegistryError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { createDecompressor } from './layer.ts'
import { layerCompression, OCI_CONFIG, OCI_MANIFEST } from '../registry/manifest.ts'
import { hostPlatform } from '../registry/platform.ts'
import type { Reference } from '../registry/reference.ts'
import { digestOf, registryError, type RegistryClient } from '../registry/registry.ts'
import { discardBody } from '../registry/transport.ts'
import { uploadBlob, type Blob } from '../registry/upload.ts'

export type { Blob } from '../registry/upload.ts'

/** A packed layer, in memory or in a file. */
export type LayerSource =
  | { readonly bytes: Uint8Array; readonly mediaType: string }
  | { readonly file: string; readonly mediaType: string }

export interface PushRequest {
  readonly registry: RegistryClient
  readonly reference: Reference
  readonly layers: readonly LayerSource[]
  /** An OCI image config; os, architecture and rootfs are filled in where they are missing. */
  readonly config: Readonly<Record<string, unknown>>
  readonly annotations?: Readonly<Record<string, string>>
}

function openSource(source: LayerSource): Readable {
  return 'bytes' in source ? Readable.from([source.bytes]) : createReadStream(source.file)
}

async function sizeOf(source: LayerSource): Promise<number> {
  return 'bytes' in source ? source.bytes.length : (await stat(source.file)).size
}

/** How a blob that is in memory is opened. */
function blobOfBytes(bytes: Uint8Array): Pick<Blob, 'open' | 'openRange'> {
  return { open: () => bytes, openRange: (start, end) => bytes.subarray(start, end) }
}

/** How a blob that is FILE is opened. */
export function blobOfFile(file: string): Pick<Blob, 'open' | 'openRange'> {
  return {
    open: () => createReadStream(file),
    openRange: (start, end) => createReadStream(file, { start, end: end - 1 }),
  }
}

/** Digest of SOURCE as it is, and of what it holds: one pass each, nothing kept in memory. */
async function describe(source: LayerSource): Promise<{ descriptor: Descriptor; diffId: string }> {
  const compression = layerCompression({ mediaType: source.mediaType, digest: 'the layer', size: 0 })
  const hashOf = async (unpack: boolean): Promise<string> => {
    const hash = createHash('sha256')
    const sink = new Writable({
      write(chunk: Buffer, _encoding, done) {
        hash.update(chunk)
        done()
      },
    })
    await pipeline([openSource(source), ...createDecompressor(unpack ? compression : 'none'), sink])
    return `sha256:${hash.digest('hex')}`
  }
  const digest = await hashOf(false)
  const descriptor = { mediaType: source.mediaType, digest, size: await sizeOf(source) }
  return { descriptor, diffId: compression === 'none' ? digest : await hashOf(true) }
}

/** Upload one blob unless the registry has it.  Throws RegistryError. */
export async function pushBlob(registry: RegistryClient, ref: Reference, blob: Blob): Promise<void> {
  await uploadBlob(registry, ref, blob)
}

/** Upload a manifest or index under the reference's tag, or its digest.  Returns its digest. */
export async function pushManifest(
  registry: RegistryClient,
  ref: Reference,
  mediaType: string,
  bytes: Uint8Array,
): Promise<string> {
  const digest = digestOf(bytes)
  const answer = await registry.call(ref, {
    method: 'PUT',
    target: `/v2/${ref.repository}/manifests/${ref.tag ?? digest}`,
    body: () => bytes,
    actions: 'pull,push',
    headers: { 'content-type': mediaType, 'content-length': String(bytes.length) },
  })
  if (answer.status !== 201) throw await registryError(ref, answer)
  await discardBody(answer)
  const taken = answer.header('docker-content-digest') ?? digest
  if (taken === digest) return digest
  throw new RegistryError(
    `registry ${ref.registry} took a manifest with the digest ${digest} for ${taken.slice(0, 100)}`,
    { registryCode: 'DIGEST_INVALID', retryable: false },
  )
}

/** Push an image in OCI format.  Returns the manifest's digest.  Throws RegistryError. */
export async function pushImage({
  registry,
  reference,
  layers,
  config,
  annotations,
}: PushRequest): Promise<string> {
  const described = []
  for (const source of layers) {
    const layer = await describe(source)
    await pushBlob(registry, reference, {
      ...layer.descriptor,
      ...('bytes' in source ? blobOfBytes(source.bytes) : blobOfFile(source.file)),
    })
    described.push(layer)
  }
  const { os, architecture } = hostPlatform()
  const rootfs = { type: 'layers', diff_ids: described.map((l) => l.diffId) }
  const configBytes = Buffer.from(JSON.stringify({ os, architecture, rootfs, ...config }))
  const configDescriptor = { mediaType: OCI_CONFIG, digest: digestOf(configBytes), size: configBytes.length }
  await pushBlob(registry, reference, { ...configDescriptor, open: () => configBytes })
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: configDescriptor,
    layers: described.map((l) => l.descriptor),
    ...(annotations && { annotations }),
  }
  return await pushManifest(registry, reference, OCI_MANIFEST, Buffer.from(JSON.stringify(manifest)))
}
