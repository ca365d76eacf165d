// Credentials for registries, in the format of Docker's config.json (`auths`, `credHelpers`, `credsStore`;
// docker/cli, cli/config): from Wherry's file first, then from Docker's.  authorization.ts decides where a
// credential may be sent.  The files are read at each lookup, because a login may happen while a worker runs;
// lookups are rare.

import { readFile } from 'node:fs/promises'
import { isPlainObject } from '../contract/plain-object.ts'
import { askHelper } from './credential-helper.ts'
import { createSingleFlight } from '../platform/single-flight.ts'

export type Credential =
  | { readonly kind: 'password'; readonly username: string; readonly password: string }
  /** A refresh token of the registry's token service. */
  | { readonly kind: 'identity'; readonly token: string }
  /** A bearer token, sent unchanged. */
  | { readonly kind: 'bearer'; readonly token: string }

export interface Found {
  readonly credential?: Credential
  /** Why a file or helper could not be read, as parts of a sentence without secrets. */
  readonly problems: readonly string[]
}

export interface Credentials {
  /** The credential for REGISTRY ("docker.io", "localhost:5000"). */
  readonly find: (registry: string) => Promise<Found>
  /** Ends lookups in progress. */
  readonly close?: () => void
}

/** Finds nothing. */
export const noCredentials: Credentials = { find: async () => ({ problems: [] }) }

const FILE_CHARACTERS_MAX = 1024 ** 2
const ENTRIES_MAX = 1024
const SECRET_CHARACTERS_MAX = 65_536
/** Docker's key for Docker Hub; it predates the current API. */
export const DOCKER_HUB_KEY = 'https://index.docker.io/v1/'
const DOCKER_HUB_HOSTS = ['index.docker.io', 'docker.io', 'registry-1.docker.io']

type Fields = Readonly<Record<string, unknown>>

/** A string that is safe in a header value or a form. */
function secretText(value: unknown): string | undefined {
  return typeof value === 'string' &&
    value !== '' &&
    value.length <= SECRET_CHARACTERS_MAX &&
    !/[\0\r\n]/.test(value)
    ? value
    : undefined
}

/** "https://Host:5000/v1/" → "host:5000" */
function hostOfKey(key: string): string {
  return key
    .replace(/^https?:\/\//i, '')
    .replace(/\/.*$/s, '')
    .toLowerCase()
}

/** Whether the key KEY of `auths` means REGISTRY. */
export function isKeyOf(key: string, registry: string): boolean {
  const host = hostOfKey(key)
  return registry === 'docker.io' ? DOCKER_HUB_HOSTS.includes(host) : host === registry.toLowerCase()
}

/** The value of REGISTRY in TABLE, under its name or an older spelling. */
function entryOf(table: unknown, registry: string): unknown {
  if (!isPlainObject(table)) return undefined
  const names = registry === 'docker.io' ? [DOCKER_HUB_KEY, registry] : [registry]
  const name =
    names.find((n) => Object.hasOwn(table, n)) ??
    Object.keys(table)
      .slice(0, ENTRIES_MAX)
      .find((key) => isKeyOf(key, registry))
  return name === undefined ? undefined : table[name]
}

/** An entry of `auths`: `auth` is base64 of "user:password". */
function credentialOf(entry: unknown): Credential | undefined {
  if (!isPlainObject(entry)) return undefined
  const bearer = secretText(entry['registrytoken'])
  if (bearer !== undefined) return { kind: 'bearer', token: bearer }
  const identity = secretText(entry['identitytoken'])
  if (identity !== undefined) return { kind: 'identity', token: identity }
  const auth = secretText(entry['auth'])
  const pair =
    auth === undefined ? undefined : Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '')
  const colon = pair?.indexOf(':') ?? -1
  const username = secretText(colon > 0 ? pair!.slice(0, colon) : entry['username'])
  const password = secretText(colon > 0 ? pair!.slice(colon + 1) : entry['password'])
  return username === undefined || password === undefined
    ? undefined
    : { kind: 'password', username, password }
}

/**
 * The JSON object in FILE, or undefined when the file does not exist. Throws an Error that says what is
 * wrong.
 */
export async function readConfigFile(file: string): Promise<Fields | undefined> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new Error(`${file} cannot be read (${String(code)})`, { cause: error })
  }
  if (text.trim() === '') return {}
  let value: unknown
  try {
    value = text.length > FILE_CHARACTERS_MAX ? undefined : JSON.parse(text)
  } catch {
    value = undefined // the parser's message would quote the file, secrets included
  }
  if (!isPlainObject(value))
    throw new Error(`${file} is not a JSON object of at most ${FILE_CHARACTERS_MAX} characters`)
  return value
}

/** Credentials from FILES, the first match wins; helpers run with ENV. */
export function createCredentials({
  files,
  env,
}: {
  files: readonly string[]
  env: Readonly<Record<string, string | undefined>>
}): Credentials {
  /** When many functions of one registry start at once, its helper runs once. */
  const flight = createSingleFlight<Awaited<ReturnType<typeof askHelper>>>()
  const closing = new AbortController()

  async function findIn(
    config: Fields,
    registry: string,
    problems: string[],
  ): Promise<Credential | undefined> {
    const helper = secretText(entryOf(config['credHelpers'], registry)) ?? secretText(config['credsStore'])
    if (helper !== undefined) {
      try {
        const server = registry === 'docker.io' ? DOCKER_HUB_KEY : registry
        const answer = await flight(`${helper} ${server}`, () =>
          askHelper({ helper, server, env, signal: closing.signal }),
        )
        if (answer)
          return answer.username === '<token>'
            ? { kind: 'identity', token: answer.secret }
            : { kind: 'password', username: answer.username, password: answer.secret }
      } catch (error) {
        problems.push(error instanceof Error ? error.message : String(error))
      }
    }
    return credentialOf(entryOf(config['auths'], registry))
  }

  return {
    async find(registry) {
      const problems: string[] = []
      for (const file of files) {
        try {
          const config = await readConfigFile(file)
          const credential = config && (await findIn(config, registry, problems))
          if (credential) return { credential, problems }
        } catch (error) {
          problems.push(error instanceof Error ? error.message : String(error))
        }
      }
      return { problems }
    },
    close() {
      closing.abort()
    },
  }
}
