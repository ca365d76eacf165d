// What a request to a registry carries as Authorization: nothing until the registry asks, then what its
// challenge and our credentials make of it. Knows the two schemes, a bounded cache of answers, and who may be
// told a secret. The realm of a token service is the registry's word. Without credentials it must be https or
// the registry's own host, or a hostile registry could point us at any service inside the network; with
// credentials it must be the registry's own host, a neighbour in its domain, or a host that the operator
// named.

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
  /** None: only to see whether a login is accepted. */
  readonly repository?: string
  readonly actions: 'pull' | 'pull,push'
  /** Another repository whose blobs are to be mounted. */
  readonly mountFrom?: string
}

export interface AuthorizationDeps {
  readonly transport: Transport
  readonly credentials: Credentials
  readonly registries: Registries
}

const KEPT_MAX = 256
/** A token this close to its end is not used any more. */
const EXPIRY_MARGIN_MS = 10_000
/** A password that was changed is noticed by the registry's 401; one that was removed, after this. */
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

/** One password serves all of a registry. */
function basicKeyOf(scope: Scope): string {
  return `basic ${scope.origin}`
}

/** Is A in the same domain as B?  Under "co.uk" and the like three labels have to agree. */
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
      `its realm ${url.protocol}//${url.host} is neither https nor its own host`,
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
    `its realm ${url.origin} is another domain, which is not sent the login; name ${url.host} in tokenHosts of the file of registries if that is right`,
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
        `it asks for ${challenges[0]?.scheme ?? 'an unknown scheme'}, which is not known here`,
      )
    if (credential?.kind === 'password')
      return keep(basicKeyOf(scope), basicAuthorization(credential), BASIC_LIFETIME_MS)
    const why = problems.length > 0 ? ` (${problems.join('; ')})` : ''
    throw unauthorized(
      registry,
      `it asks for user and password, and there are no credentials for it${why}; wherry login ${registry}`,
    )
  }

  /** The value for SCOPE that is known and has not expired. */
  const find = (scope: Scope): string | undefined => kept.get(keyOf(scope)) ?? kept.get(basicKeyOf(scope))

  return {
    find,

    /**
     * Another value than REFUSED, as HEADER (WWW-Authenticate, of the registry itself) asks for it. Throws
     * RegistryError.
     */
    async obtain(scope: Scope, header: string | undefined, refused: string | undefined): Promise<string> {
      // Many layers ask at once; all of them can use one token, also those that are refused after it has
      // come.
      const found = find(scope)
      if (found !== undefined && found !== refused) return found
      return await flight(keyOf(scope), () => answer(scope, parseChallenges(header)))
    },
  }
}
