// The options of `wherry build` as values. The error for an invalid option says what is valid.

import { readFileSync, statSync } from 'node:fs'
import type { BuildRequest } from '../../build/builder.ts'
import { parsePlatform } from '../../build/dockerfile/platform.ts'
import { defined } from '../../contract/defined.ts'
import { parseBytes } from '../../contract/quantity.ts'
import { SECRET_BYTES_MAX } from '../../build/secrets.ts'
import { formatReference, parseReference } from '../../registry/reference.ts'
import type { Context } from '../context.ts'
import { Failure, usageFailure } from '../failure.ts'
import type { StoreOptions } from '../image/open.ts'
import { formatSize } from '../terminal.ts'

export interface BuildFlags extends StoreOptions {
  readonly tag?: string[]
  readonly file?: string
  readonly buildArg?: string[]
  readonly target?: string
  readonly platform?: string
  readonly label?: string[]
  readonly secret?: string[]
  readonly network?: string
  readonly memory?: string
  /** false with --no-cache. */
  readonly cache: boolean
  readonly pull?: boolean
  readonly iidfile?: string
  readonly progress?: string
  readonly quiet?: boolean
}

type Options = Pick<
  BuildRequest,
  | 'names'
  | 'target'
  | 'platform'
  | 'buildArgs'
  | 'labels'
  | 'secrets'
  | 'network'
  | 'usesCache'
  | 'alwaysPull'
  | 'clampSeconds'
> & { readonly memoryBytes?: number }

const MEMORY_MIN_BYTES = 16 * 1024 ** 2

function nameOf(text: string): string {
  const ref = parseReference(text)
  if (ref.digest !== undefined)
    throw usageFailure('build', `--tag "${text}" has a digest, which is not known before the image is built`)
  return formatReference(ref)
}

/** "NAME=value" pairs. A NAME alone takes its value from LOOKUP, or is omitted if that has none. */
function pairs(
  texts: readonly string[] | undefined,
  lookup: (name: string) => string | undefined,
): Map<string, string> {
  const values = new Map<string, string>()
  for (const text of texts ?? []) {
    const equals = text.indexOf('=')
    const name = equals < 0 ? text : text.slice(0, equals)
    const value = equals < 0 ? lookup(name) : text.slice(equals + 1)
    if (name === '') throw usageFailure('build', `"${text}" has no name before "="`)
    if (value !== undefined) values.set(name, value)
  }
  return values
}

function readSecret(id: string, path: string): Uint8Array {
  try {
    const { size } = statSync(path)
    if (size > SECRET_BYTES_MAX)
      throw new Failure(
        'build',
        `the secret ${id} is ${formatSize(size)}; the limit is ${formatSize(SECRET_BYTES_MAX)}`,
      )
    return readFileSync(path)
  } catch (err) {
    if (err instanceof Failure) throw err
    throw new Failure('build', `could not read the secret ${id}:  ${(err as Error).message}`, { cause: err })
  }
}

/** "id=npm,src=FILE", "id=npm,env=NAME", or "id=npm" for the variable, or else the file, of that name. */
function parseSecret(text: string, env: Context['env']): [string, Uint8Array] {
  const fields = new Map(
    text
      .split(',')
      .map(
        (part) => [part.slice(0, Math.max(0, part.indexOf('='))), part.slice(part.indexOf('=') + 1)] as const,
      ),
  )
  const known = ['id', 'src', 'source', 'env', 'type']
  const wrong = [...fields.keys()].find((key) => !known.includes(key))
  const id = fields.get('id')
  if (wrong !== undefined || id === undefined || id === '')
    throw usageFailure('build', `--secret "${text}" must be id=NAME,src=FILE or id=NAME,env=VARIABLE`)
  const path = fields.get('src') ?? fields.get('source')
  const variable = fields.get('env') ?? (path === undefined && env[id] !== undefined ? id : undefined)
  if (variable === undefined) return [id, readSecret(id, path ?? id)]
  const value = env[variable]
  if (value === undefined)
    throw new Failure(
      'build',
      `the secret ${id} comes from the environment variable ${variable}, which is not set`,
    )
  return [id, Buffer.from(value)]
}

function parseEpoch(text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined
  const seconds = /^\d{1,11}$/.test(text) ? Number(text) : NaN
  if (Number.isNaN(seconds))
    throw usageFailure('build', `SOURCE_DATE_EPOCH "${text}" must be seconds since 1970`)
  return seconds
}

/**
 * The part of a build request that FLAGS and ENV determine. Throws Failure,
 * InvalidRequest.
 */
export function parseBuildFlags(flags: BuildFlags, env: Context['env']): Options {
  const network = flags.network ?? 'host'
  if (network !== 'host' && network !== 'none')
    throw usageFailure('build', `--network must be host or none, not "${network}"`)
  if (flags.progress !== undefined && !['plain', 'tty', 'auto'].includes(flags.progress))
    throw usageFailure('build', `--progress must be plain or tty, not "${flags.progress}"`)
  const platform = flags.platform === undefined ? undefined : parsePlatform(flags.platform)
  if (flags.platform !== undefined && platform === undefined)
    throw usageFailure('build', `--platform "${flags.platform}" is invalid; example: linux/amd64`)
  const memoryBytes = flags.memory === undefined ? undefined : parseBytes(flags.memory)
  if (flags.memory !== undefined && !(memoryBytes !== undefined && memoryBytes >= MEMORY_MIN_BYTES))
    throw usageFailure(
      'build',
      `--memory "${flags.memory}" must be a size of at least ${formatSize(MEMORY_MIN_BYTES)}, for example 2Gi`,
    )
  const buildArgs = pairs(flags.buildArg, (name) => env[name])
  const clampSeconds = parseEpoch(buildArgs.get('SOURCE_DATE_EPOCH') ?? env.SOURCE_DATE_EPOCH)
  return {
    names: [...new Set((flags.tag ?? []).map(nameOf))],
    buildArgs,
    labels: pairs(flags.label, () => ''),
    secrets: new Map((flags.secret ?? []).map((text) => parseSecret(text, env))),
    network,
    usesCache: flags.cache,
    alwaysPull: flags.pull === true,
    ...defined({ target: flags.target, platform, memoryBytes, clampSeconds }),
  }
}
