// Artifacts that point at an image without being part of it: signatures, SBOMs, provenance. They are found by
// the referrers API of the distribution-spec 1.1, its fallback for older registries (an index under the tag
// sha256-<hex>), cosign's tags (sha256-<hex>.sig, .att, .sbom), and BuildKit's attestations in an index.
// Nothing found here is verified.

import { digestOf, isDigest } from '../contract/digest.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import { DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST } from './manifest.ts'
import type { Reference } from './reference.ts'
import type { RegistryClient } from './registry.ts'

/** A manifest that has an image as its subject. */
export interface Referrer {
  readonly digest: string
  /** As the artifact declares it, "application/spdx+json" …; "" when it does not. */
  readonly artifactType: string
  readonly sizeBytes: number
  readonly annotations: Readonly<Record<string, string>>
}

/**
 * The digests of an image of one platform: that of its name, and that of its manifest.  They differ when the
 * name refers to an index.
 */
export interface ImageDigests {
  readonly digest: string
  readonly manifestDigest: string
}

export interface ArtifactLayer {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly annotations: Readonly<Record<string, string>>
}
export interface ArtifactManifest {
  readonly digest: string
  readonly artifactType: string
  readonly layers: readonly ArtifactLayer[]
}

const REFERRERS_MAX = 256
const LAYERS_MAX = 64
/** How many manifests of one index are fetched. */
const ATTESTATIONS_MAX = 16
const ANNOTATIONS_MAX = 64
const WORD_CHARACTERS_MAX = 255
const ANNOTATION_CHARACTERS_MAX = 65_536
const INDEXES = `${OCI_INDEX}, ${DOCKER_INDEX}`
/** The suffixes of cosign's tags, and the types of their manifests. */
const COSIGN_TAGS: ReadonlyArray<readonly [suffix: string, artifactType: string]> = [
  ['sig', 'application/vnd.dev.cosign.simplesigning.v1+json'],
  ['att', 'application/vnd.dsse.envelope.v1+json'],
  ['sbom', 'application/vnd.dev.cosign.sbom'],
]

type Fields = Readonly<Record<string, unknown>>
const word = (value: unknown): string =>
  typeof value === 'string' && value.length <= WORD_CHARACTERS_MAX && /^[\x21-\x7e]*$/.test(value)
    ? value
    : ''
const tagOf = (digest: string): string => digest.replace(':', '-')

function annotationsOf(value: unknown): Record<string, string> {
  if (!isPlainObject(value)) return {}
  const texts = Object.entries(value).filter(
    (entry): entry is [string, string] =>
      typeof entry[1] === 'string' && entry[1].length <= ANNOTATION_CHARACTERS_MAX,
  )
  return Object.fromEntries(texts.slice(0, ANNOTATIONS_MAX))
}

function parseJson(bytes: Uint8Array): Fields {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'))
    return isPlainObject(value) ? value : {}
  } catch {
    return {} // an unreadable document refers to nothing
  }
}

function parseReferrers(bytes: Uint8Array): Referrer[] {
  const { manifests } = parseJson(bytes)
  if (!Array.isArray(manifests)) return []
  return manifests.slice(0, REFERRERS_MAX).flatMap((item: unknown) => {
    if (!isPlainObject(item) || !isDigest(item['digest'])) return []
    return [
      {
        digest: item['digest'],
        artifactType: word(item['artifactType']),
        sizeBytes: Number(item['size']) || 0,
        annotations: annotationsOf(item['annotations']),
      },
    ]
  })
}

function parseArtifact(bytes: Uint8Array, digest: string): ArtifactManifest {
  const fields = parseJson(bytes)
  const config = isPlainObject(fields['config']) ? fields['config'] : {}
  const layers = Array.isArray(fields['layers']) ? fields['layers'].slice(0, LAYERS_MAX) : []
  return {
    digest,
    artifactType: word(fields['artifactType']) || word(config['mediaType']),
    layers: layers.flatMap((layer: unknown) => {
      if (!isPlainObject(layer) || !isDigest(layer['digest']) || !Number.isSafeInteger(layer['size']))
        return []
      return [
        {
          mediaType: word(layer['mediaType']),
          digest: layer['digest'],
          size: layer['size'] as number,
          annotations: annotationsOf(layer['annotations']),
        },
      ]
    }),
  }
}

/**
 * The manifests whose subject is DIGEST in REF's repository (distribution-spec, "Listing Referrers"). Throws
 * RegistryError, ContentError.
 */
export async function listReferrers(
  registry: RegistryClient,
  ref: Reference,
  digest: string,
  signal?: AbortSignal,
): Promise<readonly Referrer[]> {
  const bytes =
    (await registry.find(ref, `referrers/${digest}`, OCI_INDEX, signal)) ??
    (await registry.find(ref, `manifests/${tagOf(digest)}`, OCI_INDEX, signal))
  return bytes === undefined ? [] : parseReferrers(bytes)
}

/**
 * The artifact manifest NAME (a digest or a tag) of REF's repository, if it exists. Throws RegistryError,
 * ContentError.
 */
export async function readArtifact(
  registry: RegistryClient,
  ref: Reference,
  name: string,
  signal?: AbortSignal,
): Promise<ArtifactManifest | undefined> {
  const bytes = await registry.find(ref, `manifests/${name}`, OCI_MANIFEST, signal)
  if (bytes === undefined) return undefined
  const digest = digestOf(bytes)
  return isDigest(name) && name !== digest ? undefined : parseArtifact(bytes, digest)
}

/** The tag of cosign's artifact for DIGEST; SUFFIX is "sig", "att" or "sbom". */
export function cosignTag(digest: string, suffix: string): string {
  return `${tagOf(digest)}.${suffix}`
}

/**
 * A layer of an artifact as an entry of a list, with the type of its content rather than of its envelope.
 */
function listed({ mediaType, digest, size, annotations }: ArtifactLayer, otherwise: string): Referrer {
  const predicate = annotations['in-toto.io/predicate-type'] ?? annotations['predicateType']
  return { digest, artifactType: word(predicate) || mediaType || otherwise, sizeBytes: size, annotations }
}

/** The artifacts under cosign's tags for DIGEST. */
async function listTagged(
  registry: RegistryClient,
  ref: Reference,
  digest: string,
  signal?: AbortSignal,
): Promise<readonly Referrer[]> {
  const tagged = await Promise.all(
    COSIGN_TAGS.map(async ([suffix, artifactType]) => {
      const artifact = await readArtifact(registry, ref, cosignTag(digest, suffix), signal)
      return (artifact?.layers ?? []).map((layer) => listed(layer, artifactType))
    }),
  )
  return tagged.flat()
}

/** BuildKit's attestations: manifests of the index whose annotation names the image's manifest. */
async function listAttestations(
  registry: RegistryClient,
  ref: Reference,
  { digest, manifestDigest }: ImageDigests,
  signal?: AbortSignal,
): Promise<readonly Referrer[]> {
  const bytes =
    digest === manifestDigest ? undefined : await registry.find(ref, `manifests/${digest}`, INDEXES, signal)
  if (bytes === undefined || digestOf(bytes) !== digest) return []
  const about = parseReferrers(bytes).filter(
    ({ annotations }) =>
      annotations['vnd.docker.reference.type'] === 'attestation-manifest' &&
      annotations['vnd.docker.reference.digest'] === manifestDigest,
  )
  const artifacts = await Promise.all(
    about.slice(0, ATTESTATIONS_MAX).map((item) => readArtifact(registry, ref, item.digest, signal)),
  )
  return artifacts.flatMap((artifact) => artifact?.layers ?? []).map((layer) => listed(layer, ''))
}

/**
 * All artifacts for an image or its index, for display.
 * Throws RegistryError, ContentError.
 */
export async function listArtifacts(
  registry: RegistryClient,
  ref: Reference,
  image: ImageDigests,
  signal?: AbortSignal,
): Promise<readonly Referrer[]> {
  const lists = [...new Set([image.digest, image.manifestDigest])].flatMap((digest) => [
    listReferrers(registry, ref, digest, signal),
    listTagged(registry, ref, digest, signal),
  ])
  const found = (await Promise.all([...lists, listAttestations(registry, ref, image, signal)])).flat()
  return [...new Map(found.map((artifact) => [artifact.digest, artifact])).values()].slice(0, REFERRERS_MAX)
}
