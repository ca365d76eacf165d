// The options of `wherry build` as values, each wrong one with what would be right. Knows how they are
// written, and which files and variables they name; refuses to know what a build makes of them.

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
    throw usageFailure('build', `--tag "${text}" has a digest, which is not known before the image is made`)
  return formatReference(ref)
}

/** "NAME=value" pairs; a NAME alone is what LOOKUP says, or left out. */
function pairs(
  texts: readonly string[] | undefined,
  lookup: (name: string) => string | undefined,
): Map<string, string> {
  const values = new Map<string, string>()
  for (const text of texts ?? []) {
    const equals = text.indexOf('=')
    const name = equals < 0 ? text : text.slice(0, equals)
    const value = equals < 0 ? lookup(name) : text.slice(equals + 1)
    if (name === '') throw usageFailure('build', `"${text}" has no name in front of its "="`)
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
        `the secret ${id} has ${formatSize(size)}; it may have ${formatSize(SECRET_BYTES_MAX)}`,
      )
    return readFileSync(path)
  } catch (err) {
    if (err instanceof Failure) throw err
    throw new Failure('build', `the secret ${id} cannot be read: ${(err as Error).message}`, { cause: err })
  }
}

/** "id=npm,src=FILE", "id=npm,env=NAME", "id=npm": then a variable of that name, or else a file. */
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
    throw new Failure('build', `the secret ${id} should be in the variable ${variable}, which is not set`)
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
 * FLAGS, and what they take from ENV, as the part of a request that they decide. Throws Failure,
 * InvalidRequest.
 */
export function parseBuildFlags(flags: BuildFlags, env: Context['env']): Options {
  const network = flags.network ?? 'host'
  if (network !== 'host' && network !== 'none')
    throw usageFailure('build', `--network is host or none, not "${network}"`)
  if (flags.progress !== undefined && !['plain', 'tty', 'auto'].includes(flags.progress))
    throw usageFailure('build', `--progress is plain or tty, not "${flags.progress}"`)
  const platform = flags.platform === undefined ? undefined : parsePlatform(flags.platform)
  if (flags.platform !== undefined && platform === undefined)
    throw usageFailure('build', `--platform "${flags.platform}" must be like linux/amd64`)
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
