// The wire form of a function: OpenFaaS's FunctionDeployment plus our own fields, quantities as people write
// them ("64Mi", "500m", "1m30s").  A transform in front of the one schema in function-spec.ts: it renames
// `service`, reads the quantities, drops null and the fields of OpenFaaS that mean nothing here.  All rules
// about values are the schema's.

import { InvalidRequest, type Fault } from './errors.ts'
import { DEFAULT_LIMITS, DEFAULT_TIMEOUT_MS, functionSpec, type FunctionSpec } from './function-spec.ts'
import { faultOf, INPUT } from './input.ts'
import { isPlainObject } from './plain-object.ts'
import {
  formatBytes,
  formatCpus,
  formatDuration,
  parseBytes,
  parseCount,
  parseCpus,
  parseDurationMs,
} from './quantity.ts'

/** A path of the spec and what its owner wrote; all other paths are the same on both sides. */
const WIRE_PATHS: Readonly<Record<string, string>> = {
  name: 'service',
  'limits.memoryBytes': 'limits.memory',
  'limits.cpus': 'limits.cpu',
  timeoutMs: 'timeout',
}

/** Fields of OpenFaaS that mean nothing here; accepted so that its clients work, if they ask for nothing. */
const IGNORED: Readonly<Record<string, (value: unknown) => string | undefined>> = {
  envProcess: (value) => (value === '' ? undefined : 'is not supported; use command'),
  network: (value) => (typeof value === 'string' ? undefined : 'must be a string'),
  registryAuth: (value) => (typeof value === 'string' ? undefined : 'must be a string'),
  constraints: (value) => faultOfList(value, 'are not supported'),
  secrets: (value) => faultOfList(value, 'are not supported yet'),
  requests: (value) => (isPlainObject(value) ? undefined : 'must be an object'),
}

function faultOfList(value: unknown, problem: string): string | undefined {
  if (!Array.isArray(value)) return 'must be a list'
  return value.length === 0 ? undefined : problem
}

/** A quantity of the wire: the number that it means, or why it is none. */
type Quantity = { readonly value: number } | { readonly problem: string }

function quantityOf(
  written: unknown,
  parse: (text: string) => number | undefined,
  example: string,
): Quantity {
  if (typeof written !== 'string' && typeof written !== 'number')
    return { problem: 'must be a string or a number' }
  const value = parse(String(written))
  return value === undefined ? { problem: `"${written}" is invalid; example: "${example}"` } : { value }
}

function pidsOf(written: unknown): Quantity {
  const value =
    typeof written === 'number' ? written : typeof written === 'string' ? parseCount(written) : undefined
  return value === undefined ? { problem: 'must be a whole number' } : { value }
}

interface Reading {
  readonly faults: Fault[]
  /** VALUE, or FALLBACK after noting why there is none. */
  take(path: string, written: unknown, read: (written: unknown) => Quantity, fallback: number): number
}

function createReading(): Reading {
  const faults: Fault[] = []
  return {
    faults,
    take(path, written, read, fallback) {
      if (written === undefined) return fallback
      const quantity = read(written)
      if ('value' in quantity) return quantity.value
      faults.push({ path, problem: quantity.problem })
      return fallback
    },
  }
}

const LIMITS = ['memory', 'cpu', 'pids']

function limitsOf(written: unknown, reading: Reading): FunctionSpec['limits'] {
  if (written === undefined) return DEFAULT_LIMITS
  if (!isPlainObject(written)) {
    reading.faults.push({ path: 'limits', problem: 'must be an object' })
    return DEFAULT_LIMITS
  }
  for (const key of Object.keys(written))
    if (!LIMITS.includes(key)) reading.faults.push({ path: `limits.${key}`, problem: 'is not a known field' })
  return {
    memoryBytes: reading.take(
      'limits.memory',
      written['memory'],
      (text) => quantityOf(text, parseBytes, '64Mi'),
      DEFAULT_LIMITS.memoryBytes,
    ),
    cpus: reading.take(
      'limits.cpu',
      written['cpu'],
      (text) => quantityOf(text, parseCpus, '0.5'),
      DEFAULT_LIMITS.cpus,
    ),
    pids: reading.take('limits.pids', written['pids'], pidsOf, DEFAULT_LIMITS.pids),
  }
}

/** The fields of BODY that are set, without those that are ignored. */
function fieldsOf(body: Record<string, unknown>, faults: Fault[]): Record<string, unknown> {
  const fields: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(body)) {
    const isNull = value === null && NULLABLE.has(key)
    // zod drops such a key without a word (it would set the prototype); nothing accepted may be lost.
    if (isPlainObject(value) && Object.hasOwn(value, '__proto__'))
      faults.push({ path: `${key}.__proto__`, problem: 'is not a valid name' })
    if (key === '__proto__') faults.push({ path: key, problem: 'is not a known field' })
    else if (Object.hasOwn(IGNORED, key)) {
      const problem = isNull ? undefined : IGNORED[key]!(value)
      if (problem !== undefined) faults.push({ path: key, problem })
    } else if (!isNull && !(key === 'namespace' && value === '')) fields[key] = value
  }
  return fields
}

/** Go's clients send null for an empty map or list. */
const NULLABLE: ReadonlySet<string> = new Set([
  'envVars',
  'limits',
  'volumes',
  'labels',
  'annotations',
  'constraints',
  'secrets',
  'requests',
])

/**
 * The deployment BODY (parsed JSON) as a FunctionSpec.  Throws InvalidRequest that lists every wrong field.
 */
export function parseDeployment(body: unknown): FunctionSpec {
  if (!isPlainObject(body)) {
    throw new InvalidRequest([
      { path: '', problem: 'the body must be a JSON object that describes a function' },
    ])
  }
  const reading = createReading()
  const { service, limits, timeout, ...rest } = fieldsOf(body, reading.faults)
  const wrongNames = Object.keys(rest).filter((key) => Object.hasOwn(WIRE_PATHS, key))
  const result = functionSpec.safeParse(
    {
      ...rest,
      name: service,
      limits: limitsOf(limits, reading),
      timeoutMs: reading.take(
        'timeout',
        timeout,
        (text) => quantityOf(text, parseDurationMs, '2s'),
        DEFAULT_TIMEOUT_MS,
      ),
    },
    INPUT,
  )
  const faults = [
    ...(result.error?.issues.flatMap(faultOf) ?? []).map((fault) => ({
      ...fault,
      path: WIRE_PATHS[fault.path] ?? fault.path,
    })),
    ...wrongNames.map((path) => ({ path, problem: 'is not a known field' })),
    ...reading.faults,
  ]
  // One fault per path: a value far out of bounds breaks several rules at once.
  const first = faults.filter(({ path }, i) => faults.findIndex((other) => other.path === path) === i)
  if (!result.success || first.length > 0) throw new InvalidRequest(first)
  return result.data
}

/** SPEC in the words of the wire, without `service` and OpenFaaS's counters, which the gateway adds. */
export function describeSpec(spec: FunctionSpec): Record<string, unknown> {
  const { name: _name, ...fields } = spec
  return Object.fromEntries(
    Object.entries(fields).map(([key, value]) =>
      key === 'limits'
        ? [key, describeLimits(spec.limits)]
        : key === 'timeoutMs'
          ? ['timeout', formatDuration(spec.timeoutMs)]
          : [key, value],
    ),
  )
}

function describeLimits({ memoryBytes, cpus, pids }: FunctionSpec['limits']): Record<string, unknown> {
  return { memory: formatBytes(memoryBytes), cpu: formatCpus(cpus), pids }
}
