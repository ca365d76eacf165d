// The registry client: mirrors, credentials and retries around the endpoints of the OCI distribution-spec.
// Nothing a registry sends is trusted: digests are computed over the exact bytes and sizes are compared.

import type { Readable } from 'node:stream'
import { defined } from '../contract/defined.ts'
import { RegistryError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { createAuthorization } from './authorization.ts'
import { openBlob } from './blob-stream.ts'
import { createCalls, type CallRegistry } from './call.ts'
import { createConnections } from './connections.ts'
import { noCredentials, type Credentials } from './credentials.ts'
import {
  findBytes,
  getManifest,
  openBlobAt,
  resolveManifest,
  type ManifestBytes,
  type Resolved,
} from './endpoints.ts'
import { createFailureMemory } from './failure-memory.ts'
import { createMirrors } from './mirrors.ts'
import { isLoopback, type ProxyRule } from './proxy.ts'
import { formatReference, type Reference } from './reference.ts'
import { noRegistries, type Registries } from './registry-config.ts'
import { createTransport, discardBody } from './transport.ts'
import { verifyDigest } from './verify-digest.ts'

export interface RegistryClientOptions {
  readonly registries?: Registries
  readonly credentials?: Credentials
  readonly proxyOf?: ProxyRule
  /** PEM of the CAs to trust instead of the system's. */
  readonly roots?: string
  /** Bounds each wait for a registry. */
  readonly requestTimeoutMs?: number
}

export interface RegistryClient {
  /**
   * An authorized request in REF's repository, at the registry itself and not at a mirror. Returns any
   * status; the caller reads the body.
   */
  readonly call: CallRegistry

  /**
   * What REF's digest or tag names now. Uses HEAD, which does not count against Docker Hub's pull limit, and
   * GET when HEAD says too little. Throws RegistryError, ContentError, SIGNAL's reason.
   */
  resolve(ref: Reference, signal?: AbortSignal): Promise<Resolved>

  /** The manifest or index DIGEST, verified.  Throws RegistryError, ContentError. */
  manifest(ref: Reference, digest: string, signal?: AbortSignal): Promise<ManifestBytes>

  /**
   * The document at NAME in REF's repository ("manifests/sha256-….sig", "referrers/sha256:…"), or undefined
   * when there is none. It is not verified against a digest. Throws RegistryError, ContentError.
   */
  find(ref: Reference, name: string, accept: string, signal?: AbortSignal): Promise<Buffer | undefined>

  /**
   * The blob of DESCRIPTOR: exactly its size in bytes, over as many connections as that takes. The caller
   * must verify the digest while reading. Throws RegistryError, ContentError; so does the stream.
   */
  blob(ref: Reference, descriptor: Descriptor, signal?: AbortSignal): Promise<Readable>

  /** Return: whether REGISTRY asked for credentials.  Throws RegistryError when it refuses ours. */
  checkLogin(registry: string): Promise<boolean>

  /** Whether a password for REGISTRY would travel unencrypted over a network. */
  isPlainHttp(registry: string): boolean

  /** Close all connections; requests in progress fail. */
  close(): Promise<void>
}

const REQUEST_TIMEOUT_DEFAULT_MS = 30_000

function loginError(registry: string, status: number): RegistryError {
  const isRefused = status === 401 || status === 403
  return new RegistryError(
    isRefused
      ? `registry ${registry} refuses the login; check user and password`
      : `${registry} does not answer like a registry (${status} for /v2/); check the name`,
    { registryCode: isRefused ? 'UNAUTHORIZED' : 'UNKNOWN', retryable: status >= 500 },
  )
}

/** A client for any number of registries. */
export function createRegistryClient(options: RegistryClientOptions = {}): RegistryClient {
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
  const { call, send, originOf } = createCalls({ transport, authorization, registries })
  const viaMirrors = createMirrors(registries)
  const notAgain = createFailureMemory()

  return {
    call,

    async resolve(ref, signal) {
      return await notAgain(`resolve ${formatReference(ref)}`, () =>
        viaMirrors(ref, (at, once) => resolveManifest(call, at, { once, signal }), signal),
      )
    },

    async manifest(ref, digest, signal) {
      const getVerified = async (at: Reference, once: boolean): Promise<ManifestBytes> => {
        const answer = await getManifest(call, at, digest, { once, signal })
        verifyDigest(answer.bytes, digest, `the manifest of ${formatReference(at)}`)
        return answer
      }
      return await notAgain(`manifest ${ref.registry}/${ref.repository}@${digest}`, () =>
        viaMirrors(ref, getVerified, signal),
      )
    },

    async find(ref, name, accept, signal) {
      return await viaMirrors(
        ref,
        (at, once) => findBytes(call, at, { name, accept }, { once, signal }),
        signal,
      )
    },

    async blob(ref, { digest, size }, signal) {
      const open = (offset: number) =>
        viaMirrors(ref, (at, once) => openBlobAt(call, at, { digest, offset }, { once, signal }), signal)
      return await notAgain(`blob ${ref.registry}/${ref.repository}@${digest}`, () =>
        openBlob({
          what: `blob ${digest}`,
          registry: ref.registry,
          sizeBytes: size,
          requestTimeoutMs,
          open,
          ...defined({ signal }),
        }),
      )
    },

    async checkLogin(registry) {
      const scope = { registry, origin: originOf(registry), actions: 'pull' } as const
      const response = await send(scope, { method: 'GET', target: '/v2/' })
      await discardBody(response)
      if (response.status !== 200) throw loginError(registry, response.status)
      return response.authorization !== undefined
    },

    isPlainHttp(registry) {
      const { protocol, hostname } = new URL(originOf(registry))
      return protocol === 'http:' && !isLoopback(hostname)
    },

    async close() {
      credentials.close?.()
      await transport.close()
    },
  }
}
