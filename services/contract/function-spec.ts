// A function as its owner describes it.  Two shapes: the deployment on the wire (OpenFaaS's
// FunctionDeployment plus our own fields, everything a string as people write it) and the
// FunctionSpec that all other rooms use (defaults filled in, quantities as numbers).
// parseDeployment turns the first into the second and names every wrong field at once.

import { z } from 'zod'
import { InvalidRequest, type Fault } from './errors.ts'
import { formatBytes, formatDuration, parseBytes, parseCpus, parseDurationMs } from './quantity.ts'

export const MEMORY_MIN_BYTES = 4 * 1024 ** 2
export const MEMORY_MAX_BYTES = 1024 ** 4
export const CPU_MIN = 0.01
export const CPU_MAX = 1024
export const PIDS_MIN = 1
export const PIDS_MAX = 32_768
export const TIMEOUT_MIN_MS = 10
export const TIMEOUT_MAX_MS = 24 * 3_600_000
export const FUNCTION_NAME_MAX = 63
const LIST_MAX = 256
const TEXT_MAX = 32_768
/** Ids inside a container are 0 … 65535 (runtime/user.ts). */
const ID_MAX = 65_535
const VOLUMES_MAX = 32

export const DEFAULT_LIMITS = { memoryBytes: 128 * 1024 ** 2, cpus: 1, pids: 128 } as const
export const DEFAULT_TIMEOUT_MS = 60_000

/**
 * How the function is served inside its container (DESIGN §4). `http` and `lambda` have their place here when
 * they come.
 */
export type Contract = 'stdio'

export interface Limits {
  readonly memoryBytes: number
  readonly cpus: number
  readonly pids: number
}
export interface VolumeMount {
  readonly name: string
  readonly target: string
  readonly readonly: boolean
}

export interface FunctionSpec {
  readonly name: string
  /** Which signature policy holds for it; names stay unique over all namespaces. */
  readonly namespace?: string
  /** The reference as its owner wrote it. */
  readonly image: string
  readonly contract: Contract
  /** Replaces the image's ENTRYPOINT. */
  readonly command?: readonly string[]
  /** Replaces the image's CMD. */
  readonly args?: readonly string[]
  readonly envVars: Readonly<Record<string, string>>
  readonly limits: Limits
  readonly timeoutMs: number
  readonly volumes: readonly VolumeMount[]
  /** "uid", "uid:gid" or names that the image's /etc/passwd and /etc/group know; replaces USER. */
  readonly user?: string
  readonly workingDir?: string
  readonly readOnlyRootFilesystem: boolean
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
}

/** A spec as it is kept: what was asked, what it was resolved to, and when. */
export interface FunctionRecord {
  readonly spec: FunctionSpec
  /** Digest that the image reference named when it was deployed ("sha256:…"); workers run this. */
  readonly imageDigest: string
  readonly createdAtMs: number
  readonly updatedAtMs: number
}

const NO_NUL = /^[^\0]*$/
const NAME = /^[a-zA-Z0-9](?:[-a-zA-Z0-9_.]*[a-zA-Z0-9])?$/
const text = z
  .string()
  .max(TEXT_MAX, `is longer than ${TEXT_MAX} characters`)
  .regex(NO_NUL, 'contains a NUL character')
const textMap = z.record(z.string().min(1).max(256), text)
const environment = z.record(
  z.string().regex(/^[A-Za-z_][A-Za-z0-9_.-]{0,255}$/, 'is not a name for an environment variable'),
  text,
)
const argv = z.array(text).max(LIST_MAX, `has more than ${LIST_MAX} items`)
const name = z
  .string()
  .max(FUNCTION_NAME_MAX, `is longer than ${FUNCTION_NAME_MAX} characters`)
  .regex(NAME, 'must be letters, digits, "-", "_" or ".", and begin and end with a letter or digit')
const PATH_DEPTH_MAX = 64
const PATH_MAX_CHARS = 4095
/** NAME_MAX of the kernel, for each part of a path. */
const PART_MAX_BYTES = 255
const absolutePath = text
  .refine(
    (p) => p.startsWith('/') && !/\/\.\.?(?:\/|$)/.test(p),
    'must be an absolute path without ".." and "."',
  )
  .refine(
    (p) => p.length <= PATH_MAX_CHARS && p.split('/').length <= PATH_DEPTH_MAX,
    `is longer than ${PATH_MAX_CHARS} characters or deeper than ${PATH_DEPTH_MAX} folders`,
  )
  .refine(
    (p) => p.split('/').every((part) => Buffer.byteLength(part) <= PART_MAX_BYTES),
    `has a part longer than ${PART_MAX_BYTES} bytes`,
  )
const scalar = z.union([z.string(), z.number()]).transform(String)

function quantity(
  parse: (text: string) => number | undefined,
  bounds: { min: number; max: number; example: string; least: string; most: string },
) {
  return scalar.transform((written, context) => {
    const value = parse(written)
    const problem =
      value === undefined
        ? `"${written}" is not understood; write for example "${bounds.example}"`
        : value < bounds.min
          ? `"${written}" is below the least possible, ${bounds.least}`
          : value > bounds.max
            ? `"${written}" is above the most possible, ${bounds.most}`
            : undefined
    if (problem === undefined) return value!
    context.addIssue({ code: 'custom', message: problem })
    return z.NEVER
  })
}

const limits = z.strictObject({
  memory: quantity(parseBytes, {
    min: MEMORY_MIN_BYTES,
    max: MEMORY_MAX_BYTES,
    example: '64Mi',
    least: '4Mi',
    most: '1Ti',
  }).optional(),
  cpu: quantity(parseCpus, {
    min: CPU_MIN,
    max: CPU_MAX,
    example: '0.5',
    least: String(CPU_MIN),
    most: String(CPU_MAX),
  }).optional(),
  pids: z
    .union(
      [
        z.number(),
        z
          .string()
          .regex(/^\d{1,9}$/)
          .transform(Number),
      ],
      'must be a whole number',
    )
    .pipe(
      z
        .number()
        .int('must be a whole number')
        .min(PIDS_MIN, `is below the least possible, ${PIDS_MIN}`)
        .max(PIDS_MAX, `is above the most possible, ${PIDS_MAX}`),
    )
    .optional(),
})

const volume = z.strictObject({
  name: z.string().max(FUNCTION_NAME_MAX).regex(NAME, 'must be letters, digits, "-", "_" or "."'),
  target: absolutePath.refine(
    (p) => !/^\/+(?:$|(?:proc|sys|dev)(?:\/|$))/.test(p),
    'may not be /, /proc, /sys, /dev or below one of those three',
  ),
  readonly: z.boolean().optional(),
})

const deployment = z.strictObject({
  service: name,
  namespace: z.union([name, z.literal('')], 'must be letters, digits, "-", "_" or "."').optional(),
  image: z.string().min(1, 'is empty').max(1024),
  contract: z.enum(['stdio'], 'must be "stdio"').optional(),
  command: argv.min(1, 'is empty; leave the field out to use the image’s ENTRYPOINT').optional(),
  args: argv.optional(),
  envVars: environment.nullable().optional(),
  limits: limits.nullable().optional(),
  timeout: quantity(parseDurationMs, {
    min: TIMEOUT_MIN_MS,
    max: TIMEOUT_MAX_MS,
    example: '2s',
    least: '10ms',
    most: '24h',
  }).optional(),
  volumes: z.array(volume).max(VOLUMES_MAX, `has more than ${VOLUMES_MAX} items`).nullable().optional(),
  user: z
    .string()
    .regex(/^[^\s:\0]{1,64}(?::[^\s:\0]{1,64})?$/, 'must be "user" or "user:group", names or numbers')
    .refine(
      (user) => user.split(':').every((part) => !/^\d+$/.test(part) || Number(part) <= ID_MAX),
      `has a number above ${ID_MAX}, the last id that a container has`,
    )
    .optional(),
  workingDir: absolutePath.optional(),
  readOnlyRootFilesystem: z.boolean().optional(),
  labels: textMap.nullable().optional(),
  annotations: textMap.nullable().optional(),
  // Fields of OpenFaaS that say nothing here; accepted so that its clients work.
  envProcess: z.literal('', 'is not supported; use command').optional(),
  network: z.string().optional(),
  registryAuth: z.string().optional(),
  constraints: z.array(z.string()).max(0, 'are not supported').nullable().optional(),
  secrets: z.array(z.string()).max(0, 'are not supported yet').nullable().optional(),
  requests: z.record(z.string(), z.unknown()).nullable().optional(),
})

const KINDS: Readonly<Record<string, string>> = {
  string: 'a text',
  number: 'a number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
}

/**
 * How what people write is parsed: where a rule does not say itself what is wrong, this does, in their words.
 */
export const INPUT = {
  reportInput: true,
  error(issue: z.core.$ZodRawIssue): string | undefined {
    if (issue.code === 'invalid_type') return `must be ${KINDS[issue.expected] ?? issue.expected}`
    if (issue.code === 'invalid_union') return 'must be a text or a number'
    if (issue.code === 'too_big') return `is longer than ${issue.maximum}`
    return issue.code === 'too_small' ? 'is empty' : undefined
  },
} as const

/** What ISSUE of zod means, field by field. */
export function faultOf(issue: z.core.$ZodIssue): Fault[] {
  const path = issue.path
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : i === 0 ? String(key) : `.${String(key)}`))
    .join('')
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      path: path === '' ? key : `${path}.${key}`,
      problem: 'is not a known field',
    }))
  }
  if (issue.code === 'invalid_key') return [{ path, problem: issue.issues[0]?.message ?? issue.message }]
  if (issue.code === 'invalid_type' && issue.input === undefined) return [{ path, problem: 'is missing' }]
  return [{ path, problem: issue.message }]
}

/** "/a//b/" → "/a/b" */
function normalise(path: string): string {
  return `/${path
    .split('/')
    .filter((part) => part !== '')
    .join('/')}`
}

/**
 * The deployment BODY (parsed JSON) as a FunctionSpec.  Throws InvalidRequest that lists every wrong field.
 */
export function parseDeployment(body: unknown): FunctionSpec {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new InvalidRequest([
      { path: '', problem: 'the body must be a JSON object that describes a function' },
    ])
  }
  const result = deployment.safeParse(body, INPUT)
  if (!result.success) throw new InvalidRequest(result.error.issues.flatMap(faultOf))
  const d = result.data
  const volumes = (d.volumes ?? []).map((v) => ({
    name: v.name,
    target: normalise(v.target),
    readonly: v.readonly ?? false,
  }))
  const twice = volumes.findIndex((v, i) => volumes.findIndex((w) => w.target === v.target) !== i)
  if (twice >= 0)
    throw new InvalidRequest([
      {
        path: `volumes[${twice}].target`,
        problem: `"${volumes[twice]!.target}" is the target of two volumes`,
      },
    ])
  // Whoever else has the outer volume could remove the folder under the inner one, which takes the mount off.
  const nested = volumes.findIndex((v) => volumes.some((w) => v.target.startsWith(`${w.target}/`)))
  if (nested >= 0)
    throw new InvalidRequest([
      {
        path: `volumes[${nested}].target`,
        problem: `"${volumes[nested]!.target}" lies below the target of another volume`,
      },
    ])
  return {
    name: d.service,
    ...(d.namespace && { namespace: d.namespace }),
    image: d.image,
    contract: d.contract ?? 'stdio',
    ...(d.command && { command: d.command }),
    ...(d.args && { args: d.args }),
    envVars: d.envVars ?? {},
    limits: {
      memoryBytes: d.limits?.memory ?? DEFAULT_LIMITS.memoryBytes,
      cpus: d.limits?.cpu ?? DEFAULT_LIMITS.cpus,
      pids: d.limits?.pids ?? DEFAULT_LIMITS.pids,
    },
    timeoutMs: d.timeout ?? DEFAULT_TIMEOUT_MS,
    volumes,
    ...(d.user !== undefined && { user: d.user }),
    ...(d.workingDir !== undefined && { workingDir: d.workingDir }),
    readOnlyRootFilesystem: d.readOnlyRootFilesystem ?? false,
    labels: d.labels ?? {},
    annotations: d.annotations ?? {},
  }
}

/** The way back: a spec in the words of the wire (without OpenFaaS's counters, which the gateway adds). */
export function describeSpec(spec: FunctionSpec): Record<string, unknown> {
  return {
    ...(spec.namespace !== undefined && { namespace: spec.namespace }),
    image: spec.image,
    contract: spec.contract,
    ...(spec.command && { command: spec.command }),
    ...(spec.args && { args: spec.args }),
    envVars: spec.envVars,
    limits: {
      memory: formatBytes(spec.limits.memoryBytes),
      cpu: String(spec.limits.cpus),
      pids: spec.limits.pids,
    },
    timeout: formatDuration(spec.timeoutMs),
    volumes: spec.volumes,
    ...(spec.user !== undefined && { user: spec.user }),
    ...(spec.workingDir !== undefined && { workingDir: spec.workingDir }),
    readOnlyRootFilesystem: spec.readOnlyRootFilesystem,
    labels: spec.labels,
    annotations: spec.annotations,
  }
}
