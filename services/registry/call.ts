// One authorized request to a registry.  What authorizes us goes to the registry's own origin only: a target
// on another origin is refused, and a 401 from wherever a redirect led is not answered with credentials.

import { defined } from '../contract/defined.ts'
import { RegistryError } from '../contract/errors.ts'
import type { Readable } from 'node:stream'
import type { createAuthorization, Scope } from './authorization.ts'
import { registryUrl, type Reference } from './reference.ts'
import type { Registries } from './registry-config.ts'
import {
  discardBody,
  untilAborted,
  type RegistryRequest,
  type RegistryResponse,
  type Transport,
} from './transport.ts'

export interface Call {
  readonly method: RegistryRequest['method']
  /** A path on the registry's origin, or an absolute URL on it. */
  readonly target: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: () => Uint8Array | Readable | Promise<Uint8Array | Readable>
  readonly actions?: Scope['actions']
  /** Another repository, whose blobs may be mounted. */
  readonly mountFrom?: string
  readonly signal?: AbortSignal
  /** Do not retry: another registry can be asked. */
  readonly once?: boolean
  /** How long the response to a large body may take to begin. */
  readonly timeoutMs?: number
}

/** An authorized request in the repository of REF.  Return: the response, whatever its status. */
export type CallRegistry = (ref: Reference, request: Call) => Promise<RegistryResponse>

export interface CallDeps {
  readonly transport: Transport
  readonly authorization: ReturnType<typeof createAuthorization>
  readonly registries: Registries
}

/** Calls over TRANSPORT, authorized by AUTHORIZATION. */
export function createCalls({ transport, authorization, registries }: CallDeps) {
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
        headers: { ...headers, ...defined({ authorization: value }) },
        ...defined({ body, signal, once, timeoutMs }),
      })
    const value = authorization.find(scope)
    const response = await request(value)
    // The target of a redirect may not ask for our credentials.
    if (response.status !== 401 || response.url.origin !== scope.origin) return response
    await discardBody(response)
    // Once: a registry that refuses its own fresh token will refuse the next one.
    return await request(
      await untilAborted(authorization.obtain(scope, response.headerList('www-authenticate'), value), signal),
    )
  }

  async function call({ registry, repository }: Reference, request: Call): Promise<RegistryResponse> {
    const { actions = 'pull', mountFrom } = request
    return await send(
      { registry, origin: originOf(registry), repository, actions, ...defined({ mountFrom }) },
      request,
    )
  }

  return { originOf, send, call }
}
