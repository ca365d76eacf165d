// Cgroup v2 (kernel's Documentation/admin-guide/cgroup-v2.rst): one directory per container, entered
// at clone.  A cgroup with processes of its own cannot hand controllers to its children ("no internal
// processes"), so when ours is not the root, whoever is in it moves to a leaf beside the containers.

import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Usage } from '../contract/call-record.ts'
import { Unsupported } from '../contract/errors.ts'
import type { Resources } from '../contract/runtime-spec.ts'
import { V2_CONTROLLERS, type Cgroup, type CgroupDriver } from './cgroup.ts'
import { removeCgroup } from './cgroup-v1.ts'

const LEAF = 'wherry.leaf'
const MOVE_ROUNDS_MAX = 20

function isErrno (err: unknown, code: string): boolean {
  return err instanceof Error && (err as NodeJS.ErrnoException).code === code
}

function enableControllers (directory: string): void {
  writeFileSync(join(directory, 'cgroup.subtree_control'), V2_CONTROLLERS.map(name => `+${name}`).join(' '))
}

/** Move every process of DIRECTORY into its leaf; processes may fork meanwhile, hence the rounds. */
function vacate (directory: string): void {
  const leaf = join(directory, LEAF)
  mkdirSync(leaf, { recursive: true })
  for (let round = 0; round < MOVE_ROUNDS_MAX; round++) {
    const pids = readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)
    if (pids.length === 0) return
    for (const pid of pids) {
      try {
        writeFileSync(join(leaf, 'cgroup.procs'), pid)
      } catch (err) {
        if (!isErrno(err, 'ESRCH')) throw err // it ended before we came
      }
    }
  }
}

function delegate (directory: string): void {
  try {
    enableControllers(directory)
  } catch (err) {
    if (!isErrno(err, 'EBUSY')) throw err
    vacate(directory)
    enableControllers(directory)
  }
}

function applyLimits (directory: string, resources: Resources): void {
  writeFileSync(`${directory}/memory.max`, String(resources.memory.limit))
  try {
    writeFileSync(`${directory}/memory.swap.max`, '0')
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err // a kernel without swap accounting has no such file
  }
  // One process out of memory takes the whole container with it.
  writeFileSync(`${directory}/memory.oom.group`, '1')
  writeFileSync(`${directory}/cpu.max`, `${resources.cpu.quota} ${resources.cpu.period}`)
  writeFileSync(`${directory}/pids.max`, String(resources.pids.limit))
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

export function createV2Driver ({ directory, instance }: { directory: string, instance: string }): CgroupDriver {
  const root = join(directory, instance)
  try {
    mkdirSync(root, { recursive: true })
    delegate(directory)
    enableControllers(root)
  } catch (cause) {
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
      name,
      get fd () { return fd },
      tasks: [],
      onOom () {}, // the kernel kills the group itself (memory.oom.group)
      usage: () => readUsage(own),
      remove () {
        if (fd >= 0) closeSync(fd)
        fd = -1
        return removeCgroup(own)
      },
    }
  }

  return { layout: 'v2', roots: [root], create, close () { removeCgroup(root) } }
}
