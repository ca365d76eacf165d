// Identifies processes for good: the kernel reuses a pid, but not a pid with its start time (/proc/PID/stat,
// proc_pid_stat(5)).

import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

export interface ProcessIdentity {
  readonly pid: number
  /** Clock ticks since boot, as in /proc. */
  readonly startTime: string
}

const POLL_MS = 20

/** Start time of the process PID; undefined if it is gone or a zombie. */
export function startTimeOf(pid: number): string | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined // no such process
  }
  // "pid (comm) state ppid …": comm may contain anything, so count from the last parenthesis. starttime is
  // field
  // 22.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
}

export function identityOf(pid: number): ProcessIdentity | undefined {
  const startTime = startTimeOf(pid)
  return startTime === undefined ? undefined : { pid, startTime }
}

export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  return startTimeOf(pid) === startTime
}

/** Those of PROCESSES that are still alive after at most TIMEOUTMS. */
export async function waitUntilGone(
  processes: readonly ProcessIdentity[],
  timeoutMs: number,
): Promise<ProcessIdentity[]> {
  const giveUpAt = performance.now() + timeoutMs
  let left = processes.filter(isAlive)
  while (left.length > 0 && performance.now() < giveUpAt) {
    await delay(POLL_MS)
    left = left.filter(isAlive)
  }
  return left
}

/** Sends SIGNAL to the process if it is still the same one. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): void {
  if (!isAlive(identity)) return
  try {
    process.kill(identity.pid, signal)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err // it ended between the two lines
  }
}
