// The registry client: the OCI distribution-spec 1.1 endpoints that pulling needs, and `call` for pushing.
// Knows references, digests and a registry's own error codes.  Refuses to know what an image is.
// Nothing a registry sends is believed: a digest is computed over the exact bytes, a size is compared.

import { createHash } from 'node:crypto'
import type { Readable } from 'node:stream'
import { ContentError, RegistryError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { createAuthorization, type Scope } from './authorization.ts'
import { openBlob } from './blob-stream.ts'
import { readBounded } from './bounded-body.ts'
import { createConnections } from './connections.ts'
import { noCredentials, type Credentials } from './credentials.ts'
import { createFailureMemory } from './failure-memory.ts'
import { bareType, isGenericType, MANIFEST_TYPES, parseManifest, SCHEMA_1 } from './manifest.ts'
import { createMirrors } from './mirrors.ts'
import { isLoopback, type ProxyRule } from './proxy.ts'
import { formatReference, registryUrl, type Reference } from './reference.ts'
import { noRegistries, type Registries } from './registry-config.ts'
import {
  createTransport,
  discardBody,
  untilAborted,
  type RegistryRequest,
  type RegistryResponse,
} from './transport.ts'

export const MANIFEST_BYTES_MAX = 4 * 1024 ** 2
const ERROR_BYTES_MAX = 64 * 1024
const ERROR_TIMEOUT_MS = 5000
const REQUEST_TIMEOUT_DEFAULT_MS = 30_000
const DIGEST = /^sha256:[0-9a-f]{64}$/

const CODE_BY_STATUS: Readonly<Record<number, string>> = {
  401: 'UNAUTHORIZED',
  403: 'DENIED',
  404: 'MANIFEST_UNKNOWN',
  405: 'UNSUPPORTED',
  429: 'TOOMANYREQUESTS',
}

export interface Call {
  readonly method: RegistryRequest['method']
  /** A path on the registry's origin, or an absolute address there; what authorizes us goes nowhere else. */
  readonly target: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: () => Uint8Array | Readable | Promise<Uint8Array | Readable>
  readonly actions?: Scope['actions']
  /** Another repository whose blobs are to be mounted. */
  readonly mountFrom?: string
  readonly signal?: AbortSignal
  /** Do not try again: a mirror is not the last to ask. */
  readonly once?: boolean
  /** How long the answer to a large body may take to begin. */
  readonly timeoutMs?: number
}

export interface RegistryClientOptions {
  readonly registries?: Registries
  readonly credentials?: Credentials
  readonly proxyOf?: ProxyRule
  /** PEM of the CAs that are believed instead of the system's. */
  readonly roots?: string
  /** Bounds each wait for a registry. */
  readonly requestTimeoutMs?: number
}

export type RegistryClient = ReturnType<typeof createRegistryClient>

/** "sha256:…" of BYTES. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** The first error of a registry's error document (distribution-spec, "Error Codes"), if it is one. */
function parseErrors(
  bytes: Uint8Array,
  authorization: string | undefined,
): { code?: string; detail?: string } {
  try {
    const first: { code?: unknown; message?: unknown } | undefined = JSON.parse(
      Buffer.from(bytes).toString('utf8'),
    )?.errors?.[0]
    return {
      ...(typeof first?.code === 'string' && /^[A-Z0-9_]{1,64}$/.test(first.code) && { code: first.code }),
      ...(typeof first?.message === 'string' && {
        detail: withoutSecrets(first.message, authorization)
          .replace(/[^\x20-\x7e]/g, '?')
          .slice(0, 200),
      }),
    }
  } catch {
    return {} // a proxy's HTML page: the status has to do
  }
}

function problemText(
  ref: Reference,
  code: string,
  detail: string | undefined,
  { status, authorization, url }: RegistryResponse,
): string {
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
      return authorization?.startsWith('Basic ')
        ? `registry ${ref.registry} refuses the login for ${image} (${code}); check user and password, then wherry login ${ref.registry}`
        : `registry ${ref.registry} refuses access to ${image} (${code}); it may not exist, or be private (wherry login ${ref.registry})`
    case 'TOOMANYREQUESTS':
      return `registry ${ref.registry} has a rate limit that was reached (${code}); try again later`
    default: {
      // What servers for https answer to plain http; without a word of ours nobody finds out.
      const hint =
        code === 'UNKNOWN' && status === 400 && url.protocol === 'http:'
          ? '; we spoke plain http, if it wants https, say so in the file of registries ("http": false)'
          : ''
      return `registry ${ref.registry} answered ${status} for ${image} (${code}${detail === undefined ? '' : `: ${detail}`})${hint}`
    }
  }
}

/** TEXT of a registry without the AUTHORIZATION that it may quote. */
function withoutSecrets(text: string, authorization: string | undefined): string {
  const value = authorization?.slice(authorization.indexOf(' ') + 1) ?? ''
  const password = authorization?.startsWith('Basic ')
    ? Buffer.from(value, 'base64')
        .toString('utf8')
        .replace(/^[^:]*:/, '')
    : ''
  return [value, password]
    .filter((secret) => secret !== '')
    .reduce((rest, secret) => rest.replaceAll(secret, '***'), text)
}

/** The body says why; the status says enough when it cannot be had. */
async function readErrorBody(ref: Reference, response: RegistryResponse): Promise<Uint8Array> {
  try {
    return await readBounded(
      response.body,
      ERROR_BYTES_MAX,
      'an error message',
      ref.registry,
      ERROR_TIMEOUT_MS,
    )
  } catch {
    return Buffer.alloc(0)
  }
}

/** RESPONSE, which is an error, as RegistryError with the registry's own code.  Reads the body. */
export async function registryError(ref: Reference, response: RegistryResponse): Promise<RegistryError> {
  const { code, detail } = parseErrors(await readErrorBody(ref, response), response.authorization)
  const registryCode =
    code ?? CODE_BY_STATUS[response.status] ?? (response.status >= 500 ? 'UNAVAILABLE' : 'UNKNOWN')
  return new RegistryError(problemText(ref, registryCode, detail, response), {
    registryCode,
    retryable: response.status === 429 || response.status >= 500,
  })
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

/** A client for any number of registries. */
export function createRegistryClient(options: RegistryClientOptions = {}) {
  const {
    registries = noRegistries,
    credentials = noCredentials,
    requestTimeoutMs = REQUEST_TIMEOUT_DEFAULT_MS,
  } = options
  const transport = createTransport({
    requestTimeoutMs,
    connections: createConnections({ ...options, requestTimeoutMs }),
  })
  const authorization = createAuthorization({ transport, credentials, registries })
  const viaMirrors = createMirrors(registries)
  const notAgain = createFailureMemory()

  const originOf = (registry: string): string => registryUrl(registry, registries.of(registry).http)

  /** A request in SCOPE; one 401 of the registry itself is answered. */
  async function send(
    scope: Scope,
    { method, target, headers = {}, body, signal, once, timeoutMs }: Call,
  ): Promise<RegistryResponse> {
    const url = new URL(target, scope.origin)
    if (url.origin !== scope.origin) {
      throw new RegistryError(`registry ${scope.registry} sent us on to ${url.origin}`, {
        registryCode: 'REDIRECT',
        retryable: false,
      })
    }
    const request = (value: string | undefined): Promise<RegistryResponse> =>
      transport.request({
        registry: scope.registry,
        url,
        method,
        headers: { ...headers, ...(value !== undefined && { authorization: value }) },
        ...(body && { body }),
        ...(signal && { signal }),
        ...(once !== undefined && { once }),
        ...(timeoutMs !== undefined && { timeoutMs }),
      })
    const value = authorization.find(scope)
    const response = await request(value)
    // Where a redirect led is nobody who may ask for our credentials.
    if (response.status !== 401 || response.url.origin !== scope.origin) return response
    await discardBody(response)
    // Once: a registry that refuses its own fresh token will refuse the next.
    return await request(
      await untilAborted(authorization.obtain(scope, response.headerList('www-authenticate'), value), signal),
    )
  }

  async function call(ref: Reference, request: Call): Promise<RegistryResponse> {
    const { actions = 'pull', mountFrom } = request
    const { registry, repository } = ref
    return await send(
      {
        registry,
        origin: originOf(registry),
        repository,
        actions,
        ...(mountFrom !== undefined && { mountFrom }),
      },
      request,
    )
  }

  const callManifest = (
    method: 'GET' | 'HEAD',
    ref: Reference,
    name: string,
    once: boolean,
    signal?: AbortSignal,
  ): Promise<RegistryResponse> =>
    call(ref, {
      method,
      target: `/v2/${ref.repository}/manifests/${name}`,
      headers: { accept: MANIFEST_TYPES.join(', ') },
      once,
      ...(signal && { signal }),
    })

  async function getManifest(
    ref: Reference,
    name: string,
    once: boolean,
    signal?: AbortSignal,
  ): Promise<{ bytes: Buffer; mediaType: string }> {
    const response = await callManifest('GET', ref, name, once, signal)
    if (response.status !== 200)
      throw await registryError(DIGEST.test(name) ? { ...ref, digest: name } : ref, response)
    const bytes = await readBounded(
      response.body,
      MANIFEST_BYTES_MAX,
      `the manifest of ${formatReference(ref)}`,
      ref.registry,
    )
    return { bytes, mediaType: bareType(response.header('content-type')) }
  }

  async function resolveAt(
    ref: Reference,
    once: boolean,
    signal?: AbortSignal,
  ): Promise<{ digest: string; mediaType: string; size: number }> {
    const name = ref.digest ?? ref.tag ?? 'latest'
    const head = await callManifest('HEAD', ref, name, once, signal)
    await discardBody(head)
    const digest = head.header('docker-content-digest') ?? ''
    const size = Number(head.header('content-length'))
    const type = bareType(head.header('content-type'))
    if (
      head.status === 200 &&
      DIGEST.test(digest) &&
      Number.isSafeInteger(size) &&
      (ref.digest ?? digest) === digest &&
      !isGenericType(type)
    ) {
      return { digest, mediaType: checkManifestType(ref, type), size }
    }
    const { bytes, mediaType } = await getManifest(ref, name, once, signal)
    const actual = verify(bytes, ref.digest ?? digestOf(bytes), formatReference(ref))
    return {
      digest: actual,
      mediaType: isGenericType(mediaType)
        ? parseManifest(bytes, mediaType).mediaType
        : checkManifestType(ref, mediaType),
      size: bytes.length,
    }
  }

  async function openAt(
    ref: Reference,
    digest: string,
    offset: number,
    once: boolean,
    signal?: AbortSignal,
  ): Promise<RegistryResponse> {
    const from = (start: number): Promise<RegistryResponse> =>
      call(ref, {
        method: 'GET',
        target: `/v2/${ref.repository}/blobs/${digest}`,
        once,
        headers: start === 0 ? {} : { range: `bytes=${start}-` },
        ...(signal && { signal }),
      })
    let response = await from(offset)
    if (response.status === 416 && offset > 0) {
      // it takes no ranges, and says so with an error: all of it again
      await discardBody(response)
      response = await from(0)
    }
    if (response.status === 200 || (response.status === 206 && offset > 0)) return response
    throw await registryError(ref, response)
  }

  return {
    /**
     * A request in REF's repository, authorized; no mirror is asked. Returns whatever status; the body is the
     * caller's to read. For push.ts.
     */
    call,

    /**
     * What REF's digest or tag names now. Asks with HEAD, which does not count against Docker Hub's pull
     * limit, and with GET when HEAD says too little. Throws RegistryError, ContentError, SIGNAL's reason.
     */
    async resolve(
      ref: Reference,
      signal?: AbortSignal,
    ): Promise<{ digest: string; mediaType: string; size: number }> {
      return await notAgain(`resolve ${formatReference(ref)}`, () =>
        viaMirrors(ref, (at, once) => resolveAt(at, once, signal), signal),
      )
    },

    /** The manifest or index DIGEST, checked against it.  Throws RegistryError, ContentError. */
    async manifest(
      ref: Reference,
      digest: string,
      signal?: AbortSignal,
    ): Promise<{ bytes: Buffer; mediaType: string }> {
      return await notAgain(`manifest ${ref.registry}/${ref.repository}@${digest}`, () =>
        viaMirrors(
          ref,
          async (at, once) => {
            const answer = await getManifest(at, digest, once, signal)
            verify(answer.bytes, digest, `the manifest of ${formatReference(at)}`)
            return answer
          },
          signal,
        ),
      )
    },

    /**
     * What is at NAME of REF's repository ("manifests/sha256-….sig", "referrers/sha256:…"), or undefined when
     * nothing is: for what may be there. Not checked against any digest. Throws RegistryError, ContentError.
     */
    async find(
      ref: Reference,
      name: string,
      accept: string,
      signal?: AbortSignal,
    ): Promise<Buffer | undefined> {
      return await viaMirrors(
        ref,
        async (at, once) => {
          const response = await call(at, {
            method: 'GET',
            target: `/v2/${at.repository}/${name}`,
            headers: { accept },
            once,
            ...(signal && { signal }),
          })
          if (response.status === 200)
            return await readBounded(
              response.body,
              MANIFEST_BYTES_MAX,
              `${at.repository}/${name}`,
              at.registry,
            )
          // A mirror need not have all of it; 400 and 405 are what registries without an API of referrers
          // have been seen to answer.
          if (once || ![400, 404, 405].includes(response.status)) throw await registryError(at, response)
          await discardBody(response)
          return undefined
        },
        signal,
      )
    },

    /**
     * The blob of DESCRIPTOR: exactly its size in bytes, over as many connections as that takes; the caller
     * must check its digest while reading. Throws RegistryError, ContentError; so does the stream.
     */
    async blob(ref: Reference, descriptor: Descriptor, signal?: AbortSignal): Promise<Readable> {
      return await notAgain(`blob ${ref.registry}/${ref.repository}@${descriptor.digest}`, () =>
        openBlob({
          what: `blob ${descriptor.digest}`,
          registry: ref.registry,
          sizeBytes: descriptor.size,
          requestTimeoutMs,
          ...(signal && { signal }),
          open: (offset) =>
            viaMirrors(ref, (at, once) => openAt(at, descriptor.digest, offset, once, signal), signal),
        }),
      )
    },

    /**
     * Does REGISTRY accept our credentials?  Return: did it ask for any?  Throws RegistryError.
     */
    async checkLogin(registry: string): Promise<boolean> {
      const scope = { registry, origin: originOf(registry), actions: 'pull' } as const
      const response = await send(scope, { method: 'GET', target: '/v2/' })
      await discardBody(response)
      if (response.status === 200) return response.authorization !== undefined
      const isRefused = response.status === 401 || response.status === 403
      throw new RegistryError(
        isRefused
          ? `registry ${registry} refuses the login; check user and password`
          : `${registry} does not answer like a registry (${response.status} for /v2/); check the name`,
        { registryCode: isRefused ? 'UNAUTHORIZED' : 'UNKNOWN', retryable: response.status >= 500 },
      )
    },

    /** Would a password for REGISTRY be readable on its way? */
    isPlainHttp(registry: string): boolean {
      const { protocol, hostname } = new URL(originOf(registry))
      return protocol === 'http:' && !isLoopback(hostname)
    },

    /** Close all connections; what is under way fails. */
    async close() {
      credentials.close?.()
      await transport.close()
    },
  }
}

/** DIGEST if BYTES have it; throws ContentError ERR_DIGEST_MISMATCH. */
export function verify(bytes: Uint8Array, digest: string, what: string): string {
  const actual = digestOf(bytes)
  if (actual === digest) return digest
  throw new ContentError(
    `${what} should have the digest ${digest}, but what came has ${actual}`,
    'ERR_DIGEST_MISMATCH',
  )
}
