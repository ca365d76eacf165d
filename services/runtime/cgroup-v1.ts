// Cgroup v1 (kernel's Documentation/admin-guide/cgroup-v1): a directory per controller's hierarchy,
// joined by the container's first process itself.  Also serves hybrid hosts, where v2 is mounted
// but has no controllers.  What v1 cannot do by itself, kill all of a cgroup at once when its memory
// is used up, comes from an event: the container's pid namespace dies with its first process.

import { closeSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Usage } from '../contract/call-record.ts'
import { Unsupported } from '../contract/errors.ts'
import type { Resources } from '../contract/runtime-spec.ts'
import { isErrno, removeCgroup, START_HEADROOM_BYTES, V1_CONTROLLERS, type Cgroup, type CgroupDriver, type HostCgroups } from './cgroup-driver.ts'
import { createV1Freezer } from './freezer.ts'
import type { Native } from './native.ts'

type Controller = typeof V1_CONTROLLERS[number]
type Directories = Readonly<Record<Controller, string>>

function number (path: string): number {
  return Number(readFileSync(path, 'utf8'))
}

/** Some kernels have no accounting of swap or of kernel memory, and no files for it. */
function writeIfThere (path: string, value: number): void {
  try {
    writeFileSync(path, String(value))
  } catch (err) {
    if (!isErrno(err, 'ENOENT', 'EACCES', 'ENOTSUP')) throw err
  }
}

/** memsw (memory and swap) may never be below memory: hence two orders, one to begin with and one to come down. */
function setMemoryLimit (dirs: Directories, limit: number): void {
  writeFileSync(`${dirs.memory}/memory.limit_in_bytes`, String(limit))
  writeIfThere(`${dirs.memory}/memory.memsw.limit_in_bytes`, limit)
}

function applyLimits (dirs: Directories, resources: Resources): void {
  const { limit } = resources.memory
  setMemoryLimit(dirs, limit + START_HEADROOM_BYTES)
  writeIfThere(`${dirs.memory}/memory.kmem.tcp.limit_in_bytes`, limit)
  writeFileSync(`${dirs.cpu}/cpu.cfs_period_us`, String(resources.cpu.period))
  writeFileSync(`${dirs.cpu}/cpu.cfs_quota_us`, String(resources.cpu.quota))
  writeFileSync(`${dirs.pids}/pids.max`, String(resources.pids.limit))
}

function readUsage (dirs: Directories): Usage {
  const oomKills = /^oom_kill (\d+)$/m.exec(readFileSync(`${dirs.memory}/memory.oom_control`, 'utf8'))
  return {
    cpuMs: number(`${dirs.cpuacct}/cpuacct.usage`) / 1e6,
    memoryPeakBytes: number(`${dirs.memory}/memory.max_usage_in_bytes`),
    oomKills: Number(oomKills?.[1] ?? 0),
  }
}

/** Calls LISTENER once when the memory cgroup at DIRECTORY is used up; the function returned ends the watch, twice is no harm. */
function watchOom (native: Native, directory: string, listener: () => void): () => void {
  const fd = native.watchOom(directory)
  let watching = true
  const end = (): void => {
    if (!watching) return
    watching = false
    stop()
    closeSync(fd)
  }
  const stop = native.onReadable(fd, () => { end(); listener() })
  return end
}

export function createV1Driver ({ native, host, instance }: { native: Native, host: HostCgroups, instance: string }): CgroupDriver {
  const roots = Object.fromEntries(V1_CONTROLLERS.map(name => [name, join(host.v1.get(name)!, instance)])) as Directories
  // cpu and cpuacct are often one hierarchy; each directory is made and joined once.
  const distinct = [...new Set(Object.values(roots))]
  const freezer = host.v1.get('freezer')
  const freezerRoot = freezer === undefined ? undefined : join(freezer, instance)
  const all = freezerRoot === undefined ? distinct : [...new Set([...distinct, freezerRoot])]
  for (const root of all) {
    try {
      mkdirSync(root, { recursive: true })
    } catch (cause) {
      throw new Unsupported(`cannot make the cgroup ${root}; the worker needs to be root on a host with writable cgroups`, cause)
    }
  }

  function create (name: string, resources: Resources): Cgroup {
    const directories = distinct.map(root => join(root, name))
    const dirs = Object.fromEntries(V1_CONTROLLERS.map(c => [c, join(roots[c], name)])) as Directories
    let onOom = (): void => {}
    let endOomWatch: () => void
    try {
      for (const directory of directories) mkdirSync(directory)
      applyLimits(dirs, resources)
      endOomWatch = watchOom(native, dirs.memory, () => onOom())
    } catch (err) {
      for (const directory of directories) removeCgroup(directory)
      throw err
    }
    const { freeze, thaw, directories: frozenIn } = createV1Freezer(freezerRoot && join(freezerRoot, name), dirs.pids)
    return {
      freeze,
      thaw,
      name,
      fd: -1,
      tasks: directories.map(directory => `${directory}/tasks`),
      onOom (listener) { onOom = listener },
      started () {
        try {
          setMemoryLimit(dirs, resources.memory.limit)
        } catch (err) {
          if (!isErrno(err, 'EBUSY')) throw err
          onOom() // it uses more already, and nothing of it can be reclaimed
        }
      },
      usage: () => readUsage(dirs),
      remove () {
        endOomWatch()
        return [...directories, ...frozenIn].map(removeCgroup).every(Boolean)
      },
    }
  }

  return {
    layout: host.layout,
    roots: all,
    create,
    close () { for (const root of all) removeCgroup(root) },
  }
}
