// Cgroup v1 (kernel's Documentation/admin-guide/cgroup-v1): a directory per controller's hierarchy, joined by
// the container's first process itself. Also for hybrid hosts, where v2 is mounted without controllers. v1
// cannot kill a whole cgroup when it runs out of memory, so an event tells the worker, which kills the first
// process and with it the pid namespace.
//
// Four or five directories are slow to create and to remove, so a cgroup in which nothing is left serves the
// next container: see renew().

import { closeSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Usage } from '../../contract/call-record.ts'
import { Unsupported } from '../../contract/errors.ts'
import type { Resources } from '../../contract/runtime-spec.ts'
import { diskOf } from './block-device.ts'
import {
  hasFile,
  isErrno,
  makeCgroup,
  removeCgroup,
  START_HEADROOM_BYTES,
  V1_CONTROLLERS,
  type Announce,
  type Cgroup,
  type CgroupDriver,
  type HostCgroups,
} from './driver.ts'
import { parseV1, usageSince } from './usage.ts'
import { createV1Freezer } from './freezer.ts'
import { isKernelAtLeast } from '../kernel.ts'
import { filesToRead, filesToWrite, type Native } from '../native.ts'

type Controller = (typeof V1_CONTROLLERS)[number]
/** blkio is for accounting only: a host without it does not count io. */
type Directories = Readonly<Record<Controller, string> & { blkio?: string }>

/** Files that not every kernel has. */
interface Optional {
  readonly memsw: boolean
  readonly tcp: boolean
  readonly pidsPeak: boolean
  /**
   * "MAJOR:MINOR" of a disk whose io is counted only for cgroups with a limit for it: kernels before
   * IO_COUNTS.
   */
  readonly limitedDisk: string | undefined
}

/**
 * The first kernel known to count without a limit; 6.1 counts only with one (blk_throtl_bio() in
 * block/blk-throttle.h).
 */
const IO_COUNTS = [6, 6] as const
/** Bytes per second that no disk reaches. */
const IO_NEVER = 2 ** 50

/**
 * The most that a cgroup may still be charged with when it is reused: what the kernel precharges for each of
 * a few CPUs (MEMCG_CHARGE_BATCH, 64 pages). More is page cache, which would count for the next container.
 */
const RESIDUE_MAX_BYTES = 256 * 1024

/** Some kernels do not account swap or socket memory, and lack the files. */
function takesNumbers(file: string): boolean {
  try {
    writeFileSync(file, '-1', { flag: 'r+' })
    return true
  } catch (err) {
    if (!isErrno(err, 'ENOENT', 'EACCES', 'ENOTSUP')) throw err
    return false
  }
}

/**
 * The disk of FOLDER, made to count io; undefined if there is none. Since Linux 6.10 a disk counts no io
 * before a first limit is set for it; "none" is one.
 */
function countIo(blkio: string, folder: string): string | undefined {
  const disk = diskOf(folder)
  try {
    if (disk !== undefined)
      writeFileSync(join(blkio, 'blkio.throttle.read_bps_device'), `${disk} 0`, { flag: 'r+' })
    return disk
  } catch (err) {
    if (!isErrno(err, 'ENOENT', 'ENODEV', 'EINVAL', 'EOPNOTSUPP', 'ENOTSUP')) throw err
    return undefined
  }
}

type Pairs = Array<readonly [string, string]>

/** memsw (memory plus swap) may never be below memory: hence two orders, one to raise and one to lower. */
function memoryLimit(dirs: Directories, { memsw }: Optional, limit: number, direction: 'up' | 'down'): Pairs {
  const memory = [`${dirs.memory}/memory.limit_in_bytes`, String(limit)] as const
  if (!memsw) return [memory]
  const both = [memory, [`${dirs.memory}/memory.memsw.limit_in_bytes`, String(limit)] as const]
  return direction === 'down' ? both : both.toReversed()
}

function limitFiles(dirs: Directories, optional: Optional, { memory: { limit }, cpu, pids }: Resources) {
  const quota = [`${dirs.cpu}/cpu.cfs_quota_us`, String(cpu.quota)] as const
  const pidsMax = [`${dirs.pids}/pids.max`, String(pids.limit)] as const
  return {
    first: filesToWrite([
      ...memoryLimit(dirs, optional, limit + START_HEADROOM_BYTES, 'down'),
      ...(optional.tcp ? [[`${dirs.memory}/memory.kmem.tcp.limit_in_bytes`, String(limit)] as const] : []),
      [`${dirs.cpu}/cpu.cfs_period_us`, String(cpu.period)],
      quota,
      pidsMax,
      ...(optional.limitedDisk === undefined
        ? []
        : ['read', 'write'].map(
            (way) =>
              [
                `${dirs.blkio}/blkio.throttle.${way}_bps_device`,
                `${optional.limitedDisk} ${IO_NEVER}`,
              ] as const,
          )),
    ]),
    // Write the quota again: what the last container used of the current period must not count for the next.
    again: filesToWrite([
      ...memoryLimit(dirs, optional, limit + START_HEADROOM_BYTES, 'up'),
      quota,
      [`${dirs.memory}/memory.max_usage_in_bytes`, '0'],
    ]),
    pids: filesToWrite([pidsMax]),
    started: filesToWrite(memoryLimit(dirs, optional, limit, 'down')),
  }
}

function createAccount(native: Native, dirs: Directories, optional: Optional) {
  const files = [
    `${dirs.cpuacct}/cpuacct.usage`,
    `${dirs.memory}/memory.oom_control`,
    `${dirs.cpu}/cpu.stat`,
    `${dirs.memory}/memory.max_usage_in_bytes`,
    ...(optional.pidsPeak ? [`${dirs.pids}/pids.peak`] : []),
    ...(dirs.blkio === undefined ? [] : [`${dirs.blkio}/blkio.throttle.io_service_bytes`]),
  ]
  const usageFiles = filesToRead(files)
  const stateFiles = filesToRead([
    `${dirs.memory}/memory.usage_in_bytes`,
    `${dirs.memory}/memory.failcnt`,
    ...files,
  ])
  function parse(texts: readonly string[]): Usage {
    const [cpuacct = '', oomControl = '', cpuStat = '', memoryPeak = ''] = texts
    const io = dirs.blkio === undefined ? undefined : texts.at(-1)
    return parseV1({
      cpuacct,
      oomControl,
      cpuStat,
      memoryPeak,
      pidsPeak: optional.pidsPeak ? texts[4] : undefined,
      io,
    })
  }
  return {
    usage: (): Usage => parse(native.readFiles(usageFiles)),
    /** Includes the current charge and how often the limit was hit. */
    state() {
      const [charged, hits, ...texts] = native.readFiles(stateFiles)
      return { chargedBytes: Number(charged), limitHits: Number(hits), usage: parse(texts) }
    },
  }
}

interface OomWatch {
  readonly ended: () => boolean
  readonly end: () => void
}

/** Calls LISTENER once when the memory cgroup at DIRECTORY runs out; stopping it twice is harmless. */
function watchOom(native: Native, directory: string, listener: () => void): OomWatch {
  const fd = native.watchOom(directory)
  let ended = false
  const end = (): void => {
    if (ended) return
    ended = true
    stop()
    closeSync(fd)
  }
  const stop = native.onReadable(fd, () => {
    end()
    listener()
  })
  return { ended: () => ended, end }
}

interface V1Place {
  readonly roots: Directories
  readonly freezerRoot: string | undefined
  readonly optional: Optional
}

function createCgroup(
  native: Native,
  { roots, freezerRoot, optional }: V1Place,
  name: string,
  resources: Resources,
): Cgroup {
  const dirs = Object.fromEntries(
    Object.entries(roots).map(([controller, root]) => [controller, join(root, name)]),
  ) as Directories
  const directories = [...new Set(Object.values(dirs))]
  const pidsIsAlone = Object.values(dirs).filter((directory) => directory === dirs.pids).length === 1
  const limits = limitFiles(dirs, optional, resources)
  const account = createAccount(native, dirs, optional)
  let before: Usage | undefined
  let onOom = (): void => {}
  let oomWatch: OomWatch
  try {
    for (const directory of directories) makeCgroup(directory)
    native.writeFiles(limits.first)
    oomWatch = watchOom(native, dirs.memory, () => onOom())
  } catch (err) {
    for (const directory of directories) removeCgroup(directory)
    throw err
  }
  const {
    freeze,
    thaw,
    directories: frozenIn,
  } = createV1Freezer(freezerRoot && join(freezerRoot, name), dirs.pids)

  /**
   * The peak of pids cannot be reset. It is at least one process, so only a higher one needs a new directory.
   */
  function renewPids(): boolean {
    if (!pidsIsAlone || !removeCgroup(dirs.pids)) return false
    makeCgroup(dirs.pids)
    native.writeFiles(limits.pids)
    return true
  }

  return {
    freeze,
    thaw,
    name,
    fd: -1,
    tasks: directories.map((directory) => `${directory}/tasks`),
    onOom(listener) {
      onOom = listener
    },
    started() {
      try {
        native.writeFiles(limits.started)
      } catch (err) {
        if (!isErrno(err, 'EBUSY')) throw err
        onOom() // it already uses more, and nothing can be reclaimed
      }
    },
    usage() {
      const usage = account.usage()
      return before === undefined ? usage : usageSince(usage, before)
    },
    renew() {
      const { chargedBytes, limitHits, usage } = account.state()
      // After a hit limit a pending event could kill the next container.
      if (
        oomWatch.ended() ||
        limitHits > 0 ||
        usage.oomKills > 0 ||
        frozenIn.length > 0 ||
        chargedBytes > RESIDUE_MAX_BYTES
      )
        return false
      if ((usage.pidsPeak ?? 1) > 1 && !renewPids()) return false
      native.writeFiles(limits.again)
      before = usage
      onOom = () => {}
      return true
    },
    remove() {
      oomWatch.end()
      return [...directories, ...frozenIn].map(removeCgroup).every(Boolean)
    },
  }
}

/**
 * Creates the directories of this process in each hierarchy, after a call of ANNOUNCE; blkio's only where the
 * disk of FOLDER counts.
 */
function makeRoots({ host, instance, folder, announce }: Omit<V1Deps, 'native'>) {
  const rootIn = (controller: string): string | undefined => {
    const directory = host.v1.get(controller)
    return directory === undefined ? undefined : join(directory, instance)
  }
  const roots = Object.fromEntries(V1_CONTROLLERS.map((name) => [name, rootIn(name)!])) as Directories
  const [freezerRoot, blkio] = [rootIn('freezer'), rootIn('blkio')]
  // cpu and cpuacct are often one hierarchy; each directory is created and joined once.
  const all = [...new Set([...Object.values(roots), freezerRoot, blkio])].filter((root) => root !== undefined)
  announce(all)
  for (const root of all) {
    try {
      mkdirSync(root, { recursive: true })
    } catch (cause) {
      for (const made of all) removeCgroup(made)
      throw new Unsupported(
        `cannot create the cgroup ${root}; the worker needs to be root on a host with writable cgroups`,
        cause,
      )
    }
  }
  const disk = blkio === undefined ? undefined : countIo(blkio, folder)
  return {
    roots: blkio === undefined || disk === undefined ? roots : { ...roots, blkio },
    disk,
    freezerRoot,
    all,
  }
}

export interface V1Deps {
  readonly native: Native
  readonly host: HostCgroups
  readonly instance: string
  readonly folder: string
  readonly announce: Announce
}

export function createV1Driver({ native, ...deps }: V1Deps): CgroupDriver {
  const { host } = deps
  const { roots, disk, freezerRoot, all } = makeRoots(deps)
  const optional = {
    memsw: takesNumbers(join(roots.memory, 'memory.memsw.limit_in_bytes')),
    tcp: takesNumbers(join(roots.memory, 'memory.kmem.tcp.limit_in_bytes')),
    pidsPeak: hasFile(roots.pids, 'pids.peak'),
    limitedDisk: isKernelAtLeast(...IO_COUNTS) ? undefined : disk,
  }
  return {
    layout: host.layout,
    roots: all,
    create: (name, resources) => createCgroup(native, { roots, freezerRoot, optional }, name, resources),
    close() {
      for (const root of all) removeCgroup(root)
    },
  }
}
