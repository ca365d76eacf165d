// Checks a runtime spec against the limits of the kernel and of the plan's layout. Every wrong field is named
// by its path before the container takes anything. Names and numbers may come from an image, so all of them
// are untrusted.

import { StartError, type Fault } from '../contract/errors.ts'
import type { Mount, RuntimeSpec } from '../contract/runtime-spec.ts'
import { isCapability } from './capability.ts'
import { CLONE, RLIMIT } from './linux.ts'
import { ID_COUNT } from './user.ts'

/** WY_LIST_MAX in native/include/wherry.h. */
const LIST_MAX = 4096
export const LAYERS_MAX = 128
const HOSTNAME_BYTES_MAX = 64
/** NGROUPS_MAX */
const GROUPS_MAX = 65_536
const CPU_PERIOD_MIN_US = 1000
const CPU_PERIOD_MAX_US = 1_000_000
const PIDS_MAX = 4_194_304
/** Characters of a name that a message quotes. */
const QUOTED_MAX = 80
const CAPABILITY_SETS = ['bounding', 'permitted', 'inheritable', 'effective', 'ambient'] as const
const MOUNT_TYPES: readonly string[] = ['bind', 'proc', 'dev', 'scratch'] satisfies ReadonlyArray<
  Mount['type']
>
const MOUNT_OPTION = /^(?:ro|nosuid|nodev|noexec|file|mode=[0-7]{3,4})$/

const quote = (text: string): string => JSON.stringify(text.slice(0, QUOTED_MAX))
const isWhole = (value: number, min: number, max: number): boolean =>
  Number.isInteger(value) && value >= min && value <= max
const isAbsolute = (path: string): boolean => path.startsWith('/') && !path.split('/').includes('..')

type Note = (path: string, problem: string) => void

function checkNumbers(note: Note, values: Readonly<Record<string, number>>, min: number, max: number): void {
  for (const [path, value] of Object.entries(values))
    if (!isWhole(value, min, max)) note(path, `${value} is not a whole number from ${min} to ${max}`)
}

function checkTexts(note: Note, path: string, texts: readonly string[]): void {
  if (texts.length > LIST_MAX) note(path, `has ${texts.length} items, the maximum is ${LIST_MAX}`)
  for (const [i, text] of texts.entries())
    if (text.includes('\0')) note(`${path}[${i}]`, 'contains a NUL character')
}

function checkPath(note: Note, path: string, text: string): void {
  if (text.includes('\0')) note(path, 'contains a NUL character')
  else if (!isAbsolute(text)) note(path, `${quote(text)} is not an absolute path without ".."`)
}

function checkRlimits(note: Note, { rlimits }: RuntimeSpec['process']): void {
  for (const [i, { type, soft, hard }] of rlimits.entries()) {
    const path = `process.rlimits[${i}]`
    if (!Object.hasOwn(RLIMIT, type)) note(`${path}.type`, `${quote(type)} is not a limit`)
    if (rlimits.findIndex((other) => other.type === type) !== i)
      note(`${path}.type`, `${quote(type)} is a duplicate`)
    checkNumbers(note, { [`${path}.soft`]: soft, [`${path}.hard`]: hard }, 0, Number.MAX_SAFE_INTEGER)
    if (soft > hard) note(`${path}.soft`, `${soft} is above hard, ${hard}`)
  }
}

function checkProcess(note: Note, process: RuntimeSpec['process']): void {
  const { args, env, user, cwd, capabilities, oomScoreAdj = 0 } = process
  if (args.length === 0 || args[0] === '') note('process.args', 'has no program')
  checkTexts(note, 'process.args', args)
  checkTexts(note, 'process.env', env)
  for (const [i, variable] of env.entries())
    if (variable.indexOf('=') < 1) note(`process.env[${i}]`, `${quote(variable)} is not KEY=value`)
  if (cwd.includes('\0')) note('process.cwd', 'contains a NUL character')
  else if (!cwd.startsWith('/')) note('process.cwd', `${quote(cwd)} is not an absolute path`)
  if (user.additionalGids.length > GROUPS_MAX)
    note(
      'process.user.additionalGids',
      `has ${user.additionalGids.length} items, at most ${GROUPS_MAX} are possible`,
    )
  const groups = user.additionalGids.map((gid, i): [string, number] => [
    `process.user.additionalGids[${i}]`,
    gid,
  ])
  checkNumbers(
    note,
    { 'process.user.uid': user.uid, 'process.user.gid': user.gid, ...Object.fromEntries(groups) },
    0,
    ID_COUNT - 1,
  )
  checkNumbers(note, { 'process.oomScoreAdj': oomScoreAdj }, -1000, 1000)
  for (const set of CAPABILITY_SETS) {
    for (const [i, name] of capabilities[set].entries())
      if (!isCapability(name)) note(`process.capabilities.${set}[${i}]`, `${quote(name)} is not a capability`)
  }
  checkRlimits(note, process)
}

function checkMount(note: Note, path: string, { destination, type, source, options }: Mount): void {
  checkPath(note, `${path}.destination`, destination)
  if (!MOUNT_TYPES.includes(type))
    note(`${path}.type`, `${quote(type)} is not one of ${MOUNT_TYPES.join(', ')}`)
  if (type === 'bind') {
    checkPath(note, `${path}.source`, source ?? '')
    if (/^\/+(?:$|(?:proc|sys|dev)(?:\/|$))/.test(destination))
      note(`${path}.destination`, `${quote(destination)} is /, /proc, /sys, /dev or below one of those three`)
  }
  for (const [i, option] of options.entries())
    if (!MOUNT_OPTION.test(option)) note(`${path}.options[${i}]`, `${quote(option)} is not an option`)
}

function checkLinux(
  note: Note,
  { namespaces, resources, maskedPaths, readonlyPaths, sysctl = {} }: RuntimeSpec['linux'],
): void {
  for (const [i, name] of namespaces.entries())
    if (!Object.hasOwn(CLONE, name)) note(`linux.namespaces[${i}]`, `${quote(name)} is not a namespace`)
  const { memory, cpu, pids } = resources
  checkNumbers(note, { 'linux.resources.memory.limit': memory.limit }, 1, Number.MAX_SAFE_INTEGER)
  checkNumbers(note, { 'linux.resources.cpu.period': cpu.period }, CPU_PERIOD_MIN_US, CPU_PERIOD_MAX_US)
  checkNumbers(note, { 'linux.resources.cpu.quota': cpu.quota }, CPU_PERIOD_MIN_US, Number.MAX_SAFE_INTEGER)
  checkNumbers(note, { 'linux.resources.pids.limit': pids.limit }, 1, PIDS_MAX)
  for (const [i, path] of maskedPaths.entries()) checkPath(note, `linux.maskedPaths[${i}]`, path)
  for (const [i, path] of readonlyPaths.entries()) checkPath(note, `linux.readonlyPaths[${i}]`, path)
  for (const [name, value] of Object.entries(sysctl)) {
    if (!/^[a-z0-9_]+(?:\.[a-z0-9_]+)+$/.test(name) || value.includes('\0'))
      note(`linux.sysctl.${name.slice(0, QUOTED_MAX)}`, 'is not a setting')
  }
}

/** Throws StartError that lists every fault of SPEC as `path: problem`. */
export function checkSpec(spec: RuntimeSpec): void {
  const faults: Fault[] = []
  const note: Note = (path, problem) => {
    faults.push({ path, problem })
  }
  const { process, hostname = '', mounts, linux } = spec
  const { layers, scratchBytes, scratchInodes, writable } = spec.root
  checkProcess(note, process)
  if (layers.length < 1 || layers.length > LAYERS_MAX)
    note('root.layers', `has ${layers.length} layers; 1 to ${LAYERS_MAX} are possible`)
  for (const [i, layer] of layers.entries()) checkPath(note, `root.layers[${i}]`, layer)
  if (writable !== undefined) checkPath(note, 'root.writable', writable)
  checkNumbers(
    note,
    { 'root.scratchBytes': scratchBytes, 'root.scratchInodes': scratchInodes },
    1,
    Number.MAX_SAFE_INTEGER,
  )
  if (hostname.includes('\0') || Buffer.byteLength(hostname) > HOSTNAME_BYTES_MAX)
    note('hostname', `is longer than ${HOSTNAME_BYTES_MAX} bytes or contains a NUL character`)
  for (const [i, mount] of mounts.entries()) {
    checkMount(note, `mounts[${i}]`, mount)
    if (mounts.findIndex((other) => other.destination === mount.destination) !== i)
      note(`mounts[${i}].destination`, `${quote(mount.destination)} is the target of two mounts`)
  }
  checkLinux(note, linux)
  if (faults.length > 0)
    throw new StartError(
      `invalid container: ${faults.map((fault) => `${fault.path}: ${fault.problem}`).join('; ')}`,
      'ERR_START',
    )
}
