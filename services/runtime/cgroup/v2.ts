// Cgroup v2 (kernel's Documentation/admin-guide/cgroup-v2.rst): one directory per container, entered at
// clone. A cgroup with processes of its own cannot hand controllers to its children ("no internal
// processes"), so unless ours is the root, its processes move to a leaf beside the containers, and back when
// the last worker ends.

import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Usage } from '../../contract/call-record.ts'
import { Unsupported } from '../../contract/errors.ts'
import type { Resources } from '../../contract/runtime-spec.ts'
import {
  hasFile,
  isErrno,
  makeCgroup,
  removeCgroup,
  START_HEADROOM_BYTES,
  V2_CONTROLLERS,
  V2_COUNTERS,
  type Announce,
  type Cgroup,
  type CgroupDriver,
} from './driver.ts'
import { LEAF } from './host.ts'
import { parseV2 } from './usage.ts'
import { createV2Freezer } from './freezer.ts'
import { filesToRead, filesToWrite, type Native } from '../native.ts'

const CLAIM_ROUNDS_MAX = 20
/** Controllers that can distinguish threads. */
const THREADED: readonly string[] = ['cpu', 'cpuset', 'pids', 'perf_event']

/** Writes TEXT to an existing FILE; with O_CREAT the kernel would return EACCES for a missing one. */
function write(file: string, text: string): void {
  writeFileSync(file, text, { flag: 'r+' })
}

export const controllersOf = (directory: string): string[] =>
  readFileSync(join(directory, 'cgroup.controllers'), 'utf8').split(/\s+/).filter(Boolean)

/**
 * Enables for the children of DIRECTORY the controllers of limits and, where present, those of accounting.
 */
function giveControllers(directory: string): void {
  const counters = V2_COUNTERS.filter((name) => controllersOf(directory).includes(name))
  write(
    join(directory, 'cgroup.subtree_control'),
    [...V2_CONTROLLERS, ...counters].map((name) => `+${name}`).join(' '),
  )
}

/** Also those that another program enabled: a cgroup with any enabled can hold no process. */
function takeControllersBack(directory: string): void {
  const file = join(directory, 'cgroup.subtree_control')
  const given = readFileSync(file, 'utf8').split(/\s+/).filter(Boolean)
  if (given.length > 0) write(file, given.map((name) => `-${name}`).join(' '))
}

/** Moves every process of FROM to TO. Those that fork meanwhile may leave a child behind. */
function moveProcesses(from: string, to: string): void {
  for (const pid of readFileSync(join(from, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)) {
    try {
      write(join(to, 'cgroup.procs'), pid)
    } catch (err) {
      if (!isErrno(err, 'ESRCH')) throw err // it ended before
    }
  }
}

/** Enables the controllers for DIRECTORY's children and for those of ROOT, one of them. */
function claim(directory: string, root: string): void {
  for (let round = 1; ; round++) {
    try {
      giveControllers(directory)
      giveControllers(root)
      return
    } catch (err) {
      // EBUSY: a process is in it. ENOENT: a worker that is ending has just disabled the controllers.
      if (round === CLAIM_ROUNDS_MAX || !isErrno(err, 'EBUSY', 'ENOENT')) throw err
      if (isErrno(err, 'ENOENT')) continue
    }
    mkdirSync(join(directory, LEAF), { recursive: true })
    moveProcesses(directory, join(directory, LEAF))
  }
}

/**
 * Restores DIRECTORY, unless it has children beside the leaf: cgroups of another worker or of a foreign
 * container (of wherry-oci, for example), which would lose their limits.
 */
function unclaim(directory: string): void {
  const leaf = join(directory, LEAF)
  if (
    !existsSync(leaf) ||
    readdirSync(directory, { withFileTypes: true }).some(
      (entry) => entry.isDirectory() && entry.name !== LEAF,
    )
  )
    return
  try {
    takeControllersBack(directory)
    moveProcesses(leaf, directory)
  } catch (err) {
    // EBUSY: the controllers are in use below.  ENOENT: another worker was faster.
    if (!isErrno(err, 'EBUSY', 'ENOENT')) throw err
  }
  removeCgroup(leaf)
}

/**
 * Whether processes in DIRECTORY itself prevent controllers for its children. The root, which has no
 * cgroup.type, may have both.
 */
function isOccupied(directory: string): boolean {
  if (!hasFile(directory, 'cgroup.type')) return false
  try {
    return readFileSync(join(directory, 'cgroup.procs'), 'utf8') !== ''
  } catch (err) {
    if (isErrno(err, 'ENOTSUP')) return true // it contains threads
    throw err
  }
}

/**
 * Enables CONTROLLERS for the children of DIRECTORY, as far as it has them and is writable. In a cgroup with
 * processes none is enabled: it would accept those that can distinguish threads and become a threaded domain,
 * whose other children can never have processes or controllers (cgroup-v2.rst, Threads). Those come last, so
 * that a process in the cgroup fails the others first.
 */
export function handDown(directory: string, controllers: readonly string[]): void {
  if (isOccupied(directory)) return
  for (const name of [...controllers].sort(
    (a, b) => Number(THREADED.includes(a)) - Number(THREADED.includes(b)),
  )) {
    try {
      write(join(directory, 'cgroup.subtree_control'), `+${name}`)
    } catch (err) {
      if (isErrno(err, 'EBUSY', 'ENOTSUP')) return
      // EINVAL: disabled on the kernel's command line.
      if (!isErrno(err, 'EINVAL', 'ENOENT', 'EACCES', 'EPERM', 'EROFS')) throw err
    }
  }
}

/** Enables the controllers from TOP down to DIRECTORY, where a service manager has not done so. */
export function offerControllers(top: string, directory: string): void {
  if (directory === top) return
  offerControllers(top, dirname(directory))
  handDown(dirname(directory), [...V2_CONTROLLERS, ...V2_COUNTERS])
}

/** Files that not every kernel has. */
interface Optional {
  readonly swap: boolean
  readonly memoryPeak: boolean
  readonly pidsPeak: boolean
  readonly io: boolean
}

function limitFiles(directory: string, { swap }: Optional, { memory, cpu, pids }: Resources) {
  return {
    first: filesToWrite([
      [`${directory}/memory.max`, String(memory.limit + START_HEADROOM_BYTES)],
      ...(swap ? [[`${directory}/memory.swap.max`, '0'] as const] : []),
      // When memory runs out, the kernel kills the whole container.
      [`${directory}/memory.oom.group`, '1'],
      [`${directory}/cpu.max`, `${cpu.quota} ${cpu.period}`],
      [`${directory}/pids.max`, String(pids.limit)],
    ]),
    started: filesToWrite([[`${directory}/memory.max`, String(memory.limit)]]),
  }
}

/**
 * memory.peak came with Linux 5.19, pids.peak with 6.1; before 5.19 the usage at the end stands in for the
 * peak.
 */
function createAccount(
  native: Native,
  directory: string,
  { memoryPeak, pidsPeak, io }: Optional,
): () => Usage {
  const files = filesToRead([
    `${directory}/cpu.stat`,
    `${directory}/memory.events`,
    `${directory}/memory.${memoryPeak ? 'peak' : 'current'}`,
    ...(pidsPeak ? [`${directory}/pids.peak`] : []),
    ...(io ? [`${directory}/io.stat`] : []),
  ])
  return () => {
    const texts = native.readFiles(files)
    const [cpuStat = '', events = '', peak = ''] = texts
    return parseV2({
      cpuStat,
      events,
      memoryPeak: peak,
      pidsPeak: pidsPeak ? texts[3] : undefined,
      io: io ? texts.at(-1) : undefined,
    })
  }
}

export interface V2Deps {
  readonly native: Native
  readonly directory: string
  readonly layout: 'v2' | 'hybrid'
  readonly instance: string
  readonly announce: Announce
}

export function createV2Driver({ native, directory, layout, instance, announce }: V2Deps): CgroupDriver {
  const root = join(directory, instance)
  announce([root])
  try {
    mkdirSync(root, { recursive: true })
    claim(directory, root)
  } catch (cause) {
    if (existsSync(root)) removeCgroup(root)
    throw new Unsupported(
      `cannot hand cgroup controllers (${V2_CONTROLLERS.join(', ')}) to ${root}; under systemd the unit needs Delegate=yes`,
      cause,
    )
  }

  const optional = {
    swap: hasFile(root, 'memory.swap.max'),
    memoryPeak: hasFile(root, 'memory.peak'),
    pidsPeak: hasFile(root, 'pids.peak'),
    io: controllersOf(root).includes('io'),
  }

  function create(name: string, resources: Resources): Cgroup {
    const own = join(root, name)
    const limits = limitFiles(own, optional, resources)
    makeCgroup(own)
    try {
      native.writeFiles(limits.first)
    } catch (err) {
      removeCgroup(own)
      throw err
    }
    let fd = openSync(own, 'r')
    return {
      ...createV2Freezer(own),
      name,
      get fd() {
        return fd
      },
      tasks: [],
      started: () => native.writeFiles(limits.started),
      onOom() {}, // the kernel kills the whole group (memory.oom.group)
      usage: createAccount(native, own, optional),
      remove() {
        if (fd >= 0) closeSync(fd)
        fd = -1
        return removeCgroup(own)
      },
    }
  }

  return {
    layout,
    roots: [root],
    create,
    close() {
      removeCgroup(root)
      unclaim(directory)
    },
  }
}
