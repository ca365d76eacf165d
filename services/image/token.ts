// Anonymous bearer tokens (distribution-spec's token authentication): a registry answers 401 and names
// a realm, the realm gives a token for a scope.  Knows the challenge's grammar and a bounded cache.
// The realm is the registry's word, so it must be https or the registry's own host; otherwise a hostile
// registry could point us at any service inside the network.

import { RegistryError } from '../contract/errors.ts'
import { readBounded } from './bounded-body.ts'
import type { Transport } from './transport.ts'

export interface Scope {
  readonly registry: string
  readonly origin: string
  readonly repository: string
  readonly actions: 'pull' | 'pull,push'
}

export interface Challenge { readonly scheme: string, readonly parameters: Readonly<Record<string, string>> }

const TOKENS_MAX = 256
const TOKEN_BODY_BYTES_MAX = 256 * 1024
const CHALLENGE_CHARACTERS_MAX = 4096
const EXPIRES_IN_DEFAULT_S = 60
/** A token this close to its end is not used any more. */
const EXPIRY_MARGIN_MS = 10_000

/** `Bearer realm="…",service="…"` → its parts; undefined for what is no challenge (RFC 9110 §11.6.1). */
export function parseChallenge (header: string | undefined): Challenge | undefined {
  const match = /^\s*([A-Za-z]+)\s+(.*)$/.exec((header ?? '').slice(0, CHALLENGE_CHARACTERS_MAX))
  if (!match) return undefined
  const parameters: Record<string, string> = Object.create(null)
  for (const [, key, quoted, plain] of match[2]!.matchAll(/([a-zA-Z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/g)) {
    parameters[key!.toLowerCase()] = quoted === undefined ? plain! : quoted.replace(/\\(.)/g, '$1')
  }
  return { scheme: match[1]!.toLowerCase(), parameters }
}

function unauthorized (registry: string, why: string, cause?: unknown): RegistryError {
  return new RegistryError(`registry ${registry} wants a login: ${why}`, { registryCode: 'UNAUTHORIZED', retryable: false, cause })
}

function realmUrl ({ parameters }: Challenge, scope: Scope): URL {
  const realm = parameters['realm'] ?? ''
  if (!URL.canParse(realm)) throw unauthorized(scope.registry, 'its challenge names no realm')
  const url = new URL(realm)
  const own = new URL(scope.origin)
  const isTrusted = url.protocol === 'https:' || (url.protocol === own.protocol && url.hostname === own.hostname)
  if (!isTrusted) throw unauthorized(scope.registry, `its realm ${url.origin} is neither https nor its own host`)
  if (parameters['service'] !== undefined) url.searchParams.set('service', parameters['service'])
  url.searchParams.set('scope', `repository:${scope.repository}:${scope.actions}`)
  return url
}

function parseToken (bytes: Uint8Array, registry: string): { token: string, lifetimeMs: number } {
  let answer: { token?: unknown, access_token?: unknown, expires_in?: unknown } | null
  try {
    answer = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (error) {
    throw unauthorized(registry, 'its token service did not answer with JSON', error)
  }
  const token = answer?.token ?? answer?.access_token
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token)) throw unauthorized(registry, 'its token service gave no token')
  const seconds = typeof answer?.expires_in === 'number' && answer.expires_in > 0 ? answer.expires_in : EXPIRES_IN_DEFAULT_S
  return { token, lifetimeMs: seconds * 1000 }
}

function keyOf (scope: Scope): string {
  return `${scope.origin} ${scope.repository} ${scope.actions}`
}

/** Tokens over TRANSPORT, kept until shortly before they expire. */
export function createTokens ({ transport }: { transport: Transport }) {
  const kept = new Map<string, { token: string, expiresAtMs: number }>()

  function keep (key: string, token: string, lifetimeMs: number): void {
    kept.delete(key)
    if (kept.size >= TOKENS_MAX) kept.delete(kept.keys().next().value!)
    kept.set(key, { token, expiresAtMs: Date.now() + lifetimeMs - EXPIRY_MARGIN_MS })
  }

  return {
    /** The token for SCOPE if there is one. */
    find (scope: Scope): string | undefined {
      const found = kept.get(keyOf(scope))
      return found && found.expiresAtMs > Date.now() ? found.token : undefined
    },

    /** A new token as HEADER (WWW-Authenticate) asks for it.  Throws RegistryError UNAUTHORIZED. */
    async obtain (scope: Scope, header: string | undefined, signal?: AbortSignal): Promise<string> {
      const challenge = parseChallenge(header)
      if (challenge?.scheme !== 'bearer') {
        throw unauthorized(scope.registry, `it asks for ${challenge?.scheme ?? 'an unknown scheme'}, and there are no credentials`)
      }
      const url = realmUrl(challenge, scope)
      const response = await transport.request({
        registry: scope.registry, url, method: 'GET', headers: { accept: 'application/json' }, ...(signal && { signal }),
      })
      const bytes = await readBounded(response.body, TOKEN_BODY_BYTES_MAX, `the answer of ${url.host}`, scope.registry)
      if (response.status !== 200) throw unauthorized(scope.registry, `its token service ${url.host} answered ${response.status}`)
      const { token, lifetimeMs } = parseToken(bytes, scope.registry)
      keep(keyOf(scope), token, lifetimeMs)
      return token
    },
  }
}
