// Connections to registries: CA, client certificate, proxy and time limits, as undici agents. Settings of one
// host are never used for another: each configured host has a separate agent.

import { setMaxListeners } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'
import { Agent, Pool, ProxyAgent, type Dispatcher } from 'undici'
import { Overloaded } from '../contract/errors.ts'
import { noProxy, type ProxyRule } from './proxy.ts'
import { noRegistries, type Registries, type RegistrySettings } from './registry-config.ts'

export interface ConnectionDeps {
  readonly requestTimeoutMs: number
  readonly registries?: Registries
  readonly proxyOf?: ProxyRule
  /** PEM of the CAs to trust instead of the system's. */
  readonly roots?: string
}

export type Connections = ReturnType<typeof createConnections>

const CONNECT_TIMEOUT_MAX_MS = 10_000
const CONNECTIONS_PER_ORIGIN = 16
/** The CA bundles of Debian, Fedora and Alpine. */
const SYSTEM_BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/cert.pem',
]

function readSystemRoots(): readonly string[] {
  const bundle = SYSTEM_BUNDLES.find((file) => existsSync(file))
  return bundle === undefined
    ? getCACertificates('default')
    : [readFileSync(bundle, 'utf8'), ...getCACertificates('extra')]
}

/** The agents for all origins, each made on first use. */
export function createConnections({
  requestTimeoutMs,
  registries = noRegistries,
  proxyOf = noProxy,
  roots: ownRoots,
}: ConnectionDeps) {
  const agents = new Map<string, Dispatcher>()
  /**
   * Ends connections that are being made, which agents do not: they would keep the process alive until their
   * time limit.
   */
  const closing = new AbortController()
  setMaxListeners(0, closing.signal)
  const connect = { timeout: Math.min(requestTimeoutMs, CONNECT_TIMEOUT_MAX_MS), signal: closing.signal }
  const limits = {
    headersTimeout: requestTimeoutMs,
    bodyTimeout: requestTimeoutMs,
    connections: CONNECTIONS_PER_ORIGIN,
    allowH2: false,
  }
  let roots: readonly string[] | undefined
  let plainContext: SecureContext | undefined

  function contextOf(settings: RegistrySettings | undefined): SecureContext {
    roots ??= ownRoots === undefined ? readSystemRoots() : [ownRoots]
    const { ca, certificate } = settings ?? {}
    if (ca === undefined && certificate === undefined)
      return (plainContext ??= createSecureContext({ ca: [...roots] }))
    return createSecureContext({ ca: [...roots, ...(ca === undefined ? [] : [ca])], ...certificate })
  }

  function make(url: URL, settings: RegistrySettings | undefined, proxy: URL | undefined): Dispatcher {
    const isTls = url.protocol === 'https:'
    // Once per agent: parsing all CAs blocks the event loop for 20 ms.
    const tls = isTls
      ? { secureContext: contextOf(settings), rejectUnauthorized: settings?.insecure !== true }
      : {}
    if (!proxy) return new Agent({ ...limits, connect: { ...connect, ...tls } })
    return new ProxyAgent({
      uri: proxy.href,
      ...limits,
      requestTls: { ...connect, ...tls },
      proxyTls: { ...connect, ...(proxy.protocol === 'https:' && { secureContext: contextOf(undefined) }) },
      // Otherwise CONNECT has undici's default limit of five minutes.
      clientFactory: (origin, options) => new Pool(origin, { ...options, ...limits }),
    })
  }

  return {
    /** The agent for URL.  Throws Overloaded after `close`. */
    of(url: URL): Dispatcher {
      if (closing.signal.aborted)
        throw new Overloaded('connections to registries are closed: this process is stopping', 'ERR_STOPPING')
      const settings = registries.ofHost(url.host)
      const proxy = proxyOf(url)
      const key = `${url.protocol} ${settings ? url.host : '*'} ${proxy?.href ?? ''}`
      const found = agents.get(key)
      if (found) return found
      const agent = make(url, settings, proxy)
      agents.set(key, agent)
      return agent
    },
    async close(): Promise<void> {
      closing.abort()
      await Promise.all([...agents.values()].map((agent) => agent.destroy()))
      agents.clear()
    },
  }
}
