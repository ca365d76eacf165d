// The endpoints of the distribution-spec 1.1 that pulling needs, at one registry: manifests, blobs, and what
// may or may not exist.  ONCE means that another registry can be asked, so a failure is not retried.

import { digestOf, isDigest } from '../contract/digest.ts'
import { defined } from '../contract/defined.ts'
import { ContentError } from '../contract/errors.ts'
import { readBounded } from './bounded-body.ts'
import type { CallRegistry } from './call.ts'
import {
  bareType,
  isGenericType,
  MANIFEST_BYTES_MAX,
  MANIFEST_TYPES,
  parseManifest,
  SCHEMA_1,
} from './manifest.ts'
import { formatReference, type Reference } from './reference.ts'
import { registryError } from './registry-error.ts'
import { discardBody, type RegistryResponse } from './transport.ts'
import { verifyDigest } from './verify-digest.ts'

export interface ManifestBytes {
  readonly bytes: Buffer
  readonly mediaType: string
}

export interface Resolved {
  readonly digest: string
  readonly mediaType: string
  readonly size: number
}

/** How one request is made. */
export interface Attempt {
  readonly once: boolean
  readonly signal?: AbortSignal | undefined
}

function checkManifestType(ref: Reference, mediaType: string): string {
  if (MANIFEST_TYPES.includes(mediaType)) return mediaType
  if (mediaType.startsWith('application/vnd.docker.distribution.manifest.v1+'))
    throw new ContentError(`${formatReference(ref)} ${SCHEMA_1}`, 'ERR_UNSUPPORTED_MEDIA_TYPE')
  const shown = mediaType.slice(0, 100)
  throw new ContentError(
    `${formatReference(ref)} has the media type "${shown}", which is not an image`,
    'ERR_UNSUPPORTED_MEDIA_TYPE',
  )
}

function callManifest(
  call: CallRegistry,
  method: 'GET' | 'HEAD',
  ref: Reference,
  name: string,
  { once, signal }: Attempt,
): Promise<RegistryResponse> {
  return call(ref, {
    method,
    target: `/v2/${ref.repository}/manifests/${name}`,
    headers: { accept: MANIFEST_TYPES.join(', ') },
    once,
    ...defined({ signal }),
  })
}

/** The manifest or index NAME, a tag or a digest; its digest is not checked here. */
export async function getManifest(
  call: CallRegistry,
  ref: Reference,
  name: string,
  attempt: Attempt,
): Promise<ManifestBytes> {
  const response = await callManifest(call, 'GET', ref, name, attempt)
  if (response.status !== 200)
    throw await registryError(isDigest(name) ? { ...ref, digest: name } : ref, response)
  const bytes = await readBounded(
    response.body,
    MANIFEST_BYTES_MAX,
    `the manifest of ${formatReference(ref)}`,
    ref.registry,
  )
  return { bytes, mediaType: bareType(response.header('content-type')) }
}

/** What the tag or digest of REF names: by HEAD, or by GET when the answer to HEAD says too little. */
export async function resolveManifest(
  call: CallRegistry,
  ref: Reference,
  attempt: Attempt,
): Promise<Resolved> {
  const name = ref.digest ?? ref.tag ?? 'latest'
  const head = await callManifest(call, 'HEAD', ref, name, attempt)
  await discardBody(head)
  const digest = head.header('docker-content-digest') ?? ''
  const size = Number(head.header('content-length'))
  const type = bareType(head.header('content-type'))
  const isEnough =
    head.status === 200 &&
    isDigest(digest) &&
    Number.isSafeInteger(size) &&
    (ref.digest ?? digest) === digest &&
    !isGenericType(type)
  if (isEnough) return { digest, mediaType: checkManifestType(ref, type), size }
  const { bytes, mediaType } = await getManifest(call, ref, name, attempt)
  return {
    digest: verifyDigest(bytes, ref.digest ?? digestOf(bytes), formatReference(ref)),
    mediaType: isGenericType(mediaType)
      ? parseManifest(bytes, mediaType).mediaType
      : checkManifestType(ref, mediaType),
    size: bytes.length,
  }
}

/** The body at NAME ("referrers/sha256:…"), or undefined when the registry has none. */
export async function findBytes(
  call: CallRegistry,
  ref: Reference,
  { name, accept }: { readonly name: string; readonly accept: string },
  { once, signal }: Attempt,
): Promise<Buffer | undefined> {
  const response = await call(ref, {
    method: 'GET',
    target: `/v2/${ref.repository}/${name}`,
    headers: { accept },
    once,
    ...defined({ signal }),
  })
  if (response.status === 200)
    return await readBounded(response.body, MANIFEST_BYTES_MAX, `${ref.repository}/${name}`, ref.registry)
  // A mirror may lack some of it; 400 and 405 were seen from registries without the referrers API.
  if (once || ![400, 404, 405].includes(response.status)) throw await registryError(ref, response)
  await discardBody(response)
  return undefined
}

/** The response with the bytes of blob DIGEST from OFFSET on (206), or all of them (200). */
export async function openBlobAt(
  call: CallRegistry,
  ref: Reference,
  { digest, offset }: { readonly digest: string; readonly offset: number },
  { once, signal }: Attempt,
): Promise<RegistryResponse> {
  const from = (start: number): Promise<RegistryResponse> =>
    call(ref, {
      method: 'GET',
      target: `/v2/${ref.repository}/blobs/${digest}`,
      once,
      headers: start === 0 ? {} : { range: `bytes=${start}-` },
      ...defined({ signal }),
    })
  let response = await from(offset)
  if (response.status === 416 && offset > 0) {
    // This registry answers ranges with an error: request the whole blob.
    await discardBody(response)
    response = await from(0)
  }
  if (response.status === 200 || (response.status === 206 && offset > 0)) return response
  throw await registryError(ref, response)
}
