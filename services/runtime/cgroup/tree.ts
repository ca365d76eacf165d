// The cgroup of a bundle's container: one directory per v1 hierarchy, or one on v2, at the path that its
// engine chose. Unlike those of the worker's pool (cgroup.ts, pool.ts) it outlives the process that created
// it, so everything here starts from paths. limits.ts computes the limits.

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { InvalidRequest, Unsupported } from '../../contract/errors.ts'
import type { BundleResources } from '../../contract/bundle-spec.ts'
import { parseMounts, parseOwnCgroups } from './host.ts'
import { controllersOf, handDown } from './v2.ts'
import { beyondCgroups, limitsV1, limitsV2, type LimitWrite } from './limits.ts'
import { deviceLine, deviceProgram, effectiveRules } from './device-filter.ts'
import type { Native } from '../native.ts'

/** One hierarchy's directory of one container. */
export interface CgroupDirectory {
  /** v1: as in /proc/self/cgroup ("cpu", "name=systemd"); v2: []. */
  readonly controllers: readonly string[]
  /** Name of the hierarchy's mount point ("cpu,cpuacct"). */
  readonly mountName: string
  readonly path: string
}

/** Plain values, stored in the container's state file. */
export interface CgroupTree {
  readonly version: 1 | 2
  readonly directories: readonly CgroupDirectory[]
}

const POLL_MS = 5
const FREEZE_MAX_MS = 10_000
const REMOVE_MAX_MS = 10_000

const codeOf = (err: unknown): string =>
  err instanceof Error ? ((err as NodeJS.ErrnoException).code ?? '') : ''

/** Writes TEXT to an existing cgroup file; the error names the file. */
function write(directory: string, file: string, text: string): void {
  try {
    writeFileSync(join(directory, file), text, { flag: 'r+' })
  } catch (cause) {
    throw new Unsupported(
      `cgroup file ${file} of ${directory} does not take "${text}" (${codeOf(cause)})`,
      cause,
    )
  }
}

/**
 * "slice:prefix:name", the form of systemd's driver, as the path that systemd derives from it
 * (systemd.slice(5)).
 */
function systemdPath(written: string): string {
  const [slice, prefix, name, ...rest] = written.split(':')
  if (name === undefined || rest.length > 0 || written.includes('/')) {
    throw new InvalidRequest([
      {
        path: 'linux.cgroupsPath',
        problem: `"${written}" is not of the format "slice:prefix:name", which --systemd-cgroup asks for`,
      },
    ])
  }
  const parts = (slice || 'system.slice').replace(/\.slice$/, '').split('-')
  return join(
    '/',
    ...parts.map((_, i) => `${parts.slice(0, i + 1).join('-')}.slice`),
    name.endsWith('.slice') ? name : `${prefix}-${name}.scope`,
  )
}

/**
 * WRITTEN as in the runtime spec: an absolute path starts at the hierarchy's root, others below our own
 * cgroup. By default the container's ID is its name.
 */
function pathBelow(written: string | undefined, id: string, own: string, systemd: boolean): string {
  if (systemd) return systemdPath(written ?? `system.slice:wherry:${id}`)
  if (written === undefined) return join(own, id)
  return written.startsWith('/') ? join('/', written) : join(own, written)
}

/**
 * Where the cgroup of the container ID is, or will be; with SYSTEMD, where systemd would create it. Throws
 * Unsupported on a host without cgroups, InvalidRequest for a malformed path.
 */
export function locateCgroup(written: string | undefined, id: string, systemd = false): CgroupTree {
  const own = parseOwnCgroups(readFileSync('/proc/self/cgroup', 'utf8'))
  const mounts = parseMounts(readFileSync('/proc/self/mountinfo', 'utf8'))
  const directories = mounts.v1.flatMap((mount): CgroupDirectory[] => {
    const controllers = mount.controllers.filter((name) => own.v1.has(name))
    if (controllers.length === 0) return []
    return [
      {
        controllers,
        mountName: basename(mount.directoryOf('/')),
        path: mount.directoryOf(pathBelow(written, id, own.v1.get(controllers[0]!)!, systemd)),
      },
    ]
  })
  if (directories.some((directory) => directory.controllers.some((name) => !name.startsWith('name='))))
    return { version: 1, directories }
  // Our own cgroup contains us, so it cannot enable controllers for children; its parent can (cgroup-v2.rst,
  // No Internal Process Constraint).
  if (!mounts.v2 || own.v2 === undefined)
    throw new Unsupported('no cgroups are mounted on this host; mount cgroup2 at /sys/fs/cgroup')
  return {
    version: 2,
    directories: [
      {
        controllers: [],
        mountName: 'cgroup',
        path: mounts.v2.directoryOf(pathBelow(written, id, dirname(own.v2), systemd)),
      },
    ],
  }
}

/** The root of the hierarchy on v2; "" on v1. */
export function topOfCgroups(tree: CgroupTree): string {
  return tree.version === 1
    ? ''
    : (parseMounts(readFileSync('/proc/self/mountinfo', 'utf8')).v2?.directoryOf('/') ?? '')
}

/** A new v1 cpuset has no CPUs and accepts no process; each level gets the CPUs of the one above. */
function inheritCpuset(directory: string): void {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    if (readFileSync(join(directory, file), 'utf8').trim() !== '') continue
    if (!existsSync(join(dirname(directory), file))) continue
    write(directory, file, readFileSync(join(dirname(directory), file), 'utf8').trim())
  }
}

function makeDirectory(path: string, prepareLevel: (level: string) => void): void {
  if (existsSync(path)) return
  makeDirectory(dirname(path), prepareLevel)
  mkdirSync(path, { recursive: true })
  prepareLevel(path)
}

/** Creates all directories of TREE. True if they already existed. */
export function createCgroup(tree: CgroupTree): boolean {
  const existed = tree.directories.every(({ path }) => existsSync(path))
  for (const { path, controllers } of tree.directories) {
    if (tree.version === 1)
      makeDirectory(path, (level) => {
        if (controllers.includes('cpuset')) inheritCpuset(level)
      })
    else
      makeDirectory(path, (level) => {
        handDown(dirname(level), controllersOf(dirname(level)))
      }) // where it cannot, the limit that needs it fails
  }
  return existed
}

/** The directory of CONTROLLER in TREE. */
export function directoryFor(tree: CgroupTree, controller: string): string | undefined {
  return (
    tree.version === 2
      ? tree.directories[0]
      : tree.directories.find(({ controllers }) => controllers.includes(controller))
  )?.path
}

/**
 * The contents of FILE in DIRECTORY; undefined if the kernel has no such file, or the cgroup no longer
 * exists.
 */
export function readCgroupFile(directory: string, file: string): string | undefined {
  try {
    return readFileSync(join(directory, file), 'utf8')
  } catch (err) {
    if (['ENOENT', 'ENODEV', 'EOPNOTSUPP'].includes(codeOf(err))) return undefined
    throw err
  }
}

/** Throws Unsupported naming the file that refuses LIMIT. */
export function writeLimit(tree: CgroupTree, limit: LimitWrite): void {
  const directory = directoryFor(tree, limit.controller)
  if (directory === undefined)
    throw new Unsupported(
      `${limit.file} cannot be set: this host has no cgroup controller "${limit.controller}"`,
    )
  const { file, text } =
    limit.otherwise !== undefined && !existsSync(join(directory, limit.file)) ? limit.otherwise : limit
  write(directory, file, text)
}

function applyDevices(native: Native, tree: CgroupTree, resources: BundleResources): void {
  const rules = effectiveRules(resources.devices)
  if (tree.version === 2) return native.filterDevices(tree.directories[0]!.path, deviceProgram(rules))
  const directory = tree.directories.find(({ controllers }) => controllers.includes('devices'))
  if (!directory)
    throw new Unsupported('devices cannot be limited: this host has no cgroup controller "devices"')
  for (const rule of rules) {
    if (rule.type === 'a') write(directory.path, rule.allow ? 'devices.allow' : 'devices.deny', 'a')
    else write(directory.path, rule.allow ? 'devices.allow' : 'devices.deny', deviceLine(rule))
  }
}

/** Writes the limits; throws Unsupported naming the file that refuses one. */
export function limitCgroup(native: Native, tree: CgroupTree, resources: BundleResources): void {
  checkLimits(tree, resources)
  for (const limit of tree.version === 2 ? limitsV2(resources) : limitsV1(resources)) writeLimit(tree, limit)
  applyDevices(native, tree, resources)
}

/** Throws Unsupported for limits that no kernel has in cgroups of TREE's version. */
export function checkLimits(tree: CgroupTree, resources: BundleResources): void {
  const beyond = beyondCgroups(tree.version, resources)
  if (beyond.length > 0)
    throw new Unsupported(
      `${beyond.join(', ')} cannot be set: this host has cgroups of version ${tree.version}`,
    )
}

/** Calls USE with the files to join by (v1) or the directory's descriptor (v2). */
export function joinCgroup<T>(
  tree: CgroupTree,
  use: (join: { cgroupFd: number; cgroupTasks: readonly string[] }) => T,
): T {
  if (tree.version === 1)
    return use({ cgroupFd: -1, cgroupTasks: tree.directories.map(({ path }) => join(path, 'tasks')) })
  const cgroupFd = openSync(tree.directories[0]!.path, 'r')
  try {
    return use({ cgroupFd, cgroupTasks: [] })
  } finally {
    closeSync(cgroupFd)
  }
}

/** Directories of PATH and all below it, the deepest first. */
function below(path: string): string[] {
  try {
    return [
      ...readdirSync(path, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .flatMap((entry) => below(join(path, entry.name))),
      path,
    ]
  } catch (err) {
    // Removed, possibly by a concurrent command.
    if (codeOf(err) === 'ENOENT' || codeOf(err) === 'ENODEV') return []
    throw err
  }
}

/**
 * Writes a file that kills or thaws the processes of DIRECTORY, which may have been removed meanwhile.
 */
function writeIfThere(directory: string, file: string, text: string): void {
  try {
    write(directory, file, text)
  } catch (err) {
    if (existsSync(directory)) throw err
  }
}

/**
 * The hierarchy whose list of processes counts: v1 hierarchies can differ, and this runtime freezes through
 * the freezer.
 */
function leading(tree: CgroupTree): string {
  const directory =
    tree.directories.find(({ controllers }) => controllers.includes('freezer')) ??
    tree.directories.find(({ controllers }) => controllers.includes('memory')) ??
    tree.directories[0]!
  return directory.path
}

const pidsBelow = (top: string): number[] =>
  below(top).flatMap((path) =>
    (readCgroupFile(path, 'cgroup.procs') ?? '').split('\n').filter(Boolean).map(Number),
  )

/** The pids of all processes in TREE, in this pid namespace. */
export const pidsOf = (tree: CgroupTree): number[] => pidsBelow(leading(tree))

/** An existing directory with processes in it, of a TREE that is about to be created. */
export const occupiedDirectory = (tree: CgroupTree): string | undefined =>
  tree.directories.find(({ path }) => pidsBelow(path).length > 0)?.path

export function isFrozen(tree: CgroupTree): boolean {
  const text = readCgroupFile(leading(tree), tree.version === 2 ? 'cgroup.events' : 'freezer.state') ?? ''
  return tree.version === 2 ? /^frozen 1$/m.test(text) : text.trim() === 'FROZEN'
}

/** Freezes or thaws all of TREE; resolves when the kernel confirms it. */
export async function setFrozen(tree: CgroupTree, frozen: boolean): Promise<void> {
  const deadline = performance.now() + FREEZE_MAX_MS
  for (;;) {
    // v1 may stay FREEZING when a process forks at the wrong moment; writing again helps
    // (freezer-subsystem.rst).
    const [file, text] =
      tree.version === 2
        ? ['cgroup.freeze', frozen ? '1' : '0']
        : ['freezer.state', frozen ? 'FROZEN' : 'THAWED']
    if (frozen) write(leading(tree), file, text)
    else writeIfThere(leading(tree), file, text)
    if (isFrozen(tree) === frozen) return
    if (performance.now() > deadline) {
      if (frozen && tree.version === 1) write(leading(tree), 'freezer.state', 'THAWED')
      throw new Unsupported(
        `the kernel did not ${frozen ? 'freeze' : 'thaw'} ${leading(tree)} within ${FREEZE_MAX_MS / 1000} s`,
      )
    }
    await pause(POLL_MS)
  }
}

/**
 * Freezes TREE during KILL so that no process forks meanwhile. Processes that cannot be frozen (in vfork, in
 * uninterruptible sleep) do not prevent KILL.
 */
async function freezeFor(tree: CgroupTree, isKill: boolean): Promise<void> {
  try {
    await setFrozen(tree, true)
  } catch (err) {
    if (!isKill) throw err
  }
}

/** Sends SIGNAL to all processes in TREE. SIGKILL leaves none, even if they fork as fast as they can. */
export async function signalAll(tree: CgroupTree, signal: number): Promise<void> {
  const SIGKILL = 9
  if (signal === SIGKILL && tree.version === 2 && existsSync(join(leading(tree), 'cgroup.kill')))
    return writeIfThere(leading(tree), 'cgroup.kill', '1')
  const freeze = existsSync(leading(tree)) && !isFrozen(tree)
  try {
    if (freeze) await freezeFor(tree, signal === SIGKILL)
    for (const pid of pidsOf(tree)) {
      try {
        process.kill(pid, signal)
      } catch (err) {
        if (codeOf(err) !== 'ESRCH') throw err
      }
    }
  } finally {
    // A frozen v1 process ignores SIGKILL until it is thawed.
    if (freeze || (signal === SIGKILL && isFrozen(tree))) await setFrozen(tree, false)
  }
}

/**
 * Removes all directories of TREE, waiting for processes that are about to end. Throws Unsupported if a
 * process stays inside.
 */
export async function removeCgroup(tree: CgroupTree): Promise<void> {
  const deadline = performance.now() + REMOVE_MAX_MS
  for (const { path } of tree.directories) {
    for (const directory of below(path)) {
      while (!tryRemove(directory)) {
        if (performance.now() > deadline) throw new Unsupported(`the cgroup ${directory} is still in use`)
        await pause(POLL_MS)
      }
    }
  }
}

function tryRemove(directory: string): boolean {
  try {
    rmdirSync(directory)
    return true
  } catch (err) {
    if (codeOf(err) === 'ENOENT') return true
    if (codeOf(err) === 'EBUSY') return false
    throw err
  }
}
