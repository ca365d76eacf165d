// The part of an image's config that a Dockerfile changes: the object `config` of the OCI image spec
// (config.md) with Docker's additions, and `author`. Configs of images are untrusted: fields of the wrong
// type are ignored, and too large ones are rejected.

import { defined } from '../../contract/defined.ts'
import { ContentError } from '../../contract/errors.ts'
import { isPlainObject } from '../../contract/plain-object.ts'
import type { Healthcheck } from './healthcheck.ts'

export interface BuildConfig {
  /** "NAME=value", in the order of their first appearance. */
  readonly env: readonly string[]
  readonly labels: ReadonlyMap<string, string>
  /** "80/tcp" */
  readonly exposedPorts: readonly string[]
  readonly volumes: readonly string[]
  /** undefined is not set, [] is empty. */
  readonly entrypoint?: readonly string[]
  readonly cmd?: readonly string[]
  readonly shell?: readonly string[]
  /** "" is "/". */
  readonly workingDir: string
  readonly user: string
  readonly stopSignal?: string
  readonly healthcheck?: Healthcheck
  /** Triggers for the stage that is based on this image. */
  readonly onbuild: readonly string[]
  readonly author?: string
}

export const EMPTY_CONFIG: BuildConfig = {
  env: [],
  labels: new Map(),
  exposedPorts: [],
  volumes: [],
  workingDir: '',
  user: '',
  onbuild: [],
}

/** Limit for each list of a base image's config. */
const CONFIG_LIST_MAX = 10_000
/** Limit for the lists of ports and volumes, which ranges can make long. */
export const PORTS_MAX = 131_072

type Fields = Readonly<Record<string, unknown>>

function fieldsOf(value: unknown): Fields {
  return isPlainObject(value) ? value : {}
}

function bounded<T>(items: readonly T[], field: string, max: number = CONFIG_LIST_MAX): readonly T[] {
  if (items.length > max)
    throw new ContentError(
      `the base image's config has ${items.length} entries in "${field}"; the limit is ${max}`,
      'ERR_CONTENT_LIMIT',
    )
  return items
}

function listOf(fields: Fields, field: string): readonly string[] | undefined {
  const value = fields[field]
  return Array.isArray(value) ? bounded(value, field).filter((item) => typeof item === 'string') : undefined
}

function textOf(fields: Fields, field: string): string | undefined {
  const value = fields[field]
  return typeof value === 'string' && value !== '' ? value : undefined
}

function healthcheckOf(value: unknown): Healthcheck | undefined {
  const fields = fieldsOf(value)
  const test = listOf(fields, 'Test')
  if (test === undefined) return undefined
  const number = (field: string): number => (Number.isSafeInteger(fields[field]) ? Number(fields[field]) : 0)
  return {
    test,
    intervalNs: number('Interval'),
    timeoutNs: number('Timeout'),
    startPeriodNs: number('StartPeriod'),
    startIntervalNs: number('StartInterval'),
    retries: number('Retries'),
  }
}

/**
 * IMAGE, the parsed JSON of an image's config, as the start of a stage. Throws ContentError
 * ERR_CONTENT_LIMIT.
 */
export function readBuildConfig(image: unknown): BuildConfig {
  const author = textOf(fieldsOf(image), 'author')
  const fields = fieldsOf(fieldsOf(image)['config'])
  const optional = {
    entrypoint: listOf(fields, 'Entrypoint'),
    cmd: listOf(fields, 'Cmd'),
    shell: listOf(fields, 'Shell'),
    stopSignal: textOf(fields, 'StopSignal'),
    healthcheck: healthcheckOf(fields['Healthcheck']),
    author,
  }
  return {
    env: listOf(fields, 'Env') ?? [],
    labels: new Map(
      bounded(Object.entries(fieldsOf(fields['Labels'])), 'Labels').filter(
        (entry): entry is [string, string] => typeof entry[1] === 'string',
      ),
    ),
    exposedPorts: bounded(Object.keys(fieldsOf(fields['ExposedPorts'])), 'ExposedPorts', PORTS_MAX),
    volumes: bounded(Object.keys(fieldsOf(fields['Volumes'])), 'Volumes'),
    workingDir: textOf(fields, 'WorkingDir') ?? '',
    user: textOf(fields, 'User') ?? '',
    onbuild: listOf(fields, 'OnBuild') ?? [],
    ...Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)),
  }
}

/** Sorted by name, so that the same build writes the same bytes; "__proto__" is an ordinary name. */
function objectOf<T>(entries: Iterable<readonly [string, T]>): Record<string, T> {
  const sorted = [...entries].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  return Object.assign(Object.create(null) as Record<string, T>, Object.fromEntries(sorted))
}

/** CONFIG as the object `config` of an image's config, without empty fields. */
export function writeBuildConfig(config: BuildConfig): Readonly<Record<string, unknown>> {
  const { healthcheck: health } = config
  const healthcheck = health && {
    Test: health.test,
    ...(health.intervalNs > 0 && { Interval: health.intervalNs }),
    ...(health.timeoutNs > 0 && { Timeout: health.timeoutNs }),
    ...(health.startPeriodNs > 0 && { StartPeriod: health.startPeriodNs }),
    ...(health.startIntervalNs > 0 && { StartInterval: health.startIntervalNs }),
    ...(health.retries > 0 && { Retries: health.retries }),
  }
  return {
    ...(config.user !== '' && { User: config.user }),
    ...(config.exposedPorts.length > 0 && {
      ExposedPorts: objectOf(config.exposedPorts.map((port) => [port, {}])),
    }),
    ...(config.env.length > 0 && { Env: config.env }),
    ...defined({ Entrypoint: config.entrypoint, Cmd: config.cmd }),
    ...(config.volumes.length > 0 && { Volumes: objectOf(config.volumes.map((volume) => [volume, {}])) }),
    ...(config.workingDir !== '' && { WorkingDir: config.workingDir }),
    ...(config.labels.size > 0 && { Labels: objectOf(config.labels) }),
    ...defined({ StopSignal: config.stopSignal, Healthcheck: healthcheck, Shell: config.shell }),
    ...(config.onbuild.length > 0 && { OnBuild: config.onbuild }),
  }
}
