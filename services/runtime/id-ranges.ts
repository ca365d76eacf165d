// Ranges of host ids that no two workers of one machine share, whatever their data folders. A worker holds a
// block of ranges by a lock (flock(2)) on the block's file in one directory of the machine, which the kernel
// releases when the worker ends for any reason. Containers of a dead worker may still run (frozen ones
// outlive it), so a block with a running process in it is not taken.
//
// Workers with different /run directories (in containers) cannot see each other's locks.

import { closeSync, ftruncateSync, mkdirSync, readdirSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { Unsupported } from '../contract/errors.ts'
import type { Native } from './native.ts'
import { ID_COUNT } from './user.ts'

/** Above the ids that a host and its /etc/subuid usually assign … */
const FIRST_BASE = 16_777_216
/** … and below 2³¹, because some tools still read ids as signed numbers. */
const BLOCKS = 500
const RANGES_PER_BLOCK = 64
const BLOCK_IDS = RANGES_PER_BLOCK * ID_COUNT

/** Shared by all workers of this machine; accessible to root only. */
const ID_LOCKS = '/run/wherry/ids'

export interface IdRanges {
  /** First id of each range. */
  readonly bases: readonly number[]
  release(): void
}

/** Blocks in which some process of this machine runs (proc_pid_status(5), Uid and Gid). */
function inhabitedBlocks(): ReadonlySet<number> {
  const blocks = new Set<number>()
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    try {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8')
      if (/^State:\tZ/m.test(status)) continue // dead but not reaped yet
      for (const [, ids] of status.matchAll(/^[UG]id:\t(.*)$/gm)) {
        for (const id of ids!.split('\t')) blocks.add(Math.floor((Number(id) - FIRST_BASE) / BLOCK_IDS))
      }
    } catch (err) {
      // It has ended meanwhile.
      if (!['ENOENT', 'ESRCH'].includes((err as NodeJS.ErrnoException).code ?? '')) throw err
    }
  }
  return blocks
}

/** The descriptor that holds block NUMBER; undefined if it is taken. */
function lockBlock(native: Native, directory: string, number: number): number | undefined {
  const fd = native.lockFile(join(directory, String(number)))
  if (fd === undefined) return undefined
  ftruncateSync(fd)
  writeSync(fd, `${process.pid}\n`, 0) // for people; the lock is what counts
  return fd
}

/**
 * Claims COUNT free ranges of ids; the search starts at block PREFERRED (any number). Throws Unsupported when
 * fewer are free.
 */
export function claimIdRanges({
  native,
  count,
  preferred,
  directory = ID_LOCKS,
}: {
  native: Native
  count: number
  preferred: number
  directory?: string
}): IdRanges {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const inhabited = inhabitedBlocks()
  const wanted = Math.ceil(count / RANGES_PER_BLOCK)
  const held = new Map<number, number>()
  const release = (): void => {
    for (const fd of held.values()) closeSync(fd)
    held.clear()
  }
  for (let i = 0; i < BLOCKS && held.size < wanted; i++) {
    const number = (preferred + i) % BLOCKS
    const fd = inhabited.has(number) ? undefined : lockBlock(native, directory, number)
    if (fd !== undefined) held.set(number, fd)
  }
  if (held.size < wanted) {
    release()
    throw new Unsupported(
      `${count} ranges of ids are wanted and not so many are free: other workers of this machine hold the ${BLOCKS} blocks of ${RANGES_PER_BLOCK} (locks in ${directory}); ` +
        'stop one of them, or give this one fewer slots',
    )
  }
  const bases = [...held.keys()].flatMap((number) =>
    Array.from({ length: RANGES_PER_BLOCK }, (_, i) => FIRST_BASE + number * BLOCK_IDS + i * ID_COUNT),
  )
  return { bases: bases.slice(0, count), release }
}
