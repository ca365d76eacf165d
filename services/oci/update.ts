// `update`: new limits for a running container, as JSON (linux.resources of the spec) or as runc's options.
// Options are converted to the same JSON, so that one parser checks both.

import { readFileSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { requireActive } from '../containers/control.ts'
import { InvalidRequest, type Fault } from '../contract/errors.ts'
import type { BundleResources } from '../contract/bundle-spec.ts'
import type { Flag, Given } from './command-line.ts'
import { readDocument } from './config/config.ts'
import { readResources } from './config/resources.ts'
import type { Context } from './context.ts'
import { createCursor } from '../contract/cursor.ts'
import { OciError } from './failure.ts'

const RESOURCES_MAX_BYTES = 1 << 20
const STDIN = 0
const UNITS = ['', 'k', 'm', 'g', 't', 'p']

/** Option → its field in linux.resources, and the format of its value. */
const FIELDS: ReadonlyArray<
  readonly [
    flag: string,
    value: string,
    place: readonly [string, string],
    kind: 'bytes' | 'number' | 'text',
    about: string,
  ]
> = [
  ['blkio-weight', 'N', ['blockIO', 'weight'], 'number', 'share of block devices, 10 to 1000'],
  ['cpu-period', 'US', ['cpu', 'period'], 'number', 'length of a period'],
  ['cpu-quota', 'US', ['cpu', 'quota'], 'number', 'CPU time per period; -1 for no limit'],
  ['cpu-burst', 'US', ['cpu', 'burst'], 'number', 'unused CPU time that may be accumulated'],
  ['cpu-share', 'N', ['cpu', 'shares'], 'number', 'share of the CPUs, 2 to 262144'],
  ['cpu-rt-period', 'US', ['cpu', 'realtimePeriod'], 'number', 'length of a period for real-time processes'],
  [
    'cpu-rt-runtime',
    'US',
    ['cpu', 'realtimeRuntime'],
    'number',
    'CPU time of real-time processes per period',
  ],
  ['cpu-idle', '0|1', ['cpu', 'idle'], 'number', '1: run only when the CPU is idle'],
  ['cpuset-cpus', 'LIST', ['cpu', 'cpus'], 'text', 'CPUs to use, such as "0-3,7"'],
  ['cpuset-mems', 'LIST', ['cpu', 'mems'], 'text', 'memory nodes to use'],
  ['memory', 'SIZE', ['memory', 'limit'], 'bytes', 'bytes, or with suffix k, m, g'],
  ['memory-reservation', 'SIZE', ['memory', 'reservation'], 'bytes', 'soft limit'],
  ['memory-swap', 'SIZE', ['memory', 'swap'], 'bytes', 'memory and swap together; -1 for no limit'],
  [
    'kernel-memory',
    'SIZE',
    ['memory', 'kernel'],
    'bytes',
    'ignored with a warning, because the kernel ignores it',
  ],
  ['kernel-memory-tcp', 'SIZE', ['memory', 'kernelTCP'], 'bytes', 'TCP buffers (cgroup v1)'],
  ['pids-limit', 'N', ['pids', 'limit'], 'number', 'processes; -1 for no limit'],
]

export const UPDATE_FLAGS: readonly Flag[] = [
  {
    names: ['resources', 'r'],
    value: 'FILE',
    about: 'linux.resources as JSON, "-" for stdin; the other options are then ignored',
  },
  ...FIELDS.map(([name, value, , , about]) => ({ names: [name], value, about })),
]

function numberOf(flag: string, text: string, kind: 'bytes' | 'number'): number {
  const [, digits, unit] = /^(-?\d{1,16})([kmgtp]?)(?:i?b)?$/i.exec(text) ?? []
  const power = UNITS.indexOf((unit ?? '').toLowerCase())
  if (digits === undefined || (kind === 'number' && text !== digits))
    throw new OciError(
      `--${flag} ${text} is not ${kind === 'bytes' ? 'a size such as 64m' : 'a whole number'}`,
    )
  return Number(digits) * 1024 ** power
}

/** The options as linux.resources. */
function fromOptions(given: Given): unknown {
  const document: Record<string, Record<string, number | string>> = {}
  for (const [flag, , [group, name], kind] of FIELDS) {
    const text = given.text(flag)
    if (text !== undefined)
      (document[group] ??= {})[name] = kind === 'text' ? text : numberOf(flag, text, kind)
  }
  if (Object.keys(document).length === 0)
    throw new OciError('no limit to change; see wherry-oci update --help')
  return document
}

function readFile(context: Context, file: string): string {
  if (
    file !== '-' &&
    (statSync(resolve(context.world.cwd, file), { throwIfNoEntry: false })?.size ?? 0) > RESOURCES_MAX_BYTES
  )
    throw new OciError(`${file} is larger than ${RESOURCES_MAX_BYTES} bytes`)
  return readFileSync(file === '-' ? STDIN : resolve(context.world.cwd, file), 'utf8')
}

function parse(context: Context, given: Given): { resources: BundleResources; checkUsage: boolean } {
  const file = given.text('resources')
  const faults: Fault[] = []
  const warnings: string[] = []
  const cursor = createCursor(
    file === undefined ? fromOptions(given) : readDocument(readFile(context, file), 'resources'),
    '',
    faults,
  )
  const resources = readResources(cursor, warnings, true)
  const checkUsage = cursor.get('memory').get('checkBeforeUpdate').boolean(false)
  if (faults.length > 0) throw new InvalidRequest(faults)
  if (resources.devices.length > 0) warnings.push('devices: the rules of a running container are not changed')
  for (const warning of warnings) context.log.warn(warning)
  return { resources, checkUsage }
}

/** Throws InvalidRequest naming the field, Unsupported naming the cgroup file. */
export function updateCommand(context: Context, id: string, given: Given): void {
  requireActive(context.containers.state(id), 'update')
  const { resources, checkUsage } = parse(context, given)
  context.containers.update(id, resources, checkUsage)
}
