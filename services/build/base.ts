// Base images: an image of the store by its local name, or pulled from its registry, with the parts of its
// config that a build inherits. As in `docker build`, a local image of that name is preferred; the registry
// is used if there is none, or if the build requests it.

import { ContentError } from '../contract/errors.ts'
import type { Manifest, Platform } from '../contract/image.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import { parseImageConfig, parseManifest } from '../registry/manifest.ts'
import { choosePlatform, hostPlatform, platformsFor, type HostPlatform } from '../registry/platform.ts'
import type { Puller } from '../images/pull.ts'
import { formatReference, parseReference } from '../registry/reference.ts'
import type { RegistryClient } from '../registry/registry.ts'
import type { ImageStore } from '../images/store.ts'
import { readBuildConfig, type BuildConfig } from './dockerfile/build-config.ts'

/** One layer of an image that is being built. Layers made by the build are gzip. */
export interface StageLayer {
  readonly diffId: string
  readonly digest: string
  readonly sizeBytes: number
  readonly mediaType?: string
}

/** An entry of an image config's history (image-spec, config.md). */
export type HistoryEntry = Readonly<Record<string, unknown>>

export interface Base {
  /** Digest of the requested manifest or index; undefined for scratch. */
  readonly digest?: string
  /** "registry/repository" that has the packed layers. */
  readonly source?: string
  readonly config: BuildConfig
  readonly layers: readonly StageLayer[]
  readonly history: readonly HistoryEntry[]
  readonly created?: string
}

export interface BaseDeps {
  readonly store: ImageStore
  readonly registry: RegistryClient
  readonly puller: Puller
  /** Use the registry even if there is a local image of that name. */
  readonly alwaysPull: boolean
  readonly signal: AbortSignal
}

const HISTORY_MAX = 1024

type Fields = Readonly<Record<string, unknown>>

function historyOf(fields: Fields): readonly HistoryEntry[] {
  const history = fields['history']
  return Array.isArray(history) ? history.filter(isPlainObject).slice(0, HISTORY_MAX) : []
}

function readJson(bytes: Uint8Array): Fields {
  const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'))
  return isPlainObject(value) ? value : {}
}

export function createBases({ store, registry, puller, alwaysPull, signal }: BaseDeps) {
  async function blobOf(digest: string, name: string): Promise<Uint8Array> {
    const bytes = await store.readBlob(digest)
    if (bytes === undefined)
      throw new ContentError(
        `a part of ${name} is missing in the image store (${digest}); pull the image again`,
        'ERR_INVALID_CONTENT',
      )
    return bytes
  }

  /** The manifest of a stored image: DIGEST itself, or the one for WANTED in the index DIGEST. */
  async function manifestOf(
    digest: string,
    wanted: HostPlatform,
    name: string,
  ): Promise<{ manifest: Manifest; manifestDigest: string }> {
    const top = parseManifest(await blobOf(digest, name))
    if (!('manifests' in top)) return { manifest: top, manifestDigest: digest }
    const chosen = choosePlatform(top, wanted).digest
    const manifest = parseManifest(await blobOf(chosen, name))
    if ('manifests' in manifest)
      throw new ContentError(`${name} is an index of indexes`, 'ERR_UNSUPPORTED_MEDIA_TYPE')
    return { manifest, manifestDigest: chosen }
  }

  return {
    /**
     * The image REFERENCE, with all its layers on disk. Throws InvalidRequest, RegistryError,
     * ContentError.
     */
    async find(reference: string, platform: Platform): Promise<Base> {
      const ref = parseReference(reference)
      const name = formatReference(ref)
      const local = alwaysPull ? undefined : (ref.digest ?? store.catalog.find(name))
      const named = local ?? (await registry.resolve(ref, signal)).digest
      store.catalog.pin(named)
      const host = hostPlatform()
      const wanted = platform.architecture === host.architecture ? host : platformsFor(platform)
      const { digest } = (
        await (wanted === host ? puller.ensure(ref, named) : puller.ensureFor(wanted, ref, named))
      ).image
      store.catalog.pin(digest)
      const { manifest, manifestDigest } = await manifestOf(digest, wanted, name)
      const config = await blobOf(manifest.config.digest, name)
      const { diffIds } = parseImageConfig(config)
      const layers = manifest.layers.map((layer, i) => ({
        diffId: diffIds[i]!,
        digest: layer.digest,
        sizeBytes: layer.size,
        mediaType: layer.mediaType,
      }))
      const kept = store.catalog.image(digest)
      const source = kept?.source ?? `${ref.registry}/${ref.repository}`
      if (kept === undefined)
        store.catalog.recordImage({
          digest,
          manifestDigest,
          configDigest: manifest.config.digest,
          source,
          layers: layers.map(({ diffId, digest, sizeBytes }) => ({ diffId, digest, sizeBytes })),
        })
      store.catalog.touch(digest)
      const fields = readJson(config)
      const created = fields['created']
      return {
        digest,
        source,
        config: readBuildConfig(fields),
        layers,
        history: historyOf(fields),
        ...(typeof created === 'string' && { created }),
      }
    },
  }
}

export type Bases = ReturnType<typeof createBases>
