// The value of RUN's --mount: bind, cache, tmpfs and secret (Dockerfile reference, "RUN --mount"). It is
// parsed twice: with the file, before variables have values, and when the step is created.

import { posix } from 'node:path'
import { defined } from '../../contract/defined.ts'
import { didYouMean } from './build-failure.ts'
import { splitCommas } from './words.ts'

interface Owned {
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

/** FROM is a stage's name or an image; by default the context (bind) or nothing (cache). */
interface Sourced {
  readonly from?: string
  readonly source: string
}

export interface BindMount extends Sourced {
  readonly type: 'bind'
  readonly target: string
  readonly isReadOnly: boolean
}

export interface CacheMount extends Sourced, Owned {
  readonly type: 'cache'
  readonly id: string
  readonly target: string
  readonly isReadOnly: boolean
  /** For concurrent builds: all share it, one after the other, or one each. */
  readonly sharing: 'shared' | 'locked' | 'private'
}

export interface TmpfsMount {
  readonly type: 'tmpfs'
  readonly target: string
  readonly sizeBytes?: number
}

/** A file at TARGET, a variable named ENV, or both. */
export interface SecretMount extends Owned {
  readonly type: 'secret'
  readonly id: string
  readonly target?: string
  readonly env?: string
  readonly isRequired: boolean
}

/** Targets are unchanged; relative ones are relative to the working directory. */
export type Mount = BindMount | CacheMount | TmpfsMount | SecretMount

export interface MountProblem {
  readonly problem: string
  readonly mark?: string
  readonly hint?: string | undefined
}

/** Limit of ids in a user namespace; 2³² − 1 means "no change" to the kernel. */
export const ID_MAX = 2 ** 32 - 2
export const MOUNTS_MAX = 64

const KEYS: Readonly<Record<string, string>> = {
  type: 'type',
  from: 'from',
  source: 'source',
  src: 'source',
  target: 'target',
  dst: 'target',
  destination: 'target',
  readonly: 'readonly',
  ro: 'readonly',
  readwrite: 'readwrite',
  rw: 'readwrite',
  id: 'id',
  sharing: 'sharing',
  required: 'required',
  size: 'size',
  mode: 'mode',
  uid: 'uid',
  gid: 'gid',
  env: 'env',
}
const SWITCHES = ['readonly', 'readwrite', 'required']
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  bind: ['from', 'source', 'target', 'readonly', 'readwrite'],
  cache: ['from', 'source', 'target', 'readonly', 'readwrite', 'id', 'sharing', 'mode', 'uid', 'gid'],
  tmpfs: ['target', 'size'],
  secret: ['source', 'target', 'id', 'required', 'mode', 'uid', 'gid', 'env'],
}
const BOOLEANS: Readonly<Record<string, boolean>> = {
  1: true,
  t: true,
  true: true,
  0: false,
  f: false,
  false: false,
}

function lastPart(path: string): string {
  return path.replace(/\/+$/, '').split('/').at(-1) ?? ''
}

/** Records the first problem; invalid values read as unset. */
function createReader(values: ReadonlyMap<string, string>) {
  let found: MountProblem | undefined
  const refuse = (problem: string, mark?: string, hint?: string): void => {
    found ??= { problem, ...defined({ mark }), hint }
  }
  return {
    refuse,
    problem: () => found,
    flag(key: string): boolean | undefined {
      const text = values.get(key)
      if (text === undefined) return undefined
      const value = BOOLEANS[text.toLowerCase()]
      if (value === undefined) refuse(`"${key}" must be true or false, not "${text}"`, text)
      return value
    },
    number(key: string, base: 8 | 10, max: number): number | undefined {
      const text = values.get(key)
      if (text === undefined) return undefined
      const value = (base === 8 ? /^[0-7]{1,6}$/ : /^\d{1,10}$/).test(text)
        ? Number.parseInt(text, base)
        : NaN
      if (!(value <= max)) refuse(`"${text}" is not a valid ${key}`, text)
      return value
    },
    size(): number | undefined {
      const text = values.get('size')
      if (text === undefined) return undefined
      const match = /^(\d{1,15}(?:\.\d{1,6})?) ?([kmgt]?)i?b?$/i.exec(text)
      const value =
        match === null
          ? NaN
          : Math.floor(Number(match[1]) * 1024 ** ['', 'k', 'm', 'g', 't'].indexOf(match[2]!.toLowerCase()))
      if (!Number.isSafeInteger(value) || value <= 0)
        refuse(`"${text}" is not a valid size`, text, 'examples: 64m, 1g')
      return value
    },
  }
}

function secretOf(values: ReadonlyMap<string, string>, reader: ReturnType<typeof createReader>): SecretMount {
  const [id, source, target, env] = ['id', 'source', 'target', 'env'].map((key) => values.get(key))
  if (id !== undefined && source !== undefined)
    reader.refuse('a secret has either an id or a source', 'source')
  const name = source ?? id ?? lastPart(target ?? '')
  if (name === '')
    reader.refuse(
      'the secret has no id',
      'secret',
      'write --mount=type=secret,id=NAME and pass it with --secret id=NAME,src=FILE',
    )
  const isFile = target !== undefined || env === undefined
  return {
    type: 'secret',
    id: name,
    isRequired: reader.flag('required') ?? false,
    ...(isFile && { target: target ?? `/run/secrets/${lastPart(name)}` }),
    ...(env !== undefined && { env: env === '' ? name : env }),
    mode: reader.number('mode', 8, 0o7777) ?? 0o400,
    uid: reader.number('uid', 10, ID_MAX) ?? 0,
    gid: reader.number('gid', 10, ID_MAX) ?? 0,
  }
}

function cacheOf(
  values: ReadonlyMap<string, string>,
  sourced: Sourced,
  reader: ReturnType<typeof createReader>,
): CacheMount {
  const target = values.get('target') ?? ''
  const sharing = (values.get('sharing') ?? 'shared').toLowerCase()
  const isSharing = sharing === 'shared' || sharing === 'locked' || sharing === 'private'
  if (!isSharing)
    reader.refuse(
      `sharing must be shared, locked or private, not "${sharing}"`,
      sharing,
      didYouMean(sharing, ['shared', 'locked', 'private']),
    )
  return {
    type: 'cache',
    ...sourced,
    target,
    id: values.get('id') || posix.normalize(target),
    sharing: isSharing ? sharing : 'shared',
    isReadOnly: reader.flag('readonly') ?? !(reader.flag('readwrite') ?? true),
    mode: reader.number('mode', 8, 0o7777) ?? 0o755,
    uid: reader.number('uid', 10, ID_MAX) ?? 0,
    gid: reader.number('gid', 10, ID_MAX) ?? 0,
  }
}

function mountOf(type: string, values: ReadonlyMap<string, string>): Mount | MountProblem {
  const reader = createReader(values)
  const from = values.get('from')
  const target = values.get('target') ?? ''
  const sourced: Sourced = {
    ...(from !== undefined && from !== '' && { from }),
    source: values.get('source') ?? '',
  }
  let mount: Mount
  if (type === 'secret') mount = secretOf(values, reader)
  else if (type === 'cache') mount = cacheOf(values, sourced, reader)
  else if (type === 'tmpfs') {
    const sizeBytes = reader.size()
    mount = { type, target, ...defined({ sizeBytes }) }
  } else
    mount = {
      type: 'bind',
      ...sourced,
      target,
      isReadOnly: reader.flag('readonly') ?? !(reader.flag('readwrite') ?? false),
    }
  if (type !== 'secret' && type !== 'bind' && target === '')
    reader.refuse(`the ${type} mount has no target`, `type=${type}`, 'add target=/path')
  return reader.problem() ?? mount
}

/** The name in "from" of TEXT, which has not been validated yet. */
export function mountFrom(text: string): string | undefined {
  const field = splitCommas(text)?.findLast((part) => part.toLowerCase().startsWith('from='))
  return field?.slice('from='.length) || undefined
}

/**
 * Parses TEXT, the value of one --mount. RESOLVE expands variables in each value except that of "from". An
 * invalid value is returned as a `problem`.
 */
export function parseMount(text: string, resolve: (value: string) => string): Mount | MountProblem {
  const fields = splitCommas(text)
  if (fields === undefined) return { problem: 'a " in --mount is not closed', mark: '"' }
  const values = new Map<string, string>()
  for (const field of fields) {
    const equals = field.indexOf('=')
    const written = (equals < 0 ? field : field.slice(0, equals)).toLowerCase()
    const key = Object.hasOwn(KEYS, written) ? KEYS[written]! : undefined
    if (key === undefined)
      return {
        problem: `--mount has no "${written}"`,
        mark: written,
        hint: didYouMean(written, Object.keys(KEYS)),
      }
    if (equals < 0 && !SWITCHES.includes(key))
      return { problem: `"${written}" in --mount has no value`, mark: written, hint: `write ${written}=…` }
    const raw = equals < 0 ? 'true' : field.slice(equals + 1)
    values.set(key, key === 'from' ? raw : resolve(raw))
  }
  const type = (values.get('type') ?? 'bind').toLowerCase()
  if (type === 'ssh')
    return {
      problem: '--mount=type=ssh is not supported',
      mark: 'ssh',
      hint: 'pass the key with --secret and mount it with type=secret',
    }
  if (!Object.hasOwn(ALLOWED, type))
    return {
      problem: `there is no mount of type "${type}"`,
      mark: type,
      hint: didYouMean(type, Object.keys(ALLOWED)) ?? 'use bind, cache, tmpfs or secret',
    }
  const wrong = [...values.keys()].find((key) => key !== 'type' && !ALLOWED[type]!.includes(key))
  if (wrong !== undefined) return { problem: `a ${type} mount has no "${wrong}"`, mark: wrong }
  return mountOf(type, values)
}
