// The end of a build: writes an image config and a manifest for the layers (OCI image spec, config.md and
// manifest.md), records the image in the store, and names it.

import { defined } from '../contract/defined.ts'
import type { Platform } from '../contract/image.ts'
import { OCI_CONFIG, OCI_MANIFEST } from '../registry/manifest.ts'
import type { ImageStore } from '../images/store.ts'
import type { HistoryEntry, StageLayer } from './base.ts'
import { writeBuildConfig, type BuildConfig } from './dockerfile/build-config.ts'

const OCI_GZIP_LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip'
const OCI_ZSTD_LAYER = 'application/vnd.oci.image.layer.v1.tar+zstd'
const OCI_PLAIN_LAYER = 'application/vnd.oci.image.layer.v1.tar'

export interface ResultRequest {
  readonly layers: readonly StageLayer[]
  readonly config: BuildConfig
  readonly history: readonly HistoryEntry[]
  readonly platform: Platform
  readonly created: string
  /** "registry/repository" that has the packed layers of the base. */
  readonly source: string | undefined
  /** Full references with a tag. */
  readonly names: readonly string[]
}

export interface BuiltImage {
  readonly digest: string
  readonly configDigest: string
  readonly sizeBytes: number
}

/** OCI media types of Docker's layers; the bytes are the same. */
function ociLayerType(mediaType: string | undefined): string {
  if (mediaType === undefined || mediaType.endsWith('gzip')) return OCI_GZIP_LAYER
  return mediaType.endsWith('zstd') ? OCI_ZSTD_LAYER : OCI_PLAIN_LAYER
}

/** Stores the image in STORE and names it.  The same request gives the same digest. */
export async function keepImage(store: ImageStore, request: ResultRequest): Promise<BuiltImage> {
  const { layers, config, history, platform, created, source, names } = request
  const document = {
    created,
    ...defined({ author: config.author }),
    architecture: platform.architecture,
    ...defined({ variant: platform.variant }),
    os: platform.os,
    config: writeBuildConfig(config),
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) },
    history,
  }
  const configBlob = await store.putBlob(Buffer.from(JSON.stringify(document)))
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: OCI_CONFIG, digest: configBlob.digest, size: configBlob.size },
    layers: layers.map(({ digest, sizeBytes, mediaType }) => ({
      mediaType: ociLayerType(mediaType),
      digest,
      size: sizeBytes,
    })),
  }
  const { digest } = await store.putBlob(Buffer.from(JSON.stringify(manifest)))
  store.catalog.recordImage({
    digest,
    manifestDigest: digest,
    configDigest: configBlob.digest,
    ...defined({ source }),
    layers: layers.map(({ diffId, digest, sizeBytes }) => ({ diffId, digest, sizeBytes })),
  })
  for (const name of names) store.catalog.tag(name, digest)
  return {
    digest,
    configDigest: configBlob.digest,
    sizeBytes: layers.reduce((sum, layer) => sum + layer.sizeBytes, 0),
  }
}
