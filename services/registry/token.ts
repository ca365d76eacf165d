// Requests a token from the service that a Bearer challenge names (Docker's token authentication, and its
// OAuth2 variant).  authorization.ts has checked the realm before.

import { RegistryError } from '../contract/errors.ts'
import { readBounded } from './bounded-body.ts'
import type { Credential } from './credentials.ts'
import { discardBody, type RegistryResponse, type Transport } from './transport.ts'

export interface TokenRequest {
  readonly registry: string
  readonly realm: URL
  readonly service: string | undefined
  /** "repository:a/b:pull" … */
  readonly scopes: readonly string[]
  readonly credential: Credential | undefined
}

export interface Token {
  readonly token: string
  readonly lifetimeMs: number
}

const CLIENT_ID = 'wherry'
const TOKEN_BODY_BYTES_MAX = 256 * 1024
const TOKEN_CHARACTERS_MAX = 65_536
const EXPIRES_IN_DEFAULT_S = 60
const EXPIRES_IN_MAX_S = 86_400

export function unauthorized(registry: string, why: string, cause?: unknown): RegistryError {
  return new RegistryError(`registry ${registry} requires a login: ${why}`, {
    registryCode: 'UNAUTHORIZED',
    retryable: false,
    cause,
  })
}

/** "Basic …" for a user and a password (RFC 7617). */
export function basicAuthorization({ username, password }: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

function parseToken(bytes: Uint8Array, registry: string): Token {
  let answer: { token?: unknown; access_token?: unknown; expires_in?: unknown } | null
  try {
    answer = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch {
    // No cause: the parser's message quotes the answer.
    throw unauthorized(registry, 'its token service did not answer with JSON')
  }
  const token = answer?.token || answer?.access_token // some services send one of them empty
  if (typeof token !== 'string' || token.length > TOKEN_CHARACTERS_MAX || !/^[\x21-\x7e]+$/.test(token))
    throw unauthorized(registry, 'its token service sent no token')
  const seconds =
    typeof answer?.expires_in === 'number' && answer.expires_in > 0
      ? Math.min(answer.expires_in, EXPIRES_IN_MAX_S)
      : EXPIRES_IN_DEFAULT_S
  return { token, lifetimeMs: seconds * 1000 }
}

/** GET: anonymous, or with user and password. */
function get(
  transport: Transport,
  { registry, realm, service, scopes, credential }: TokenRequest,
): Promise<RegistryResponse> {
  const url = new URL(realm)
  if (service !== undefined) url.searchParams.set('service', service)
  for (const scope of scopes) url.searchParams.append('scope', scope)
  const isKnown = credential?.kind === 'password'
  if (isKnown) {
    url.searchParams.set('account', credential.username)
    url.searchParams.set('client_id', CLIENT_ID)
  }
  const headers = {
    accept: 'application/json',
    ...(isKnown && { authorization: basicAuthorization(credential) }),
  }
  return transport.request({ registry, url, method: 'GET', headers })
}

/** POST: with a refresh token, or with user and password where GET is not supported. */
function post(
  transport: Transport,
  { registry, realm, service, scopes, credential }: TokenRequest,
): Promise<RegistryResponse> {
  const form = new URLSearchParams({ client_id: CLIENT_ID, access_type: 'online' })
  if (service !== undefined) form.set('service', service)
  if (scopes.length > 0) form.set('scope', scopes.join(' '))
  if (credential?.kind === 'identity') {
    form.set('grant_type', 'refresh_token')
    form.set('refresh_token', credential.token)
  } else if (credential?.kind === 'password') {
    form.set('grant_type', 'password')
    form.set('username', credential.username)
    form.set('password', credential.password)
  }
  const body = Buffer.from(form.toString())
  const headers = {
    accept: 'application/json',
    'content-type': 'application/x-www-form-urlencoded',
    'content-length': String(body.length),
  }
  return transport.request({ registry, url: realm, method: 'POST', headers, body: () => body })
}

/**
 * A token for REQUEST.  Throws RegistryError UNAUTHORIZED, whose message quotes nothing of the response.
 */
export async function fetchToken(transport: Transport, request: TokenRequest): Promise<Token> {
  const { registry, realm, credential } = request
  let response =
    credential?.kind === 'identity' ? await post(transport, request) : await get(transport, request)
  if (credential?.kind === 'password' && (response.status === 404 || response.status === 405)) {
    await discardBody(response)
    response = await post(transport, request)
  }
  if (response.status === 200)
    return parseToken(
      await readBounded(response.body, TOKEN_BODY_BYTES_MAX, `the answer of ${realm.host}`, registry),
      registry,
    )
  await discardBody(response)
  if (response.status === 429 || response.status >= 500) {
    throw new RegistryError(
      `registry ${registry} gave no token: its token service ${realm.host} answered ${response.status}; try again later`,
      { registryCode: response.status === 429 ? 'TOOMANYREQUESTS' : 'UNAVAILABLE', retryable: true },
    )
  }
  const isRefused = credential !== undefined && [400, 401, 403].includes(response.status)
  throw unauthorized(
    registry,
    isRefused
      ? `its token service ${realm.host} refuses the login (${response.status}); check user and password, then run wherry login ${registry}`
      : `its token service ${realm.host} answered ${response.status}; run wherry login ${registry}`,
  )
}
