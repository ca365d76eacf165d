// Pushing an image: its layers and config as blobs, then the manifest that names them (distribution-spec, "Push").
// Knows digests, diffIDs and monolithic uploads; blobs that the registry has are not sent again.
// Refuses to know how a layer was made.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { RegistryError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { createDecompressor } from './layer.ts'
import { layerCompression, OCI_CONFIG, OCI_MANIFEST } from './manifest.ts'
import { hostPlatform } from './platform.ts'
import type { Reference } from './reference.ts'
import { digestOf, registryError, type RegistryClient } from './registry.ts'
import { discardBody } from './transport.ts'

/** A packed layer, in memory or in a file. */
export type LayerSource =
  | { readonly bytes: Uint8Array, readonly mediaType: string }
  | { readonly file: string, readonly mediaType: string }

export interface PushRequest {
  readonly registry: RegistryClient
  readonly reference: Reference
  readonly layers: readonly LayerSource[]
  /** An OCI image config; os, architecture and rootfs are filled in where they are missing. */
  readonly config: Readonly<Record<string, unknown>>
  readonly annotations?: Readonly<Record<string, string>>
}

function openSource (source: LayerSource): Readable {
  return 'bytes' in source ? Readable.from([source.bytes]) : createReadStream(source.file)
}

async function sizeOf (source: LayerSource): Promise<number> {
  return 'bytes' in source ? source.bytes.length : (await stat(source.file)).size
}

/** Digest of SOURCE as it is, and of what it holds: one pass each, nothing kept in memory. */
async function describe (source: LayerSource): Promise<{ descriptor: Descriptor, diffId: string }> {
  const compression = layerCompression({ mediaType: source.mediaType, digest: 'the layer', size: 0 })
  const hashOf = async (unpack: boolean): Promise<string> => {
    const hash = createHash('sha256')
    const sink = new Writable({ write (chunk: Buffer, _encoding, done) { hash.update(chunk); done() } })
    await pipeline([openSource(source), ...createDecompressor(unpack ? compression : 'none'), sink])
    return `sha256:${hash.digest('hex')}`
  }
  const digest = await hashOf(false)
  const descriptor = { mediaType: source.mediaType, digest, size: await sizeOf(source) }
  return { descriptor, diffId: compression === 'none' ? digest : await hashOf(true) }
}

export interface Blob {
  readonly digest: string
  readonly size: number
  /** Opens it anew each time. */
  readonly open: () => Uint8Array | Readable
}

/** Upload one blob unless the registry has it.  Throws RegistryError. */
export async function pushBlob (registry: RegistryClient, ref: Reference, { digest, size, open }: Blob): Promise<void> {
  const blobs = `/v2/${ref.repository}/blobs`
  const head = await registry.call(ref, { method: 'HEAD', target: `${blobs}/${digest}`, actions: 'pull,push' })
  await discardBody(head)
  if (head.status === 200) return
  const session = await registry.call(ref, {
    method: 'POST', target: `${blobs}/uploads/`, headers: { 'content-length': '0' }, actions: 'pull,push',
  })
  if (session.status !== 202) throw await registryError(ref, session)
  await discardBody(session)
  const location = session.header('location')
  if (location === undefined || !URL.canParse(location, session.url)) {
    const problem = `registry ${ref.registry} opened an upload but said no address for it`
    throw new RegistryError(problem, { registryCode: 'UNKNOWN', retryable: false })
  }
  const target = new URL(location, session.url)
  target.searchParams.set('digest', digest)
  const answer = await registry.call(ref, {
    method: 'PUT', target: target.href, body: open, actions: 'pull,push',
    headers: { 'content-type': 'application/octet-stream', 'content-length': String(size) },
  })
  if (answer.status !== 201) throw await registryError(ref, answer)
  await discardBody(answer)
}

/** Upload a manifest or index under the reference's tag, or its digest.  Returns its digest. */
export async function pushManifest (registry: RegistryClient, ref: Reference, mediaType: string, bytes: Uint8Array): Promise<string> {
  const digest = digestOf(bytes)
  const answer = await registry.call(ref, {
    method: 'PUT', target: `/v2/${ref.repository}/manifests/${ref.tag ?? digest}`, body: () => bytes, actions: 'pull,push',
    headers: { 'content-type': mediaType, 'content-length': String(bytes.length) },
  })
  if (answer.status !== 201) throw await registryError(ref, answer)
  await discardBody(answer)
  return digest
}

/** Push an image in OCI format.  Returns the manifest's digest.  Throws RegistryError. */
export async function pushImage ({ registry, reference, layers, config, annotations }: PushRequest): Promise<string> {
  const described = []
  for (const source of layers) {
    const layer = await describe(source)
    await pushBlob(registry, reference, { ...layer.descriptor, open: () => 'bytes' in source ? source.bytes : openSource(source) })
    described.push(layer)
  }
  const { os, architecture } = hostPlatform()
  const rootfs = { type: 'layers', diff_ids: described.map(l => l.diffId) }
  const configBytes = Buffer.from(JSON.stringify({ os, architecture, rootfs, ...config }))
  const configDescriptor = { mediaType: OCI_CONFIG, digest: digestOf(configBytes), size: configBytes.length }
  await pushBlob(registry, reference, { ...configDescriptor, open: () => configBytes })
  const manifest = {
    schemaVersion: 2, mediaType: OCI_MANIFEST, config: configDescriptor,
    layers: described.map(l => l.descriptor), ...(annotations && { annotations }),
  }
  return await pushManifest(registry, reference, OCI_MANIFEST, Buffer.from(JSON.stringify(manifest)))
}
