// The images of an archive, from docker save's manifest.json (of any version) or from the index.json of an
// OCI image layout (image-spec, image-layout.md). Docker 25 and skopeo write both into one archive: then
// manifest.json lists the images, and the manifests of the layout keep their digests. All of these documents
// are untrusted.

import { digestOf, hexOf } from '../contract/digest.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import { ContentError } from '../contract/errors.ts'
import type { Descriptor, Index, Manifest } from '../contract/image.ts'
import type { ArchiveFiles } from './archive-files.ts'
import { OCI_INDEX, parseImageConfig, parseManifest, MANIFEST_BYTES_MAX } from '../registry/manifest.ts'
import { hostPlatform } from '../registry/platform.ts'
import { formatReference, parseReference } from '../registry/reference.ts'

/**
 * An image of an archive.  An old archive has no manifest; one must be made from config and layers.
 */
export interface ArchivedImage {
  /** Complete ("docker.io/library/busybox:latest") and checked. */
  readonly names: readonly string[]
  /** Of the manifest or index, if the archive has one. */
  readonly digest?: string
  /** Documents to store unchanged: index, manifest, config. */
  readonly documents: readonly Buffer[]
  readonly layers: ReadonlyArray<{
    readonly file: string
    /** From the manifest, if there is one. */ readonly descriptor?: Descriptor
  }>
  /** Present when a manifest must be made. */
  readonly config?: Buffer
}

const DOCUMENT_BYTES_MAX = MANIFEST_BYTES_MAX
const IMAGES_MAX = 256
const NAMES_MAX = 256
const LAYERS_MAX = 128
const INDEX_DEPTH_MAX = 3
const MANIFESTS_MAX = 1000
const NAME_ANNOTATIONS = ['io.containerd.image.name', 'org.opencontainers.image.ref.name'] as const

type Fields = Readonly<Record<string, unknown>>

function invalid(why: string, cause?: unknown): never {
  throw new ContentError(`the archive is refused: ${why}`, 'ERR_INVALID_CONTENT', cause)
}

function fieldsOf(value: unknown): Fields {
  return isPlainObject(value) ? value : {}
}

function parseJson(bytes: Uint8Array, name: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    return invalid(`its ${name} is not JSON`, error)
  }
}

function textsOf(value: unknown, what: string, max: number): readonly string[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value) || value.length > max || !value.every((item) => typeof item === 'string'))
    invalid(`${what} is not a list of at most ${max} strings`)
  return value
}

/** WRITTEN as a complete name with a tag.  Throws ContentError. */
function checkedName(written: string): string {
  try {
    const ref = parseReference(written)
    if (ref.digest === undefined) return formatReference(ref)
  } catch (error) {
    return invalid(`${JSON.stringify(written.slice(0, 100))} is not the name of an image`, error)
  }
  return invalid(`${JSON.stringify(written.slice(0, 100))} is a digest, not the name of an image`)
}

const blobFile = (digest: string): string => `blobs/sha256/${hexOf(digest)}`

async function readDocument(files: ArchiveFiles, descriptor: Descriptor): Promise<Buffer> {
  const bytes = await files.read(blobFile(descriptor.digest), DOCUMENT_BYTES_MAX)
  if (digestOf(bytes) !== descriptor.digest)
    throw new ContentError(
      `${descriptor.digest} of the archive has the digest ${digestOf(bytes)}`,
      'ERR_DIGEST_MISMATCH',
    )
  return bytes
}

/** A manifest of the layout, with the indexes above it. */
interface Found {
  readonly manifest: Manifest
  readonly digest: string
  readonly documents: readonly Buffer[]
  /** The entry in index.json. */ readonly entry: Fields
}

/** Whether DESCRIPTOR is for another platform, or an attestation about an image. */
function isOther({ platform, annotations }: Descriptor, entry: Fields): boolean {
  const host = hostPlatform()
  const notes = annotations ?? fieldsOf(entry['annotations'])
  if (notes['vnd.docker.reference.type'] !== undefined) return true
  return platform !== undefined && (platform.os !== host.os || platform.architecture !== host.architecture)
}

/** The manifests below DESCRIPTOR that can run here and are in the archive. */
async function manifestsOf(
  files: ArchiveFiles,
  descriptor: Descriptor,
  entry: Fields,
  depth = 0,
): Promise<Found[]> {
  if (isOther(descriptor, entry) || !(await files.has(blobFile(descriptor.digest)))) return []
  const bytes = await readDocument(files, descriptor)
  const document = parseManifest(bytes, descriptor.mediaType)
  if (!('manifests' in document))
    return [{ manifest: document, digest: descriptor.digest, documents: [bytes], entry }]
  if (depth === INDEX_DEPTH_MAX)
    throw new ContentError(`the archive nests indexes more than ${INDEX_DEPTH_MAX} deep`, 'ERR_CONTENT_LIMIT')
  const inner: Found[] = []
  for (const child of document.manifests) inner.push(...(await manifestsOf(files, child, {}, depth + 1)))
  // The image keeps the digest of its index, by which it was pulled.
  return inner
    .slice(0, 1)
    .map((found) => ({ ...found, digest: descriptor.digest, documents: [bytes, ...found.documents], entry }))
}

/** All images of the layout's index.json. */
async function layoutOf(files: ArchiveFiles): Promise<Found[]> {
  const bytes = await files.read('index.json', DOCUMENT_BYTES_MAX)
  const fields = fieldsOf(parseJson(bytes, 'index.json'))
  const index = parseManifest(
    Buffer.from(JSON.stringify({ ...fields, mediaType: OCI_INDEX })),
    OCI_INDEX,
  ) as Index
  if (!('manifests' in index)) invalid('its index.json is not an index')
  if (index.manifests.length > MANIFESTS_MAX)
    throw new ContentError(
      `index.json of the archive has more than ${MANIFESTS_MAX} images`,
      'ERR_CONTENT_LIMIT',
    )
  const entries = fields['manifests'] as readonly unknown[] // parseManifest has checked that it is a list
  const found: Found[] = []
  for (const [i, descriptor] of index.manifests.entries())
    found.push(...(await manifestsOf(files, descriptor, fieldsOf(entries[i]))))
  return found
}

/** The annotated name of an image.  A bare tag ("latest", from skopeo's oci:dir:latest) is not a name. */
function annotatedNames(entry: Fields): readonly string[] {
  const annotations = fieldsOf(entry['annotations'])
  for (const key of NAME_ANNOTATIONS) {
    const written = annotations[key]
    if (typeof written === 'string' && /[:/]/.test(written)) return [checkedName(written)]
  }
  return []
}

async function imageOf(
  files: ArchiveFiles,
  { manifest, digest, documents }: Found,
  names: readonly string[],
): Promise<ArchivedImage> {
  const config = await readDocument(files, manifest.config)
  return {
    names,
    digest,
    documents: [...documents, config],
    layers: manifest.layers.map((descriptor) => ({ file: blobFile(descriptor.digest), descriptor })),
  }
}

/** One item of manifest.json (moby, image/tarexport). */
async function dockerImage(
  files: ArchiveFiles,
  item: Fields,
  layout: readonly Found[],
): Promise<ArchivedImage> {
  const names = textsOf(item['RepoTags'], 'RepoTags of manifest.json', NAMES_MAX).map(checkedName)
  if (typeof item['Config'] !== 'string') invalid('an image of its manifest.json has no Config')
  const config = await files.read(item['Config'], DOCUMENT_BYTES_MAX)
  const known = layout.find((found) => found.manifest.config.digest === digestOf(config))
  if (known) return await imageOf(files, known, names)
  const layers = textsOf(item['Layers'], 'Layers of manifest.json', LAYERS_MAX)
  const { diffIds } = parseImageConfig(config)
  if (diffIds.length !== layers.length)
    invalid(
      `an image of its manifest.json has ${layers.length} layers, but its config names ${diffIds.length}`,
    )
  return { names, documents: [], config, layers: layers.map((file) => ({ file })) }
}

/**
 * The images of FILES that can run on this machine. Throws ContentError when there is none or the archive is
 * invalid.
 */
export async function readContents(files: ArchiveFiles): Promise<readonly ArchivedImage[]> {
  const hasLayout = await files.has('index.json')
  const hasDocker = await files.has('manifest.json')
  if (!hasLayout && !hasDocker)
    invalid('it has neither a manifest.json (docker save) nor an index.json (OCI layout)')
  const layout = hasLayout ? await layoutOf(files) : []
  const images: ArchivedImage[] = []
  if (hasDocker) {
    const items = parseJson(await files.read('manifest.json', DOCUMENT_BYTES_MAX), 'manifest.json')
    if (!Array.isArray(items) || items.length > IMAGES_MAX)
      invalid(`its manifest.json is not a list of at most ${IMAGES_MAX} images`)
    for (const item of items) images.push(await dockerImage(files, fieldsOf(item), layout))
  } else {
    for (const found of layout.slice(0, IMAGES_MAX))
      images.push(await imageOf(files, found, annotatedNames(found.entry)))
  }
  if (images.length === 0) invalid('it has no image for this machine')
  return images
}
