// Pushes an image that is made of packed layers and a config, for the demo and the tests.  The product pushes
// images that exist in a store (services/images/copy.ts).

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { Readable, Writable, type Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { digestOf, digestOfHex } from '../../services/contract/digest.ts'
import { defined } from '../../services/contract/defined.ts'
import type { Descriptor } from '../../services/contract/image.ts'
import {
  layerCompression,
  OCI_CONFIG,
  OCI_MANIFEST,
  type Compression,
} from '../../services/registry/manifest.ts'
import { hostPlatform } from '../../services/registry/platform.ts'
import { pushManifest } from '../../services/registry/push-manifest.ts'
import type { Reference } from '../../services/registry/reference.ts'
import type { RegistryClient } from '../../services/registry/registry.ts'
import { blobOfFile, uploadBlob, type Blob } from '../../services/registry/upload.ts'

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

/** The stream that undoes COMPRESSION; none for 'none'. */
function createDecompressor(compression: Compression): Transform[] {
  if (compression === 'gzip') return [createGunzip()]
  if (compression === 'zstd') return [createZstdDecompress()]
  return []
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
    return digestOfHex(hash.digest('hex'))
  }
  const digest = await hashOf(false)
  const descriptor = { mediaType: source.mediaType, digest, size: await sizeOf(source) }
  return { descriptor, diffId: compression === 'none' ? digest : await hashOf(true) }
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
    await uploadBlob(registry, reference, {
      ...layer.descriptor,
      ...('bytes' in source ? blobOfBytes(source.bytes) : blobOfFile(source.file)),
    })
    described.push(layer)
  }
  const { os, architecture } = hostPlatform()
  const rootfs = { type: 'layers', diff_ids: described.map((l) => l.diffId) }
  const configBytes = Buffer.from(JSON.stringify({ os, architecture, rootfs, ...config }))
  const configDescriptor = { mediaType: OCI_CONFIG, digest: digestOf(configBytes), size: configBytes.length }
  await uploadBlob(registry, reference, { ...configDescriptor, open: () => configBytes })
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: configDescriptor,
    layers: described.map((l) => l.descriptor),
    ...defined({ annotations }),
  }
  return await pushManifest(registry, reference, OCI_MANIFEST, Buffer.from(JSON.stringify(manifest)))
}
