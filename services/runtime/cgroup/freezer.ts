// Pausing all processes of a cgroup (kernel's Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and
// cgroup-v2.rst, cgroup.freeze). On v2 every cgroup supports it. On v1 the freezer is a hierarchy that a
// container joins only when it is first paused: most never are, and joining is slow. On v1 a frozen process
// does not die of SIGKILL until it is thawed. Nor does v1 freeze a process that joined while it waited for
// its child in vfork(2); then freezing fails, and all processes continue.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { Unsupported } from '../../contract/errors.ts'

export interface Freezer {
  /** Resolves when every process is frozen.  Throws Unsupported where the host has no freezer. */
  freeze(): Promise<void>
  /** Does nothing when it is not frozen. */
  thaw(): void
}

/** How long a busy machine may delay a runnable process, and so its freezing. */
const SETTLE_MS_MAX = 2000
const QUICK_ROUNDS = 200
const SLOW_ROUND_MS = 2
const MOVE_ROUNDS_MAX = 100

/**
 * Polls DONE: first once per turn of the event loop, since the kernel stops a process within microseconds of
 * its next return to user mode, then less often, since on a busy machine the process may wait for a CPU. THAW
 * undoes a freeze that does not complete.
 */
async function settle(done: () => boolean, thaw: () => void, what: string): Promise<void> {
  const giveUpAt = performance.now() + SETTLE_MS_MAX
  for (let round = 0; performance.now() < giveUpAt; round++) {
    if (done()) return
    await (round < QUICK_ROUNDS ? setImmediate() : setTimeout(SLOW_ROUND_MS))
  }
  thaw()
  throw new Unsupported(`${what} could not be frozen: a process is in uninterruptible sleep (state D in ps)`)
}

export function createV2Freezer(directory: string): Freezer {
  const set = (value: '0' | '1'): void =>
    writeFileSync(join(directory, 'cgroup.freeze'), value, { flag: 'r+' })
  return {
    async freeze() {
      set('1')
      await settle(
        () => /^frozen 1$/m.test(readFileSync(join(directory, 'cgroup.events'), 'utf8')),
        () => set('0'),
        directory,
      )
    },
    thaw: () => set('0'),
  }
}

const pidsOf = (directory: string): string[] =>
  readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)

/**
 * DIRECTORY is the container's directory in the freezer's hierarchy (undefined: there is none), MEMBERS
 * another cgroup that lists its processes.
 */
export function createV1Freezer(
  directory: string | undefined,
  members: string,
): Freezer & { readonly directories: readonly string[] } {
  const made: string[] = []

  /**
   * Children of a moved process start in its new cgroup; those that forked before are found in the next
   * round.
   */
  function enter(into: string): void {
    if (made.length === 0) {
      mkdirSync(into, { recursive: true })
      made.push(into)
    }
    for (let round = 0; round < MOVE_ROUNDS_MAX; round++) {
      const inside = new Set(pidsOf(into))
      const outside = pidsOf(members).filter((pid) => !inside.has(pid))
      if (outside.length === 0) return
      for (const pid of outside) {
        try {
          writeFileSync(join(into, 'cgroup.procs'), pid, { flag: 'r+' })
        } catch (err) {
          if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err // it ended before
        }
      }
    }
    throw new Unsupported(`${into}: processes fork faster than they can be moved`)
  }

  const set = (state: 'FROZEN' | 'THAWED'): void =>
    writeFileSync(join(made[0]!, 'freezer.state'), state, { flag: 'r+' })
  return {
    directories: made,
    async freeze() {
      if (directory === undefined)
        throw new Unsupported('containers cannot be paused: the cgroup controller freezer is not mounted')
      enter(directory)
      set('FROZEN')
      await settle(
        () => readFileSync(join(directory, 'freezer.state'), 'utf8').trim() === 'FROZEN',
        () => set('THAWED'),
        directory,
      )
    },
    thaw() {
      if (made.length > 0) set('THAWED')
    },
  }
}
