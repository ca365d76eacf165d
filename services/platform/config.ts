// Settings of a process: a table {env, flag, parse, default, about} becomes one frozen, typed object. Flags
// override the environment, the environment overrides defaults. All invalid values and unknown WHERRY_* names
// are reported together at start.

import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { InvalidRequest, type Fault } from '../contract/errors.ts'
import { BODY_MAX_BYTES_DEFAULT } from '../contract/invocation.ts'
import { formatBytes, formatDuration, parseBytes, parseDurationMs } from '../contract/quantity.ts'

/**
 * How a value is parsed and shown. `parse` returns undefined for invalid text; `expected` completes "must be
 * …".
 */
export interface Kind<T> {
  parse(text: string): T | undefined
  format(value: T): string
  readonly expected: string
}

export interface Setting<T> extends Kind<T> {
  readonly env: string
  /** Long option without its dashes. */
  readonly flag: string
  readonly default: T
  readonly about: string
}

export type Table = Readonly<Record<string, Setting<unknown>>>
export type Config<T extends Table> = { readonly [K in keyof T]: NonNullable<ReturnType<T[K]['parse']>> }
export type Environment = Readonly<Record<string, string | undefined>>

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

export interface ListenAddress {
  readonly host: string
  /** 0 = any free port. */ readonly port: number
}

const TEXT_MAX = 4096
/** This file may be missing; one set explicitly may not. */
export const REGISTRIES_FILE_DEFAULT = '/etc/wherry/registries.json'
const PORT_MAX = 65_535

/** Every name that a Wherry process or the command line reads; any other WHERRY_ name is an error. */
export const ENV_NAMES: readonly string[] = [
  'WHERRY_REDIS_URL',
  'WHERRY_PREFIX',
  'WHERRY_DATA',
  'WHERRY_REGISTRIES',
  'WHERRY_LOG_LEVEL',
  'WHERRY_STOP_TIMEOUT',
  'WHERRY_NATIVE',
  'WHERRY_GATEWAY_LISTEN',
  'WHERRY_BODY_MAX',
  'WHERRY_QUEUE_WAIT',
  'WHERRY_SIGNATURES',
  'WHERRY_GATEWAY_URL',
  'WHERRY_WORKER_LISTEN',
  'WHERRY_WORKER_NAME',
  'WHERRY_WORKER_SLOTS',
  'WHERRY_IMAGES_HIGH',
  'WHERRY_IMAGES_LOW',
]

/** A string of 1 to 4,096 characters that matches PATTERN. */
export function text(pattern = /^[^\0\r\n]+$/, expected = 'a string'): Kind<string> {
  return {
    parse: (t) => (t.length <= TEXT_MAX && pattern.test(t) ? t : undefined),
    format: (v) => v,
    expected,
  }
}

/** A whole number from MIN to MAX. */
export function integer({ min, max }: { min: number; max: number }): Kind<number> {
  return {
    parse(t) {
      const value = /^\d{1,15}$/.test(t) ? Number(t) : NaN
      return value >= min && value <= max ? value : undefined
    },
    format: String,
    expected: `a whole number from ${min} to ${max}`,
  }
}

/** "30s", "1m30s" → milliseconds from MIN to MAX. */
export function duration({ min, max }: { min: number; max: number }): Kind<number> {
  return {
    parse(t) {
      const value = parseDurationMs(t)
      return value !== undefined && value >= min && value <= max ? value : undefined
    },
    format: formatDuration,
    expected: `a duration from ${formatDuration(min)} to ${formatDuration(max)}; example: "30s"`,
  }
}

/** "6Mi" → bytes from MIN to MAX. */
export function bytes({ min, max }: { min: number; max: number }): Kind<number> {
  return {
    parse(t) {
      const value = parseBytes(t)
      return value !== undefined && value >= min && value <= max ? value : undefined
    },
    format: formatBytes,
    expected: `a size from ${formatBytes(min)} to ${formatBytes(max)}; example: "6Mi"`,
  }
}

/** A size in bytes or a percentage: "20Gi", "85%". */
export const share: Kind<{ readonly bytes: number } | { readonly percent: number }> = {
  parse(t) {
    const percent = /^(\d{1,2}|100)%$/.exec(t)
    if (percent) return Number(percent[1]) > 0 ? { percent: Number(percent[1]) } : undefined
    const value = parseBytes(t)
    return value === undefined || value === 0 ? undefined : { bytes: value }
  },
  format: (v) => ('percent' in v ? `${v.percent}%` : formatBytes(v.bytes)),
  expected: 'a size or a percentage from 1% to 100%; example: "20Gi" or "85%"',
}

/** A URL with one of the PROTOCOLS ("redis:"). */
export function url(protocols: readonly string[]): Kind<string> {
  return {
    parse: (t) =>
      t.length <= TEXT_MAX && URL.canParse(t) && protocols.includes(new URL(t).protocol) ? t : undefined,
    format: redactUrl,
    expected: `a URL that begins with ${protocols.map((p) => `${p}//`).join(' or ')}`,
  }
}

/** "127.0.0.1:8080", "[::1]:0". */
export const listenAddress: Kind<ListenAddress> = {
  parse(t) {
    const match = /^(?:\[([0-9a-fA-F:.]{2,45})\]|([^\s:[\]/@]{1,253})):(\d{1,5})$/.exec(t)
    const port = Number(match?.[3])
    return match && port <= PORT_MAX ? { host: match[1] ?? match[2]!, port } : undefined
  },
  format: ({ host, port }) => `${host.includes(':') ? `[${host}]` : host}:${port}`,
  expected: '"host:port"; example: "127.0.0.1:8080" (port 0 = any free port)',
}

export const logLevel: Kind<LogLevel> = {
  parse: (t) => LOG_LEVELS.find((level) => level === t),
  format: (v) => v,
  expected: `one of ${LOG_LEVELS.join(', ')}`,
}

const absolutePath = text(/^\/[^\0\r\n]*$/, 'an absolute path')

/** Settings of every process. */
export const sharedSettings = {
  redisUrl: {
    env: 'WHERRY_REDIS_URL',
    flag: 'redis',
    ...url(['redis:', 'rediss:', 'unix:']),
    default: 'redis://127.0.0.1:6379',
    about: 'Redis or Valkey with queues and functions',
  },
  prefix: {
    env: 'WHERRY_PREFIX',
    flag: 'prefix',
    ...text(/^[\w{}.-]{1,64}$/, '1 to 64 of letters, digits and _ - . { }'),
    default: '{wherry}',
    about: 'prefix of every key in Redis',
  },
  dataDir: {
    env: 'WHERRY_DATA',
    flag: 'data',
    ...absolutePath,
    default: '/var/lib/wherry',
    about: 'folder for images, volumes and state',
  },
  registriesFile: {
    env: 'WHERRY_REGISTRIES',
    flag: 'registries',
    ...absolutePath,
    default: REGISTRIES_FILE_DEFAULT,
    about: 'file with mirrors, CAs and other settings of registries',
  },
  logLevel: {
    env: 'WHERRY_LOG_LEVEL',
    flag: 'log-level',
    ...logLevel,
    default: 'info',
    about: 'lowest level of log lines to write',
  },
  bodyMaxBytes: {
    env: 'WHERRY_BODY_MAX',
    flag: 'body-max',
    ...bytes({ min: 1024, max: 256 * 1024 ** 2 }),
    default: BODY_MAX_BYTES_DEFAULT,
    about: 'largest request body and response of a call',
  },
  stopTimeoutMs: {
    env: 'WHERRY_STOP_TIMEOUT',
    flag: 'stop-timeout',
    ...duration({ min: 100, max: 3_600_000 }),
    default: 30_000,
    about: 'how long a stop may wait for running work',
  },
  nativeDir: {
    env: 'WHERRY_NATIVE',
    flag: 'native',
    ...absolutePath,
    default: fileURLToPath(new URL('../../build/native', import.meta.url)),
    about: 'folder of the native library and programs',
  },
} satisfies Table

/** URL without its password, or "(not a URL)". */
export function redactUrl(url: string): string {
  if (!URL.canParse(url)) return '(not a URL)'
  const parsed = new URL(url)
  if (parsed.password !== '') parsed.password = '***'
  return parsed.href
}

/**
 * The options in ARGV (without node and script) for the settings of TABLE, and `--print-config`.
 * Throws InvalidRequest for any other argument.
 */
export function readFlags(
  table: Table,
  argv: readonly string[],
): { flags: Environment; printConfig: boolean } {
  const settings = Object.values(table).map((setting) => [setting.flag, { type: 'string' as const }] as const)
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: { ...Object.fromEntries(settings), 'print-config': { type: 'boolean' } },
      strict: true,
      allowPositionals: false,
    })
    const { 'print-config': printConfig, ...rest } = values
    const flags = Object.fromEntries(
      Object.entries(rest).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
    )
    return { flags, printConfig: printConfig === true }
  } catch (err) {
    throw new InvalidRequest([{ path: '', problem: err instanceof Error ? err.message : String(err) }])
  }
}

/**
 * TABLE's settings from FLAGS (by flag name) and ENV, as one frozen object; an empty value counts as not set.
 * Throws InvalidRequest with every invalid value and every unknown WHERRY_* name.
 */
export function readConfig<T extends Table>(table: T, env: Environment, flags: Environment = {}): Config<T> {
  const faults: Fault[] = []
  const config: Record<string, unknown> = {}
  for (const [name, setting] of Object.entries(table)) {
    const fromFlag = flags[setting.flag]
    const written = fromFlag ?? env[setting.env]
    const value = written === undefined || written === '' ? setting.default : setting.parse(written)
    if (value === undefined)
      faults.push({
        path: fromFlag === undefined ? setting.env : `--${setting.flag}`,
        problem: `must be ${setting.expected}`,
      })
    config[name] = value
  }
  for (const name of Object.keys(env)) {
    if (name.startsWith('WHERRY_') && !ENV_NAMES.includes(name))
      faults.push({ path: name, problem: `is not a setting of Wherry (known: ${ENV_NAMES.join(', ')})` })
  }
  if (faults.length > 0) throw new InvalidRequest(faults)
  return Object.freeze(config) as Config<T> // every key was filled from the table's own parser or default
}

/** CONFIG as lines `NAME=value  # about`, a valid environment file; passwords are hidden. */
export function describeConfig<T extends Table>(table: T, config: Config<T>): string {
  const lines = Object.entries(table).map(
    ([name, setting]) =>
      `${setting.env}=${setting.format(config[name])}  # --${setting.flag}: ${setting.about}`,
  )
  return `${lines.join('\n')}\n`
}
