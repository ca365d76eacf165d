// The Authorization header of requests to registries: none until a registry answers with a challenge, then
// the value that its challenge and our credentials give, from a bounded cache. The registry chooses the realm
// of its token service, so the realm is checked. Without credentials it must be https or the registry's own
// host, or a hostile registry could point us at any service inside the network. With credentials it must be
// the registry's own host, a host in its domain, or one that the operator named.

import { isIP } from 'node:net'
import { LRUCache } from 'lru-cache'
import { parseChallenges, type Challenge } from './challenge.ts'
import type { Credential, Credentials } from './credentials.ts'
import type { Registries } from './registry-config.ts'
import { createSingleFlight } from '../platform/single-flight.ts'
import { basicAuthorization, fetchToken, unauthorized } from './token.ts'
import type { Transport } from './transport.ts'

export interface Scope {
  readonly registry: string
  readonly origin: string
  /** Absent when only the login is checked. */
  readonly repository?: string
  readonly actions: 'pull' | 'pull,push'
  /** Another repository, whose blobs may be mounted. */
  readonly mountFrom?: string
}

export interface AuthorizationDeps {
  readonly transport: Transport
  readonly credentials: Credentials
  readonly registries: Registries
}

const KEPT_MAX = 256
/** A token this close to its expiry is not used any more. */
const EXPIRY_MARGIN_MS = 10_000
/** A changed password is noticed by the registry's 401; a removed one is still used for this long. */
const BASIC_LIFETIME_MS = 5 * 60_000

function scopesOf({ repository, actions, mountFrom }: Scope): readonly string[] {
  if (repository === undefined) return []
  return [
    `repository:${repository}:${actions}`,
    ...(mountFrom === undefined ? [] : [`repository:${mountFrom}:pull`]),
  ]
}

function keyOf(scope: Scope): string {
  return [scope.origin, ...scopesOf(scope)].join(' ')
}

/** One password is valid for all repositories of a registry. */
function basicKeyOf(scope: Scope): string {
  return `basic ${scope.origin}`
}

/** Whether A and B share a domain.  Under "co.uk" and the like three labels must agree. */
export function isSameDomain(a: string, b: string): boolean {
  if (isIP(a) !== 0 || isIP(b) !== 0) return false
  const [top = '', second = ''] = a.split('.').toReversed()
  const labels = top.length === 2 && second.length <= 3 ? 3 : 2
  const [mine, theirs] = [a, b].map((host) => host.split('.').slice(-labels))
  return mine!.length === labels && mine!.join('.') === theirs!.join('.')
}

function checkRealm(
  challenge: Challenge,
  scope: Scope,
  credential: Credential | undefined,
  tokenHosts: readonly string[],
): URL {
  const realm = challenge.parameters['realm'] ?? ''
  if (!URL.canParse(realm)) throw unauthorized(scope.registry, 'its challenge names no realm')
  const url = new URL(realm)
  const own = new URL(scope.origin)
  const isOwnHost = url.protocol === own.protocol && url.hostname === own.hostname
  if ((url.protocol !== 'https:' && !isOwnHost) || url.username !== '' || url.password !== '') {
    throw unauthorized(
      scope.registry,
      `its realm ${url.protocol}//${url.host} is neither https nor on its own host`,
    )
  }
  if (!credential || url.origin === own.origin || tokenHosts.includes(url.host)) return url
  if (
    url.protocol === 'https:' &&
    own.protocol === 'https:' &&
    (isOwnHost || isSameDomain(url.hostname, own.hostname))
  )
    return url
  throw unauthorized(
    scope.registry,
    `its realm ${url.origin} is in another domain, which does not get the login; if that is right, add ${url.host} to tokenHosts in the file of registries`,
  )
}

/** Authorizations for requests over TRANSPORT. */
export function createAuthorization({ transport, credentials, registries }: AuthorizationDeps) {
  const kept = new LRUCache<string, string>({ max: KEPT_MAX })
  const flight = createSingleFlight<string>()

  function keep(key: string, value: string, lifetimeMs: number): string {
    kept.set(key, value, { ttl: Math.max(1, Math.floor(lifetimeMs)) })
    return value
  }

  async function answer(scope: Scope, challenges: readonly Challenge[]): Promise<string> {
    const { registry } = scope
    const { credential, problems } = await credentials.find(registry)
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer')
    if (bearer) {
      if (credential?.kind === 'bearer') return `Bearer ${credential.token}`
      const realm = checkRealm(bearer, scope, credential, registries.of(registry).tokenHosts)
      const { token, lifetimeMs } = await fetchToken(transport, {
        registry,
        realm,
        service: bearer.parameters['service'],
        scopes: scopesOf(scope),
        credential,
      })
      return keep(keyOf(scope), `Bearer ${token}`, lifetimeMs - Math.min(EXPIRY_MARGIN_MS, lifetimeMs / 4))
    }
    if (!challenges.some(({ scheme }) => scheme === 'basic'))
      throw unauthorized(
        registry,
        `it asks for ${challenges[0]?.scheme ?? 'an unknown scheme'}, which is not supported`,
      )
    if (credential?.kind === 'password')
      return keep(basicKeyOf(scope), basicAuthorization(credential), BASIC_LIFETIME_MS)
    const why = problems.length > 0 ? ` (${problems.join('; ')})` : ''
    throw unauthorized(
      registry,
      `it asks for user and password, and no credentials are stored for it${why}; run wherry login ${registry}`,
    )
  }

  /** The value for SCOPE that is known and has not expired. */
  const find = (scope: Scope): string | undefined => kept.get(keyOf(scope)) ?? kept.get(basicKeyOf(scope))

  return {
    find,

    /**
     * A value other than REFUSED that answers HEADER, the registry's own WWW-Authenticate. Throws
     * RegistryError.
     */
    async obtain(scope: Scope, header: string | undefined, refused: string | undefined): Promise<string> {
      // Requests for many layers are refused at once; one token serves them all, also those that are refused
      // after it has arrived.
      const found = find(scope)
      if (found !== undefined && found !== refused) return found
      return await flight(keyOf(scope), () => answer(scope, parseChallenges(header)))
    },
  }
}
