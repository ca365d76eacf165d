// Removes what a dead worker left behind. Almost everything of a container disappears with the process that
// started it: namespaces, mounts, scratch space and id ranges are held by descriptors and by processes that
// die with the worker. Only cgroup directories stay. Each worker registers its directories in the data
// folder, under a name that identifies its process; the next worker with the same data folder removes those
// whose process is gone, and no others.

import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { startTimeOf } from '../platform/process-identity.ts'
import { isErrno, removeCgroup } from './cgroup/driver.ts'

const INSTANCE = /^wherry-(\d{1,10})-(\d{1,20})$/
const REGISTER = 'cgroups.json'
/** ENODEV: the cgroup was removed after its file was opened; two workers may sweep at once. */
const NOT_THERE = ['ENOENT', 'ENODEV'] as const
const KILL_ROUNDS_MAX = 50
const KILL_PAUSE_MS = 10

/** A name for this process that no later one gets (until the next boot). */
export function instanceName(): string {
  return `wherry-${process.pid}-${startTimeOf(process.pid)}`
}

function isAlive(instance: string): boolean {
  const match = INSTANCE.exec(instance)
  return match !== null && startTimeOf(Number(match[1])) === match[2]
}

function listOrEmpty(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
  } catch {
    return []
  }
}

function pidsIn(cgroup: string): number[] {
  try {
    return readFileSync(join(cgroup, 'cgroup.procs'), 'utf8')
      .split('\n')
      .map(Number)
      .filter((pid) => pid > 0)
  } catch {
    return []
  }
}

/** v2 kills a cgroup and all below it at once (cgroup.kill, Linux 5.14); v1 has no such file. */
function killAll(cgroup: string): void {
  try {
    return writeFileSync(join(cgroup, 'cgroup.kill'), '1', { flag: 'r+' })
  } catch (err) {
    if (!isErrno(err, ...NOT_THERE)) throw err
  }
  for (const pid of pidsIn(cgroup)) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err // it has already ended
    }
  }
}

/** On v1 a frozen process does not die of SIGKILL until it is thawed. */
function thaw(cgroup: string): void {
  try {
    writeFileSync(join(cgroup, 'freezer.state'), 'THAWED', { flag: 'r+' })
  } catch (err) {
    if (!isErrno(err, ...NOT_THERE)) throw err // it is in another hierarchy
  }
}

/** Kills what is still in CGROUP and removes it; false if that did not work in time. */
async function clear(cgroup: string): Promise<boolean> {
  for (let round = 0; round < KILL_ROUNDS_MAX; round++) {
    thaw(cgroup)
    killAll(cgroup)
    if (removeCgroup(cgroup)) return true
    await new Promise((resolve) => {
      setTimeout(resolve, KILL_PAUSE_MS)
    })
  }
  return false
}

export interface Sweep {
  readonly instances: number
  readonly cgroups: number
  readonly stuck: readonly string[]
}

/** Removes what dead workers with this RUN_DIR left. */
export async function sweepDead(runDir: string): Promise<Sweep> {
  let cgroups = 0
  const stuck: string[] = []
  const dead = listOrEmpty(runDir).filter((name) => INSTANCE.test(name) && !isAlive(name))
  for (const name of dead) {
    const roots = readRegister(join(runDir, name, REGISTER)).filter((path) => path.endsWith(`/${name}`))
    // All of them first: a process that is frozen in one hierarchy cannot leave the others.
    for (const root of roots) {
      for (const child of listOrEmpty(root)) {
        killAll(join(root, child))
        thaw(join(root, child))
      }
    }
    for (const root of roots) {
      for (const child of listOrEmpty(root)) {
        if (await clear(join(root, child))) cgroups++
        else stuck.push(join(root, child))
      }
      if (!(await clear(root))) stuck.push(root)
    }
    if (stuck.length === 0) rmSync(join(runDir, name), { recursive: true, force: true })
  }
  return { instances: dead.length, cgroups, stuck }
}

/**
 * The roots in a register; none if it is missing or truncated by a crash of the machine (which removed the
 * cgroups, too).
 */
function readRegister(path: string): string[] {
  try {
    const roots: unknown = JSON.parse(readFileSync(path, 'utf8'))
    return Array.isArray(roots) ? roots.filter((root) => typeof root === 'string') : []
  } catch {
    return []
  }
}

/** Creates INSTANCE's folder in RUN_DIR and registers its cgroup ROOTS there, before they are created. */
export function registerInstance(runDir: string, instance: string, roots: readonly string[]): void {
  const directory = join(runDir, instance)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const draft = join(directory, `${REGISTER}.new`)
  writeFileSync(draft, JSON.stringify(roots))
  renameSync(draft, join(directory, REGISTER))
}

/** Removes the register of a worker that ends in order. */
export function forgetInstance(runDir: string, instance: string): void {
  rmSync(join(runDir, instance), { recursive: true, force: true })
}
