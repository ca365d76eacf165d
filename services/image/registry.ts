// The registry client: the OCI distribution-spec 1.1 endpoints that pulling needs, and `call` for pushing.
// Knows references, digests and a registry's own error codes.  Refuses to know what an image is.
// Nothing a registry sends is believed: a digest is computed over the exact bytes, a size is compared.

import { createHash } from 'node:crypto'
import type { Readable } from 'node:stream'
import { ContentError, RegistryError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { readBounded } from './bounded-body.ts'
import { bareType, MANIFEST_TYPES } from './manifest.ts'
import { formatReference, registryUrl, type Reference } from './reference.ts'
import { createTokens, type Scope } from './token.ts'
import { createTransport, discardBody, type RegistryRequest, type RegistryResponse } from './transport.ts'

export const MANIFEST_BYTES_MAX = 4 * 1024 ** 2
const ERROR_BYTES_MAX = 64 * 1024
const REQUEST_TIMEOUT_DEFAULT_MS = 30_000
const DIGEST = /^sha256:[0-9a-f]{64}$/

const CODE_BY_STATUS: Readonly<Record<number, string>> = {
  401: 'UNAUTHORIZED', 403: 'DENIED', 404: 'MANIFEST_UNKNOWN', 405: 'UNSUPPORTED', 429: 'TOOMANYREQUESTS',
}

export interface Call {
  readonly method: RegistryRequest['method']
  /** A path on the registry's origin, or an absolute address there; tokens go nowhere else. */
  readonly target: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: () => Uint8Array | Readable
  readonly actions?: Scope['actions']
  readonly signal?: AbortSignal
}

export type RegistryClient = ReturnType<typeof createRegistryClient>

/** "sha256:…" of BYTES. */
export function digestOf (bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** The first error of a registry's error document (distribution-spec, "Error Codes"), if it is one. */
function parseErrors (bytes: Uint8Array): { code?: string, detail?: string } {
  try {
    const first: { code?: unknown, message?: unknown } | undefined = JSON.parse(Buffer.from(bytes).toString('utf8'))?.errors?.[0]
    return {
      ...(typeof first?.code === 'string' && /^[A-Z0-9_]{1,64}$/.test(first.code) && { code: first.code }),
      ...(typeof first?.message === 'string' && { detail: first.message.replace(/[^\x20-\x7e]/g, '?').slice(0, 200) }),
    }
  } catch {
    return {} // a proxy's HTML page: the status has to do
  }
}

function problemText (ref: Reference, code: string, detail: string | undefined, status: number): string {
  const image = `${ref.repository}${ref.digest === undefined ? `:${ref.tag}` : `@${ref.digest}`}`
  switch (code) {
    case 'MANIFEST_UNKNOWN':
    case 'NAME_UNKNOWN':
    case 'NOT_FOUND':
      return `registry ${ref.registry} does not have image ${image} (${code}); push it first or check the name`
    case 'BLOB_UNKNOWN':
      return `registry ${ref.registry} lost a part of image ${image} (${code}); push it again`
    case 'UNAUTHORIZED':
    case 'DENIED':
      return `registry ${ref.registry} refuses access to ${image} (${code}); it may be private, or not exist`
    case 'TOOMANYREQUESTS':
      return `registry ${ref.registry} has a rate limit that was reached (${code}); try again later`
    default:
      return `registry ${ref.registry} answered ${status} for ${image} (${code}${detail === undefined ? '' : `: ${detail}`})`
  }
}

/** RESPONSE, which is an error, as RegistryError with the registry's own code.  Reads the body. */
export async function registryError (ref: Reference, response: RegistryResponse): Promise<RegistryError> {
  const { code, detail } = parseErrors(await readBounded(response.body, ERROR_BYTES_MAX, 'an error message', ref.registry))
  const registryCode = code ?? CODE_BY_STATUS[response.status] ?? (response.status >= 500 ? 'UNAVAILABLE' : 'UNKNOWN')
  return new RegistryError(problemText(ref, registryCode, detail, response.status),
    { registryCode, retryable: response.status === 429 || response.status >= 500 })
}

function checkManifestType (ref: Reference, mediaType: string): string {
  if (MANIFEST_TYPES.includes(mediaType)) return mediaType
  const shown = mediaType.slice(0, 100)
  throw new ContentError(`${formatReference(ref)} has the media type "${shown}", which is not an image`, 'ERR_UNSUPPORTED_MEDIA_TYPE')
}

/**
 * A client for any number of registries.  `insecureRegistries` ("host" or "host:port") are spoken to in http;
 * `requestTimeoutMs` bounds each wait for a registry.
 */
export function createRegistryClient ({ insecureRegistries = [], requestTimeoutMs = REQUEST_TIMEOUT_DEFAULT_MS }:
{ insecureRegistries?: readonly string[], requestTimeoutMs?: number } = {}) {
  const transport = createTransport({ requestTimeoutMs })
  const tokens = createTokens({ transport })

  async function call (ref: Reference, { method, target, headers = {}, body, actions = 'pull', signal }: Call): Promise<RegistryResponse> {
    const scope = { registry: ref.registry, origin: registryUrl(ref.registry, insecureRegistries), repository: ref.repository, actions }
    const url = new URL(target, scope.origin)
    if (url.origin !== scope.origin) {
      throw new RegistryError(`registry ${ref.registry} sent us on to ${url.origin}`, { registryCode: 'REDIRECT', retryable: false })
    }
    const send = (token: string | undefined): Promise<RegistryResponse> => transport.request({
      registry: ref.registry, url, method,
      headers: { ...headers, ...(token !== undefined && { authorization: `Bearer ${token}` }) },
      ...(body && { body: body() }), ...(signal && { signal }),
    })
    const response = await send(tokens.find(scope))
    if (response.status !== 401) return response
    await discardBody(response)
    // Once: a registry that refuses its own fresh token will refuse the next.
    return await send(await tokens.obtain(scope, response.header('www-authenticate'), signal))
  }

  const callManifest = (method: 'GET' | 'HEAD', ref: Reference, name: string, signal?: AbortSignal): Promise<RegistryResponse> => call(ref, {
    method, target: `/v2/${ref.repository}/manifests/${name}`, headers: { accept: MANIFEST_TYPES.join(', ') }, ...(signal && { signal }),
  })

  async function getManifest (ref: Reference, name: string, signal?: AbortSignal): Promise<{ bytes: Buffer, mediaType: string }> {
    const response = await callManifest('GET', ref, name, signal)
    if (response.status !== 200) throw await registryError(ref, response)
    const bytes = await readBounded(response.body, MANIFEST_BYTES_MAX, `the manifest of ${formatReference(ref)}`, ref.registry)
    return { bytes, mediaType: bareType(response.header('content-type')) }
  }

  return {
    /** A request in REF's repository with its token.  Returns whatever status; the body is the caller's to read.  For push.ts. */
    call,

    /**
     * What REF's digest or tag names now.  Asks with HEAD, which does not count against Docker Hub's pull limit,
     * and with GET when HEAD says too little.  Throws RegistryError, ContentError.
     */
    async resolve (ref: Reference): Promise<{ digest: string, mediaType: string, size: number }> {
      const name = ref.digest ?? ref.tag ?? 'latest'
      const head = await callManifest('HEAD', ref, name)
      await discardBody(head)
      const digest = head.header('docker-content-digest') ?? ''
      const size = Number(head.header('content-length'))
      if (head.status === 200 && DIGEST.test(digest) && Number.isSafeInteger(size) && (ref.digest ?? digest) === digest) {
        return { digest, mediaType: checkManifestType(ref, bareType(head.header('content-type'))), size }
      }
      const { bytes, mediaType } = await getManifest(ref, name)
      const actual = verify(bytes, ref.digest ?? digestOf(bytes), formatReference(ref))
      return { digest: actual, mediaType: checkManifestType(ref, mediaType), size: bytes.length }
    },

    /** The manifest or index DIGEST, checked against it.  Throws RegistryError, ContentError. */
    async manifest (ref: Reference, digest: string, signal?: AbortSignal): Promise<{ bytes: Buffer, mediaType: string }> {
      const answer = await getManifest(ref, digest, signal)
      verify(answer.bytes, digest, `the manifest of ${formatReference(ref)}`)
      return answer
    },

    /** The blob of DESCRIPTOR as it comes; the caller must check its digest while reading.  Throws RegistryError, ContentError. */
    async blob (ref: Reference, descriptor: Descriptor, signal?: AbortSignal): Promise<Readable> {
      const target = `/v2/${ref.repository}/blobs/${descriptor.digest}`
      const response = await call(ref, { method: 'GET', target, ...(signal && { signal }) })
      if (response.status !== 200) throw await registryError(ref, response)
      const length = response.header('content-length')
      if (length === undefined || Number(length) === descriptor.size) return response.body
      response.body.on('error', () => {}).destroy()
      throw new ContentError(`blob ${descriptor.digest} has ${length} bytes, but the manifest says ${descriptor.size}`, 'ERR_DIGEST_MISMATCH')
    },

    /** Close all connections. */
    async close () { await transport.close() },
  }
}

/** DIGEST if BYTES have it; throws ContentError ERR_DIGEST_MISMATCH. */
export function verify (bytes: Uint8Array, digest: string, what: string): string {
  const actual = digestOf(bytes)
  if (actual === digest) return digest
  throw new ContentError(`${what} should have the digest ${digest}, but what came has ${actual}`, 'ERR_DIGEST_MISMATCH')
}
