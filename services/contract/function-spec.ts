// A function as every room uses it and as it is stored: one schema, whose order of keys is also the order in
// which a spec is written.  Whatever passes it is written and read again unchanged; deployment.ts turns the
// wire form into it.  A new field is one line here (and its row in docs/function-spec.md).

import { z } from 'zod'
import { INPUT } from './input.ts'

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
const STRING_MAX = 32_768
/** Ids inside a container are 0 … 65535 (runtime/user.ts). */
const ID_MAX = 65_535
const VOLUMES_MAX = 32
const PATH_DEPTH_MAX = 64
const PATH_MAX_CHARS = 4095
/** NAME_MAX of the kernel, for each part of a path. */
const PART_MAX_BYTES = 255
const RECORD_MAX_CHARS = 4 * 1024 ** 2

export const DEFAULT_LIMITS = { memoryBytes: 128 * 1024 ** 2, cpus: 1, pids: 128 } as const
export const DEFAULT_TIMEOUT_MS = 60_000

const NAME = /^[a-zA-Z0-9](?:[-a-zA-Z0-9_.]*[a-zA-Z0-9])?$/
const NAME_RULE = 'must be letters, digits, "-", "_" or ".", and begin and end with a letter or digit'
const string = z
  .string()
  .max(STRING_MAX, `is longer than ${STRING_MAX} characters`)
  .regex(/^[^\0]*$/, 'contains a NUL character')
const stringMap = z.record(z.string().min(1).max(256), string)
const environment = z.record(
  z.string().regex(/^[A-Za-z_][A-Za-z0-9_.-]{0,255}$/, 'is not a valid name of an environment variable'),
  string,
)
const argv = z.array(string).max(LIST_MAX, `has more than ${LIST_MAX} items`)
const name = z
  .string()
  .max(FUNCTION_NAME_MAX, `is longer than ${FUNCTION_NAME_MAX} characters`)
  .regex(NAME, NAME_RULE)
const absolutePath = string
  .refine(
    (p) => p.startsWith('/') && !/\/\.\.?(?:\/|$)/.test(p),
    'must be an absolute path without ".." and "."',
  )
  .refine(
    (p) => p.length <= PATH_MAX_CHARS && p.split('/').length <= PATH_DEPTH_MAX,
    `is longer than ${PATH_MAX_CHARS} characters or deeper than ${PATH_DEPTH_MAX} directories`,
  )
  .refine(
    (p) => p.split('/').every((part) => Buffer.byteLength(part) <= PART_MAX_BYTES),
    `has a part longer than ${PART_MAX_BYTES} bytes`,
  )

const bounded = (min: number, max: number, least: string, most: string) =>
  z.number().min(min, `must be at least ${least}`).max(max, `must be at most ${most}`)

const limits = z.object({
  memoryBytes: bounded(MEMORY_MIN_BYTES, MEMORY_MAX_BYTES, '4Mi', '1Ti').int(),
  cpus: bounded(CPU_MIN, CPU_MAX, String(CPU_MIN), String(CPU_MAX)),
  pids: bounded(PIDS_MIN, PIDS_MAX, String(PIDS_MIN), String(PIDS_MAX)).int('must be a whole number'),
})

const volume = z.strictObject({
  name: z.string().max(FUNCTION_NAME_MAX).regex(NAME, 'must be letters, digits, "-", "_" or "."'),
  target: absolutePath
    .refine(
      (p) => !/^\/+(?:$|(?:proc|sys|dev)(?:\/|$))/.test(p),
      'must not be /, /proc, /sys, /dev or below one of the last three',
    )
    .transform(normalise),
  readonly: z.boolean().default(false),
})

/** "/a//b/" → "/a/b" */
function normalise(path: string): string {
  const parts = path.split('/').filter((part) => part !== '')
  return `/${parts.join('/')}`
}

/** Each volume has a target of its own, none below another: removing the outer directory would unmount it. */
function checkTargets(volumes: ReadonlyArray<{ target: string }>, context: z.core.$RefinementCtx): void {
  const fault = (i: number, problem: string): void => {
    context.addIssue({ code: 'custom', path: [i, 'target'], message: `"${volumes[i]!.target}" ${problem}` })
  }
  const twice = volumes.findIndex((v, i) => volumes.findIndex((w) => w.target === v.target) !== i)
  if (twice >= 0) return fault(twice, 'is the target of two volumes')
  const nested = volumes.findIndex((v) => volumes.some((w) => v.target.startsWith(`${w.target}/`)))
  if (nested >= 0) fault(nested, 'is below the target of another volume')
}

export const functionSpec = z.strictObject({
  name,
  /** Selects the signature policy; names are unique across namespaces. */
  namespace: name.exactOptional(),
  /** The reference as the owner wrote it. */
  image: z.string().min(1, 'is empty').max(1024),
  /** How the function is served inside its container. */
  contract: z.enum(['stdio'], 'must be "stdio"').default('stdio'),
  /** Replaces the image's ENTRYPOINT. */
  command: argv.min(1, 'is empty; leave the field out to use the image’s ENTRYPOINT').exactOptional(),
  /** Replaces the image's CMD. */
  args: argv.exactOptional(),
  envVars: environment.default({}),
  limits,
  timeoutMs: bounded(TIMEOUT_MIN_MS, TIMEOUT_MAX_MS, '10ms', '24h').int(),
  volumes: z
    .array(volume)
    .max(VOLUMES_MAX, `has more than ${VOLUMES_MAX} items`)
    .superRefine(checkTargets)
    .default([]),
  /** "uid", "uid:gid" or names from the image's /etc/passwd and /etc/group; replaces USER. */
  user: z
    .string()
    .regex(/^[^\s:\0]{1,64}(?::[^\s:\0]{1,64})?$/, 'must be "user" or "user:group", names or numbers')
    .refine(
      (user) => user.split(':').every((part) => !/^\d+$/.test(part) || Number(part) <= ID_MAX),
      `has a number above ${ID_MAX}, the highest id in a container`,
    )
    .exactOptional(),
  workingDir: absolutePath.exactOptional(),
  readOnlyRootFilesystem: z.boolean().default(false),
  labels: stringMap.default({}),
  annotations: stringMap.default({}),
})

type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T

export type FunctionSpec = DeepReadonly<z.infer<typeof functionSpec>>
export type Contract = FunctionSpec['contract']
export type Limits = FunctionSpec['limits']
export type VolumeMount = FunctionSpec['volumes'][number]

/** Unknown fields are dropped: a newer version may have written them. */
const functionRecord = z.object({
  spec: functionSpec.strip(),
  imageDigest: z.string(),
  createdAtMs: z.number(),
  updatedAtMs: z.number(),
})

/** A spec as it is stored: what was requested, what it resolved to, and when. */
export interface FunctionRecord {
  readonly spec: FunctionSpec
  /** Digest that the image reference resolved to at deploy time ("sha256:…"); workers run this. */
  readonly imageDigest: string
  readonly createdAtMs: number
  readonly updatedAtMs: number
}

/** JSON text of RECORD for the store; `readRecord` returns an equal record. */
export const writeRecord = (record: FunctionRecord): string => JSON.stringify(record)

/**
 * The record that `writeRecord` wrote as TEXT for the function NAME.  Anyone with access to Redis can write
 * there, so the same rules apply as to a deployment.  Returns the reason when TEXT is not such a record.
 */
export function readRecord(name: string, text: string): { record: FunctionRecord } | { problem: string } {
  if (text.length > RECORD_MAX_CHARS) return { problem: `is longer than ${RECORD_MAX_CHARS} characters` }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return { problem: 'is not JSON' }
  }
  const parsed = functionRecord.safeParse(value, INPUT)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    return { problem: `${issue?.path.join('.')}: ${issue?.message}` }
  }
  if (parsed.data.spec.name !== name) return { problem: `spec.name: is not "${name}"` }
  return { record: parsed.data }
}
