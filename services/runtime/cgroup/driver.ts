// What a cgroup driver is: the one interface, the numbers and the removal that both drivers (v1, v2) share.
// Knows no hierarchy; whoever has a cgroup in hand needs only this file.

import { existsSync, mkdirSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Usage } from '../../contract/call-record.ts'
import { SyscallError } from '../../contract/errors.ts'
import type { Resources } from '../../contract/runtime-spec.ts'
import type { Freezer } from './freezer.ts'

export interface Cgroup extends Freezer {
  readonly name: string
  /** v2: descriptor of the directory, for CLONE_INTO_CGROUP; -1 on v1. */
  readonly fd: number
  /** v1: files that the first process writes itself into. */
  readonly tasks: readonly string[]
  /** Calls back (at most once) when the cgroup ran out of memory. */
  onOom(listener: () => void): void
  /** Its program runs: the memory limit holds exactly from now on. */
  started(): void
  /** Of its present container. */
  usage(): Usage
  /**
   * Make it as new for another container with the same limits; false when only a new one will do. Missing
   * where none can.
   */
  readonly renew?: () => boolean
  /** Remove it; false while the kernel still sees somebody inside. */
  remove(): boolean
}

export interface CgroupDriver {
  readonly layout: 'v1' | 'v2' | 'hybrid'
  /** Directories that hold our containers' cgroups, for the janitor of a later process. */
  readonly roots: readonly string[]
  create(name: string, resources: Resources): Cgroup
  close(): void
}

/**
 * Told the directories that a driver is about to make, before the first of them is there: who is killed in
 * between has written them down.
 */
export type Announce = (roots: readonly string[]) => void

export interface HostCgroups {
  readonly layout: 'v1' | 'v2' | 'hybrid'
  /** v1 controller → directory of our own cgroup in its hierarchy. */
  readonly v1: ReadonlyMap<string, string>
  /**
   * Directory of our own cgroup in the v2 hierarchy (the one above, when we live in its leaf), and the
   * controllers it offers.
   */
  readonly v2: { readonly directory: string; readonly controllers: readonly string[] } | undefined
  /** Where the controllers of this host are, and which of the needed ones it lacks. */
  readonly driver: 'v1' | 'v2'
  readonly missing: readonly string[]
  /** Those of the driver's optional controllers that the host lacks, and what is not possible without. */
  readonly lacking: readonly string[]
}

/**
 * Until its program runs, a container's first process shares the worker's memory, and the kernel's killer
 * takes everyone who shares it: the limit must not be reached before. A start needs little of its own, but
 * each folder on the way of a name is held while the kernel looks, and a hostile image makes that a hundred
 * thousand (a working directory through nested links, over many layers). More than this is not looked up in
 * the time that a start has.
 */
export const START_HEADROOM_BYTES = 1024 ** 3

/** memory, cpu time and number of processes are what every container is limited in. */
export const V1_CONTROLLERS = ['memory', 'cpu', 'cpuacct', 'pids'] as const
export const V2_CONTROLLERS = ['memory', 'cpu', 'pids'] as const
/** Taken where they are there, for the account. */
export const V2_COUNTERS = ['io'] as const
export const OPTIONAL_CONTROLLERS = {
  v1: { blkio: 'calls have no account of block io', freezer: 'containers cannot be paused' },
  v2: { io: 'calls have no account of block io' },
} as const

/** Does this kernel have FILE in cgroups such as DIRECTORY? */
export const hasFile = (directory: string, file: string): boolean => existsSync(join(directory, file))

/** Has ERR one of CODES? */
export function isErrno(err: unknown, ...codes: string[]): boolean {
  return err instanceof Error && codes.includes((err as NodeJS.ErrnoException).code ?? '')
}

/**
 * Make a container's cgroup. Throws SyscallError: a host has room for so many (ENOSPC, ENOMEM), a delegated
 * place for fewer (EAGAIN).
 */
export function makeCgroup(directory: string): void {
  try {
    mkdirSync(directory)
  } catch (err) {
    const errno = (err as NodeJS.ErrnoException).code ?? 'EIO'
    throw new SyscallError(`cannot make the cgroup ${directory}: ${errno}`, {
      errno,
      syscall: 'mkdir',
      op: 'cgroup',
    })
  }
}

/** Remove a directory; true when it is gone. */
export function removeCgroup(directory: string): boolean {
  try {
    rmdirSync(directory)
  } catch (err) {
    if (isErrno(err, 'EBUSY', 'ENOTEMPTY')) return false
    if (!isErrno(err, 'ENOENT')) throw err
  }
  return true
}
