// The file of registries: mirrors, CAs, and which registry uses plain http.  Unknown keys and bad values are
// refused, and all faults are reported at once.
//   { "registries": { "docker.io": { "mirrors": ["mirror.lan:5000/hub"] },
//                     "mirror.lan:5000": { "ca": "/etc/wherry/mirror.pem" } } }

import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import { isPlainObject } from '../contract/plain-object.ts'
import { defined } from '../contract/defined.ts'
import { InvalidRequest, type Fault } from '../contract/errors.ts'
import { canonicalRegistry, isRegistryName, isRepositoryName, registryUrl } from './reference.ts'

export interface Mirror {
  readonly registry: string
  /** Prepended to the repository: "hub" → "hub/library/busybox". */
  readonly prefix?: string
}

export interface RegistrySettings {
  /** Tried in order before the registry itself, for reading only. */
  readonly mirrors: readonly Mirror[]
  /** Plain http instead of https; by default only for loopback addresses. */
  readonly http?: boolean
  /** Do not check the certificate. */
  readonly insecure: boolean
  /** PEM of further CAs. */
  readonly ca?: string
  /** PEM of the client certificate and its key. */
  readonly certificate?: { readonly cert: string; readonly key: string }
  /** Other hosts that may get this registry's credentials in exchange for a token. */
  readonly tokenHosts: readonly string[]
}

export interface Registries {
  /** The settings of REGISTRY, or the defaults. */
  readonly of: (registry: string) => RegistrySettings
  /** The same by the host of a URL; undefined when it is not configured. */
  readonly ofHost: (host: string) => RegistrySettings | undefined
}

const DEFAULTS: RegistrySettings = { mirrors: [], insecure: false, tokenHosts: [] }
const REGISTRIES_MAX = 256
const LIST_MAX = 16
const FILE_CHARACTERS_MAX = 1024 ** 2
const KEYS = ['mirrors', 'http', 'insecure', 'ca', 'cert', 'key', 'tokenHosts']

type Fields = Readonly<Record<string, unknown>>

function textsOf(value: unknown, path: string, faults: Fault[]): readonly string[] {
  if (value === undefined) return []
  if (Array.isArray(value) && value.length <= LIST_MAX && value.every((v) => typeof v === 'string'))
    return value
  faults.push({ path, problem: `must be a list of at most ${LIST_MAX} strings` })
  return []
}

function flagOf(value: unknown, path: string, faults: Fault[]): boolean | undefined {
  if (value === undefined || typeof value === 'boolean') return value
  faults.push({ path, problem: 'must be true or false' })
  return undefined
}

/** The PEM text of FILE, the value of setting PATH.  Throws InvalidRequest when it is not PEM. */
export function readPem(path: string, file: string): string {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new InvalidRequest([
      {
        path,
        problem: `${file} cannot be read (${error instanceof Error && 'code' in error ? String(error.code) : 'unknown'})`,
      },
    ])
  }
  if (text.length > FILE_CHARACTERS_MAX || !text.includes('-----BEGIN '))
    throw new InvalidRequest([{ path, problem: `${file} is not a PEM file` }])
  return text
}

function pemOf(value: unknown, path: string, faults: Fault[]): string | undefined {
  if (value === undefined) return undefined
  try {
    if (typeof value === 'string' && value.startsWith('/')) return readPem(path, value)
    faults.push({ path, problem: 'must be the absolute path of a PEM file' })
  } catch (error) {
    if (!(error instanceof InvalidRequest)) throw error
    faults.push(...error.faults)
  }
  return undefined
}

/** createSecureContext ignores what it cannot parse in a CA file, so the file is parsed here. */
function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0
  } catch {
    return false
  }
}

/** Let OpenSSL check the certificates now instead of during a call. */
function checkTls(
  path: string,
  { ca, certificate }: Pick<RegistrySettings, 'ca' | 'certificate'>,
  faults: Fault[],
): void {
  if (ca !== undefined && !isCertificate(ca))
    faults.push({ path: `${path}.ca`, problem: 'is not a certificate' })
  try {
    createSecureContext({ ...defined({ ca }), ...certificate })
  } catch (error) {
    faults.push({
      path,
      problem: `its certificates cannot be used (${error instanceof Error ? error.message : String(error)})`,
    })
  }
}

/** "mirror.lan:5000/hub"; a scheme is ignored, because other tools require one. */
function mirrorOf(text: string, path: string, faults: Fault[]): readonly Mirror[] {
  const [registry = '', ...rest] = text
    .replace(/^https?:\/\//, '')
    .replace(/\/$/, '')
    .split('/')
  const prefix = rest.join('/')
  if (isRegistryName(registry) && (prefix === '' || isRepositoryName(prefix)))
    return [{ registry, ...(prefix !== '' && { prefix }) }]
  faults.push({ path, problem: `"${text.slice(0, 100)}" is not host[:port][/prefix]` })
  return []
}

function settingsOf(fields: Fields, path: string, faults: Fault[]): RegistrySettings {
  for (const key of Object.keys(fields))
    if (!KEYS.includes(key))
      faults.push({ path: `${path}.${key}`, problem: `is unknown (known: ${KEYS.join(', ')})` })
  const ca = pemOf(fields['ca'], `${path}.ca`, faults)
  const cert = pemOf(fields['cert'], `${path}.cert`, faults)
  const key = pemOf(fields['key'], `${path}.key`, faults)
  const http = flagOf(fields['http'], `${path}.http`, faults)
  if ((fields['cert'] === undefined) !== (fields['key'] === undefined))
    faults.push({ path, problem: 'cert and key must be given together' })
  const tokenHosts = textsOf(fields['tokenHosts'], `${path}.tokenHosts`, faults)
  for (const host of tokenHosts)
    if (!isRegistryName(host))
      faults.push({ path: `${path}.tokenHosts`, problem: `"${host.slice(0, 100)}" is not host[:port]` })
  const tls = {
    ...defined({ ca }),
    ...(cert !== undefined && key !== undefined && { certificate: { cert, key } }),
  }
  checkTls(path, tls, faults)
  return {
    mirrors: textsOf(fields['mirrors'], `${path}.mirrors`, faults).flatMap((text, i) =>
      mirrorOf(text, `${path}.mirrors[${i}]`, faults),
    ),
    insecure: flagOf(fields['insecure'], `${path}.insecure`, faults) ?? false,
    tokenHosts: tokenHosts.map((host) => host.toLowerCase()),
    ...defined({ http }),
    ...tls,
  }
}

/**
 * VALUE (parsed JSON) as Registries.  Throws InvalidRequest with every fault; reads the PEM files it names.
 */
export function parseRegistries(value: unknown): Registries {
  const faults: Fault[] = []
  const byName = new Map<string, RegistrySettings>()
  const byHost = new Map<string, RegistrySettings>()
  const table = isPlainObject(value) ? (value['registries'] ?? {}) : undefined
  if (!isPlainObject(value) || !isPlainObject(table) || Object.keys(table).length > REGISTRIES_MAX) {
    throw new InvalidRequest([
      {
        path: '',
        problem: `must be { "registries": { "host:port": { … } } } with at most ${REGISTRIES_MAX} of them`,
      },
    ])
  }
  for (const key of Object.keys(value))
    if (key !== 'registries') faults.push({ path: key, problem: 'is unknown (known: registries)' })
  for (const [name, fields] of Object.entries(table)) {
    const path = `registries["${name.slice(0, 100)}"]`
    if (!isRegistryName(name)) faults.push({ path, problem: 'is not host[:port]' })
    else if (!isPlainObject(fields)) faults.push({ path, problem: 'is not an object' })
    else {
      const settings = settingsOf(fields, path, faults)
      byName.set(canonicalRegistry(name), settings)
      byHost.set(new URL(registryUrl(name, settings.http)).host, settings)
    }
  }
  if (faults.length > 0) throw new InvalidRequest(faults)
  return {
    of: (registry) => byName.get(canonicalRegistry(registry)) ?? DEFAULTS,
    ofHost: (host) => byHost.get(host),
  }
}

/** The defaults for every registry. */
export const noRegistries: Registries = parseRegistries({})

/** The Registries of FILE, which may be missing if `optional`.  Throws InvalidRequest that names the file. */
export function readRegistries(file: string, { optional }: { optional: boolean }): Registries {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' && optional) return noRegistries
    throw new InvalidRequest([{ path: file, problem: `cannot be read (${String(code)})` }])
  }
  try {
    if (text.length > FILE_CHARACTERS_MAX)
      throw new SyntaxError(`it is longer than ${FILE_CHARACTERS_MAX} characters`)
    return parseRegistries(JSON.parse(text))
  } catch (error) {
    if (error instanceof InvalidRequest)
      throw new InvalidRequest(
        error.faults.map((f) => ({
          path: `${file}${f.path === '' ? '' : `: ${f.path}`}`,
          problem: f.problem,
        })),
      )
    throw new InvalidRequest([
      { path: file, problem: `is not JSON (${error instanceof Error ? error.message : String(error)})` },
    ])
  }
}
