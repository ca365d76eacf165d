// Authentication for test registries: certificates, a password file, and a token server whose tokens
// docker-registry accepts (Docker's token authentication; JWT, RFC 7519).

import { execFileSync } from 'node:child_process'
import { createPrivateKey, randomUUID, sign, X509Certificate } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { join } from 'node:path'
import type { Test } from 'tap'

export const USER = 'wherry'
export const PASSWORD = 'pass:word'
/** bcrypt of PASSWORD with the lowest cost. */
const HTPASSWD = `${USER}:$2y$04$JUpmLKM4n1X8FHdrmj6JKeB2aFGvg09QP9La1JgnX2IOGuvAu5Smu\n`
export const SERVICE = 'wherry-test'

export interface Certificate {
  readonly cert: string
  readonly key: string
}

/** A self-signed certificate for 127.0.0.1 and localhost, as files in FOLDER. */
export function makeCertificate(folder: string, name = 'tls'): Certificate {
  const [cert, key] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)]
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-days',
      '2',
      '-subj',
      `/CN=${name}`,
      '-addext',
      'subjectAltName=IP:127.0.0.1,DNS:localhost',
      '-keyout',
      key,
      '-out',
      cert,
    ],
    { stdio: 'ignore' },
  )
  return { cert, key }
}

/** The `http:` part of a registry's configuration for TLS. */
export function tlsPart({ cert, key }: Certificate, clientCa?: string): string {
  return `, tls: { certificate: ${cert}, key: ${key}${clientCa === undefined ? '' : `, clientcas: [${clientCa}]`} }`
}

/** The lines of a registry's configuration that require USER and PASSWORD. */
export function passwordPart(folder: string): readonly string[] {
  const file = join(folder, 'htpasswd')
  writeFileSync(file, HTPASSWD)
  return [`auth: { htpasswd: { realm: test, path: ${file} } }`]
}

/** The lines of a registry's configuration that require tokens of the server at REALM. */
export function tokenPart(realm: string, { cert }: Certificate): readonly string[] {
  return [
    `auth: { token: { realm: "${realm}", service: ${SERVICE}, issuer: test, rootcertbundle: ${cert} } }`,
  ]
}

interface Access {
  readonly type: string
  readonly name: string
  readonly actions: readonly string[]
}

function accessOf(scopes: readonly string[]): readonly Access[] {
  return scopes.map((scope) => {
    const [type = '', name = '', actions = ''] = scope.split(':')
    return { type, name, actions: actions.split(',') }
  })
}

function signToken(
  { cert, key }: Certificate,
  sub: string,
  access: readonly Access[],
  lifetimeS: number,
): string {
  const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
  const now = Math.floor(Date.now() / 1000)
  const head = encode({
    typ: 'JWT',
    alg: 'RS256',
    x5c: [new X509Certificate(readFileSync(cert)).raw.toString('base64')],
  })
  const body = encode({
    iss: 'test',
    sub,
    aud: SERVICE,
    exp: now + lifetimeS,
    nbf: now - 10,
    iat: now,
    jti: randomUUID(),
    access,
  })
  const signature = sign(
    'sha256',
    Buffer.from(`${head}.${body}`),
    createPrivateKey(readFileSync(key)),
  ).toString('base64url')
  return `${head}.${body}.${signature}`
}

export interface TokenServer {
  readonly realm: string
  readonly host: string
  /** "GET wherry repository:a:pull", "POST refresh_token …" in the order of arrival. */
  readonly requests: string[]
}

export interface TokenServerOptions {
  readonly signer: Certificate
  /** The certificate for https. */
  readonly tls?: Certificate
  readonly refreshToken?: string
  /** Only USER gets tokens. */
  readonly isClosed?: boolean
  readonly lifetimeS?: number
  /** Answer GET with 405. */
  readonly postOnly?: boolean
}

/** A token server until T ends: anonymous clients may pull, USER may push. */
export async function startTokenServer(
  t: Test,
  { signer, tls, refreshToken, isClosed = false, lifetimeS = 300, postOnly = false }: TokenServerOptions,
): Promise<TokenServer> {
  const requests: string[] = []
  const reply = (response: ServerResponse, user: string, scopes: readonly string[]): void => {
    const access = accessOf(scopes).map((a) =>
      user === '' ? { ...a, actions: a.actions.filter((action) => action === 'pull') } : a,
    )
    response
      .writeHead(200, { 'content-type': 'application/json' })
      .end(JSON.stringify({ token: signToken(signer, user, access, lifetimeS), expires_in: lifetimeS }))
  }
  const listener = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '', 'http://x')
    if (request.method === 'GET') {
      const [user = '', ...rest] = Buffer.from(
        request.headers.authorization?.replace('Basic ', '') ?? '',
        'base64',
      )
        .toString()
        .split(':')
      requests.push(`GET ${user} ${url.searchParams.getAll('scope').join(' ')}`)
      const isAllowed = user === '' ? !isClosed : user === USER && rest.join(':') === PASSWORD
      if (postOnly) response.writeHead(405).end()
      else if (isAllowed) reply(response, user, url.searchParams.getAll('scope'))
      else response.writeHead(401).end('{"details":"incorrect username or password"}')
      return
    }
    const form = new URLSearchParams(Buffer.concat((await request.toArray()) as Buffer[]).toString())
    const scopes = (form.get('scope') ?? '').split(' ').filter((scope) => scope !== '')
    requests.push(`POST ${form.get('grant_type')} ${scopes.join(' ')}`)
    const isRefresh =
      form.get('grant_type') === 'refresh_token' &&
      refreshToken !== undefined &&
      form.get('refresh_token') === refreshToken
    const isPassword =
      form.get('grant_type') === 'password' &&
      form.get('username') === USER &&
      form.get('password') === PASSWORD
    if (isRefresh || isPassword) reply(response, USER, scopes)
    else response.writeHead(401).end('{}')
  }
  const handle = (request: IncomingMessage, response: ServerResponse): void => {
    void listener(request, response)
  }
  const server = tls
    ? createHttpsServer({ cert: readFileSync(tls.cert), key: readFileSync(tls.key) }, handle)
    : createHttpServer(handle)
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  t.teardown(
    () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  )
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the token server has no port')
  const host = `127.0.0.1:${address.port}`
  return { host, realm: `${tls ? 'https' : 'http'}://${host}/token`, requests }
}
