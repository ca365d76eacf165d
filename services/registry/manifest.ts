// Parsers for indexes, manifests and image configs (OCI image-spec 1.1 and Docker's schema 2, which differ in
// names only): unknown JSON in, checked values or a ContentError out.
// Manifests are untrusted: every list and number has a bound, only the fields named here are read, and a
// document that two readers could interpret differently is refused (CVE-2021-41190).

import { isDigest } from '../contract/digest.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import { defined } from '../contract/defined.ts'
import { ContentError } from '../contract/errors.ts'
import type { Descriptor, ImageConfig, Index, Manifest, Platform } from '../contract/image.ts'

export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json'
const OCI_ARTIFACT = 'application/vnd.oci.artifact.manifest.v1+json'
export const DOCKER_INDEX = 'application/vnd.docker.distribution.manifest.list.v2+json'
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json'
export const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json'
/** What we accept from a registry, best first. */
export const MANIFEST_TYPES: readonly string[] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST]

/** Of one manifest, index or config. */
export const MANIFEST_BYTES_MAX = 4 * 1024 ** 2

export const SCHEMA_1 = 'has Docker’s schema version 1 or none; push it again with a current tool'

export type Compression = 'none' | 'gzip' | 'zstd'
const LAYER_COMPRESSION: Readonly<Record<string, Compression>> = {
  'application/vnd.oci.image.layer.v1.tar': 'none',
  'application/vnd.oci.image.layer.v1.tar+gzip': 'gzip',
  'application/vnd.oci.image.layer.v1.tar+zstd': 'zstd',
  'application/vnd.docker.image.rootfs.diff.tar': 'none',
  'application/vnd.docker.image.rootfs.diff.tar.gzip': 'gzip',
  'application/vnd.docker.image.rootfs.diff.tar.zstd': 'zstd',
}

const LAYERS_MAX = 128
const INDEX_ENTRIES_MAX = 1000
const STRINGS_MAX = 4096
const ANNOTATIONS_MAX = 256
/** MAX_ARG_STRLEN of execve(2), the limit of one argument or variable. */
const STRING_CHARACTERS_MAX = 131_072

/** The fields that decide what a document is. */
const NAMES: readonly string[] = [
  'schemaVersion',
  'mediaType',
  'config',
  'layers',
  'manifests',
  'artifactType',
]

type Fields = Readonly<Record<string, unknown>>

function invalid(what: string, why: string): never {
  throw new ContentError(`${what} ${why}`, 'ERR_INVALID_CONTENT')
}

function unsupported(message: string): never {
  throw new ContentError(message, 'ERR_UNSUPPORTED_MEDIA_TYPE')
}

function parseFields(bytes: Uint8Array, what: string): Fields {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw new ContentError(`${what} is not JSON`, 'ERR_INVALID_CONTENT', error)
  }
  return isPlainObject(value) ? value : invalid(what, 'is not a JSON object')
}

/** Go, which writes most of these, does not distinguish absent and null. */
function optionalText(value: unknown, what: string): string {
  if (value === undefined || value === null) return ''
  if (typeof value !== 'string' || value.length > STRING_CHARACTERS_MAX || value.includes('\0'))
    invalid(what, 'is not a string')
  return value
}

function optionalTexts(value: unknown, what: string): readonly string[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value) || value.length > STRINGS_MAX)
    invalid(what, `is not a list of at most ${STRINGS_MAX} strings`)
  return value.map((item: unknown, i) => {
    const name = `${what}[${i}]`
    return typeof item === 'string' ? optionalText(item, name) : invalid(name, 'is not a string')
  })
}

/** A word of a platform or a media type.  Messages show it, so it must not contain control characters. */
function optionalWord(value: unknown, what: string): string {
  const text = optionalText(value, what)
  return /^[\x21-\x7e]{0,255}$/.test(text) ? text : invalid(what, 'is not a word')
}

function parsePlatform(value: unknown, what: string): Platform | undefined {
  if (value === undefined || value === null) return undefined
  if (!isPlainObject(value)) invalid(what, 'is not an object')
  const variant = optionalWord(value['variant'], `${what}.variant`)
  return {
    os: optionalWord(value['os'], `${what}.os`),
    architecture: optionalWord(value['architecture'], `${what}.architecture`),
    ...(variant !== '' && { variant }),
  }
}

function parseAnnotations(value: unknown, what: string): Readonly<Record<string, string>> | undefined {
  if (value === undefined || value === null) return undefined
  if (!isPlainObject(value)) invalid(what, 'is not an object')
  const entries = Object.entries(value)
  if (entries.length > ANNOTATIONS_MAX)
    throw new ContentError(`${what} has more than ${ANNOTATIONS_MAX} entries`, 'ERR_CONTENT_LIMIT')
  return Object.fromEntries(entries.map(([key, text]) => [key, optionalText(text, what)]))
}

function parseDescriptor(value: unknown, what: string): Descriptor {
  if (!isPlainObject(value)) invalid(what, 'is not a descriptor')
  const { digest, size } = value
  const mediaType = optionalWord(value['mediaType'], `${what}.mediaType`)
  if (mediaType === '') invalid(`${what}.mediaType`, 'is missing')
  if (!isDigest(digest)) invalid(`${what}.digest`, 'is not sha256: and 64 hexadecimal digits')
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0)
    invalid(`${what}.size`, 'is not a whole number of bytes')
  const platform = parsePlatform(value['platform'], `${what}.platform`)
  const annotations = parseAnnotations(value['annotations'], `${what}.annotations`)
  return { mediaType, digest, size, ...defined({ platform, annotations }) }
}

function parseDescriptors(value: unknown, what: string, max: number): readonly Descriptor[] {
  if (!Array.isArray(value)) invalid(what, 'is not a list')
  if (value.length > max)
    throw new ContentError(`${what} has ${value.length} items, more than ${max}`, 'ERR_CONTENT_LIMIT')
  return value.map((item, i) => parseDescriptor(item, `${what}[${i}]`))
}

/** "application/json; charset=utf-8" → "application/json" */
export function bareType(contentType: string | undefined): string {
  return (contentType ?? '').split(';')[0]!.trim().toLowerCase()
}

/** Whether the Content-Type SENT says nothing about a manifest, as from a plain web server. */
export function isGenericType(sent: string): boolean {
  return ['', 'application/json', 'application/octet-stream', 'text/plain'].includes(sent)
}

/**
 * Go reads "Layers" as "layers" (encoding/json), so a document that Go would read differently from us is
 * refused.
 */
function checkNames(fields: Fields): void {
  for (const name of NAMES) {
    const odd = Object.keys(fields).find((key) => key !== name && key.toLowerCase() === name.toLowerCase())
    if (odd !== undefined) invalid('manifest', `has a field "${odd}", which some readers take for "${name}"`)
  }
}

/** The type on which the document, its shape and the registry's Content-Type agree. */
function agreedType(fields: Fields, contentType: string | undefined): string {
  const written = optionalWord(fields['mediaType'], 'manifest.mediaType')
  const sent = bareType(contentType)
  if (fields['schemaVersion'] !== 2) unsupported(`the manifest ${SCHEMA_1}`)
  checkNames(fields)
  const mixed = ['layers', 'config'].find((name) => fields[name] !== undefined)
  if (mixed !== undefined && fields['manifests'] !== undefined)
    invalid('manifest', `has both "${mixed}" and "manifests"`)
  const shape = fields['manifests'] !== undefined ? OCI_INDEX : OCI_MANIFEST
  const isGeneric = isGenericType(sent)
  const type = written !== '' ? written : isGeneric ? shape : sent
  if (!isGeneric && sent !== type)
    invalid('manifest', `says that it is ${written}, but the registry sent it as ${sent}`)
  if (type === OCI_ARTIFACT) unsupported('this is an artifact, not an image that can run')
  if (!MANIFEST_TYPES.includes(type)) unsupported(`"${type}" is not the media type of an image`)
  const isIndex = type === OCI_INDEX || type === DOCKER_INDEX
  if (isIndex !== (shape === OCI_INDEX))
    invalid('manifest', `says that it is ${type}, but has the fields of another type`)
  return type
}

/**
 * An artifact (image-spec 1.1, manifest.md, "Guidelines for Artifact Usage") has a config of its own type, or
 * none.
 */
function checkTypes(manifest: Manifest, artifactType: string): void {
  const { mediaType } = manifest.config
  if (mediaType !== OCI_CONFIG && mediaType !== DOCKER_CONFIG) {
    unsupported(
      `this is an artifact (${artifactType === '' ? `its config is "${mediaType}"` : `of the type "${artifactType}"`}), not an image that can run`,
    )
  }
  for (const layer of manifest.layers) layerCompression(layer)
}

/** A manifest or an index, told apart by `layers` and `manifests`.  Throws ContentError. */
export function parseManifest(bytes: Uint8Array, contentType?: string): Manifest | Index {
  const fields = parseFields(bytes, 'manifest')
  const mediaType = agreedType(fields, contentType)
  if (fields['manifests'] !== undefined) {
    return { mediaType, manifests: parseDescriptors(fields['manifests'], 'manifests', INDEX_ENTRIES_MAX) }
  }
  const manifest = {
    mediaType,
    config: parseDescriptor(fields['config'], 'config'),
    layers: parseDescriptors(fields['layers'], 'layers', LAYERS_MAX),
  }
  checkTypes(manifest, optionalWord(fields['artifactType'], 'artifactType'))
  return manifest
}

/**
 * The compression of LAYER. Throws ContentError for foreign layers, which are never fetched (CVE-2020-15157),
 * and for types that are not layers.
 */
export function layerCompression(layer: Descriptor): Compression {
  const compression = Object.hasOwn(LAYER_COMPRESSION, layer.mediaType)
    ? LAYER_COMPRESSION[layer.mediaType]
    : undefined
  if (compression !== undefined) return compression
  return /foreign|nondistributable/.test(layer.mediaType)
    ? unsupported(`layer ${layer.digest} is a foreign layer ("${layer.mediaType}"); these are not fetched`)
    : unsupported(
        `layer ${layer.digest} has the media type "${layer.mediaType}", which is not a layer of files`,
      )
}

/** An image config (image-spec, config.md) with defaults filled in.  Throws ContentError. */
export function parseImageConfig(bytes: Uint8Array): ImageConfig {
  const fields = parseFields(bytes, 'image config')
  const config = isPlainObject(fields['config']) ? fields['config'] : {}
  const rootfs = isPlainObject(fields['rootfs']) ? fields['rootfs'] : invalid('image config', 'has no rootfs')
  const diffIds = optionalTexts(rootfs['diff_ids'], 'rootfs.diff_ids')
  if (diffIds.length > LAYERS_MAX || !diffIds.every((id) => isDigest(id)))
    invalid('rootfs.diff_ids', 'is not a list of digests')
  const variant = optionalWord(fields['variant'], 'variant')
  const workingDir = optionalText(config['WorkingDir'], 'config.WorkingDir')
  if (workingDir !== '' && !workingDir.startsWith('/'))
    invalid('config.WorkingDir', 'is not an absolute path')
  return {
    os: optionalWord(fields['os'], 'os'),
    architecture: optionalWord(fields['architecture'], 'architecture'),
    ...(variant !== '' && { variant }),
    env: optionalTexts(config['Env'], 'config.Env').filter((pair) => pair.indexOf('=') > 0),
    entrypoint: optionalTexts(config['Entrypoint'], 'config.Entrypoint'),
    cmd: optionalTexts(config['Cmd'], 'config.Cmd'),
    user: optionalText(config['User'], 'config.User'),
    workingDir: workingDir === '' ? '/' : workingDir,
    diffIds,
  }
}
