// Cgroup v2 (kernel's Documentation/admin-guide/cgroup-v2.rst): one directory per container, entered
// at clone.  A cgroup with processes of its own cannot hand controllers to its children ("no internal
// processes"), so when ours is not the root, whoever is in it moves to a leaf beside the containers,
// and back when the last worker ends.

import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Usage } from '../contract/call-record.ts'
import { Unsupported } from '../contract/errors.ts'
import type { Resources } from '../contract/runtime-spec.ts'
import { isErrno, removeCgroup, START_HEADROOM_BYTES, V2_CONTROLLERS, type Cgroup, type CgroupDriver } from './cgroup-driver.ts'
import { LEAF } from './cgroup-host.ts'
import { createV2Freezer } from './freezer.ts'

const CLAIM_ROUNDS_MAX = 20

/** Write TEXT to FILE, which exists: with O_CREAT the kernel would say EACCES where it means ENOENT. */
function write (file: string, text: string): void {
  writeFileSync(file, text, { flag: 'r+' })
}

function setControllers (directory: string, sign: '+' | '-'): void {
  write(join(directory, 'cgroup.subtree_control'), V2_CONTROLLERS.map(name => sign + name).join(' '))
}

/** Move every process of FROM to TO.  Those that fork meanwhile may leave a child behind. */
function moveProcesses (from: string, to: string): void {
  for (const pid of readFileSync(join(from, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)) {
    try {
      write(join(to, 'cgroup.procs'), pid)
    } catch (err) {
      if (!isErrno(err, 'ESRCH')) throw err // it ended before we came
    }
  }
}

/** Hand the controllers to DIRECTORY's children and to those of ROOT, one of them. */
function claim (directory: string, root: string): void {
  for (let round = 1; ; round++) {
    try {
      setControllers(directory, '+')
      setControllers(root, '+')
      return
    } catch (err) {
      // EBUSY: somebody is in it.  ENOENT: a worker that ends took the controllers back just now.
      if (round === CLAIM_ROUNDS_MAX || !isErrno(err, 'EBUSY', 'ENOENT')) throw err
      if (isErrno(err, 'ENOENT')) continue
    }
    mkdirSync(join(directory, LEAF), { recursive: true })
    moveProcesses(directory, join(directory, LEAF))
  }
}

/** Leave DIRECTORY as it was found, unless another worker's containers are below it. */
function unclaim (directory: string): void {
  const leaf = join(directory, LEAF)
  if (!existsSync(leaf)) return
  try {
    setControllers(directory, '-')
    moveProcesses(leaf, directory)
  } catch (err) {
    // EBUSY: the controllers are in use below.  ENOENT: another worker was quicker.
    if (!isErrno(err, 'EBUSY', 'ENOENT')) throw err
  }
  removeCgroup(leaf)
}

/** Offer the controllers to DIRECTORY, from TOP downwards, where a service manager has not done so.
 * A place that refuses (it has processes, or is not ours to write) offers no more than before. */
export function offerControllers (top: string, directory: string): void {
  if (directory === top) return
  offerControllers(top, dirname(directory))
  for (const name of V2_CONTROLLERS) {
    try {
      write(join(dirname(directory), 'cgroup.subtree_control'), `+${name}`)
    } catch (err) {
      // EINVAL: switched off on the kernel's command line.
      if (!isErrno(err, 'EBUSY', 'EINVAL', 'ENOENT', 'EACCES', 'EPERM', 'EROFS', 'ENOTSUP')) throw err
    }
  }
}

function applyLimits (directory: string, resources: Resources): void {
  write(`${directory}/memory.max`, String(resources.memory.limit + START_HEADROOM_BYTES))
  try {
    write(`${directory}/memory.swap.max`, '0')
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err // a kernel without swap accounting has no such file
  }
  // One process out of memory takes the whole container with it.
  write(`${directory}/memory.oom.group`, '1')
  write(`${directory}/cpu.max`, `${resources.cpu.quota} ${resources.cpu.period}`)
  write(`${directory}/pids.max`, String(resources.pids.limit))
}

function field (text: string, name: string): number {
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0)
}

function memoryPeak (directory: string): number {
  try {
    return Number(readFileSync(`${directory}/memory.peak`, 'utf8'))
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err // before Linux 5.19
    return Number(readFileSync(`${directory}/memory.current`, 'utf8'))
  }
}

function readUsage (directory: string): Usage {
  return {
    cpuMs: field(readFileSync(`${directory}/cpu.stat`, 'utf8'), 'usage_usec') / 1000,
    memoryPeakBytes: memoryPeak(directory),
    oomKills: field(readFileSync(`${directory}/memory.events`, 'utf8'), 'oom_kill'),
  }
}

export function createV2Driver ({ directory, layout, instance }: { directory: string, layout: 'v2' | 'hybrid', instance: string }): CgroupDriver {
  const root = join(directory, instance)
  try {
    mkdirSync(root, { recursive: true })
    claim(directory, root)
  } catch (cause) {
    if (existsSync(root)) removeCgroup(root)
    throw new Unsupported(`cannot hand cgroup controllers (${V2_CONTROLLERS.join(', ')}) to ${root}; under systemd the unit needs Delegate=yes`, cause)
  }

  function create (name: string, resources: Resources): Cgroup {
    const own = join(root, name)
    mkdirSync(own)
    try {
      applyLimits(own, resources)
    } catch (err) {
      removeCgroup(own)
      throw err
    }
    let fd = openSync(own, 'r')
    return {
      ...createV2Freezer(own),
      name,
      get fd () { return fd },
      tasks: [],
      started: () => write(`${own}/memory.max`, String(resources.memory.limit)),
      onOom () {}, // the kernel kills the group itself (memory.oom.group)
      usage: () => readUsage(own),
      remove () {
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
    close () {
      removeCgroup(root)
      unclaim(directory)
    },
  }
}
