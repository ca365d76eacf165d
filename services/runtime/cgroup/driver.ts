// The interface of a cgroup, and what both drivers (v1, v2) share. Users of a cgroup need only this file.

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
  /** v1: files through which the first process joins. */
  readonly tasks: readonly string[]
  /** Calls back (at most once) when the cgroup ran out of memory. */
  onOom(listener: () => void): void
  /** Called once the program runs: from now on the memory limit is exact. */
  started(): void
  /** Of its present container. */
  usage(): Usage
  /**
   * Resets it for another container with the same limits; false if it cannot be reused. Missing where no
   * cgroup can.
   */
  readonly renew?: () => boolean
  /** Removes it; false while the kernel still sees a process inside. */
  remove(): boolean
}

export interface CgroupDriver {
  readonly layout: 'v1' | 'v2' | 'hybrid'
  /** Directories of our containers' cgroups, for the janitor of a later process. */
  readonly roots: readonly string[]
  create(name: string, resources: Resources): Cgroup
  close(): void
}

/**
 * Called with the directories that a driver is about to create: a worker that is killed in between has
 * registered them.
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
  /** Where the controllers of this host are, and which required ones it lacks. */
  readonly driver: 'v1' | 'v2'
  readonly missing: readonly string[]
  /** Optional controllers of the driver that the host lacks, and what is unavailable without them. */
  readonly lacking: readonly string[]
}

/**
 * Until its program runs, a container's first process shares the worker's memory, and the kernel's OOM killer
 * takes all processes that share it, so the limit must not be reached before. A start needs little memory,
 * but the kernel holds each folder of a path while resolving it, and a hostile image makes that a hundred
 * thousand (a working directory through nested links, over many layers). More than this cannot be resolved
 * within the time of a start.
 */
export const START_HEADROOM_BYTES = 1024 ** 3

/** Every container has limits of memory, cpu time and number of processes. */
export const V1_CONTROLLERS = ['memory', 'cpu', 'cpuacct', 'pids'] as const
export const V2_CONTROLLERS = ['memory', 'cpu', 'pids'] as const
/** Used for accounting where the host has them. */
export const V2_COUNTERS = ['io'] as const
export const OPTIONAL_CONTROLLERS = {
  v1: { blkio: 'calls have no account of block io', freezer: 'containers cannot be paused' },
  v2: { io: 'calls have no account of block io' },
} as const

/** Whether this kernel has FILE in cgroups such as DIRECTORY. */
export const hasFile = (directory: string, file: string): boolean => existsSync(join(directory, file))

/** Whether ERR has one of CODES. */
export function isErrno(err: unknown, ...codes: string[]): boolean {
  return err instanceof Error && codes.includes((err as NodeJS.ErrnoException).code ?? '')
}

/**
 * Creates a container's cgroup. Throws SyscallError at the host's maximum (ENOSPC, ENOMEM) or that of a
 * delegated subtree (EAGAIN).
 */
export function makeCgroup(directory: string): void {
  try {
    mkdirSync(directory)
  } catch (err) {
    const errno = (err as NodeJS.ErrnoException).code ?? 'EIO'
    throw new SyscallError(`cannot create the cgroup ${directory}: ${errno}`, {
      errno,
      syscall: 'mkdir',
      op: 'cgroup',
    })
  }
}

/** Removes a directory; true if it no longer exists. */
export function removeCgroup(directory: string): boolean {
  try {
    rmdirSync(directory)
  } catch (err) {
    if (isErrno(err, 'EBUSY', 'ENOTEMPTY')) return false
    if (!isErrno(err, 'ENOENT')) throw err
  }
  return true
}
