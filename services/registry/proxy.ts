// Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, read as curl and Go read them.
// Loopback addresses are never proxied: a proxy elsewhere would answer for another machine.

import { BlockList, isIP, isIPv4 } from 'node:net'
import { InvalidRequest } from '../contract/errors.ts'

/** The proxy for a URL, or undefined for a direct connection. */
export type ProxyRule = (url: URL) => URL | undefined

export const noProxy: ProxyRule = () => undefined

const ENTRIES_MAX = 256
const VARIABLE_CHARACTERS_MAX = 65_536

/** Whether HOST, as in a URL ("[::1]" has brackets), is this machine. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase()
  // connect(2) treats 0.0.0.0 as this machine.
  if (isIPv4(name)) return name.startsWith('127.') || name === '0.0.0.0'
  return (
    name === 'localhost' ||
    name.endsWith('.localhost') ||
    ['[::1]', '[::]', '[::ffff:0:0]'].includes(name) ||
    /^\[::ffff:7f[0-9a-f]{2}:/.test(name)
  )
}

function proxyUrl(name: string, value: string): URL {
  const text = value.includes('://') ? value : `http://${value}`
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url && ['http:', 'https:'].includes(url.protocol)) return url
  // Not shown: it may contain a password.
  throw new InvalidRequest([{ path: name, problem: 'must be the address of a proxy (http://host:port)' }])
}

type Exception = (url: URL, address: string | undefined) => boolean

/** One entry of NO_PROXY: "*", "host", ".domain", "host:port", an address or a network. */
function exceptionOf(entry: string): Exception {
  if (entry === '*') return () => true
  const [network = '', bits] = entry.split('/')
  if (isIP(network) !== 0) {
    const list = new BlockList()
    const family = isIP(network) === 6 ? 'ipv6' : 'ipv4'
    const most = family === 'ipv6' ? 128 : 32
    list.addSubnet(
      network,
      Math.min(most, bits === undefined || !/^\d{1,3}$/.test(bits) ? most : Number(bits)),
      family,
    )
    return (_url, address) =>
      address !== undefined && list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
  }
  const [, name = '', port] = /^(.*?)(?::(\d{1,5}))?$/.exec(entry) ?? []
  const domain = name.replace(/^\*?\./, '')
  const portOf = (url: URL): string => url.port || (url.protocol === 'https:' ? '443' : '80')
  return (url) =>
    (port === undefined || port === portOf(url)) &&
    (url.hostname === domain || url.hostname.endsWith(`.${domain}`))
}

/**
 * The rule of ENV's variables; lower-case names win, as with curl. Throws InvalidRequest for an invalid
 * address.
 */
export function readProxyRule(env: Readonly<Record<string, string | undefined>>): ProxyRule {
  const read = (name: string): string =>
    (env[name.toLowerCase()] || env[name] || '').slice(0, VARIABLE_CHARACTERS_MAX)
  const proxyOf = (name: string): URL | undefined =>
    read(name) === '' ? undefined : proxyUrl(name, read(name))
  const proxies: Readonly<Record<string, URL | undefined>> = {
    'http:': proxyOf('HTTP_PROXY'),
    'https:': proxyOf('HTTPS_PROXY'),
  }
  const exceptions = read('NO_PROXY')
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .slice(0, ENTRIES_MAX)
    .map(exceptionOf)
  return (url) => {
    const proxy = proxies[url.protocol]
    if (!proxy || isLoopback(url.hostname)) return undefined
    const bare = url.hostname.replace(/^\[|\]$/g, '')
    const address = isIP(bare) === 0 ? undefined : bare
    return exceptions.some((matches) => matches(url, address)) ? undefined : proxy
  }
}
