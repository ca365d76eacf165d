// Operations on the processes of an existing container: kill, pause, resume, update, and its usage.

import { constants } from 'node:os'
import type { BundleResources } from '../contract/bundle-spec.ts'
import { oomKillsOf, statsOf } from '../runtime/cgroup/stats.ts'
import { setFrozen, signalAll } from '../runtime/cgroup/tree.ts'
import { updateCgroup } from '../runtime/cgroup/update.ts'
import type { Context } from './context.ts'
import { requireStatus, WrongStatus, type Operation } from './errors.ts'
import { isAlive, reportOf, type StateReport, type Status } from './status.ts'

const ACTIVE: readonly Status[] = ['running', 'created', 'paused']

/** Throws WrongStatus unless the container of STATE has a process that OPERATION can act on. */
export const requireActive = (state: StateReport, operation: Operation): void =>
  requireStatus(state, operation, ACTIVE)

/** `kill` (runtime.md, Kill): SIGNAL to the first process, or to ALL. */
export async function killContainer(
  { records }: Context,
  id: string,
  signal: number,
  all: boolean,
): Promise<void> {
  const record = records.load(id)
  if (all) return signalAll(record.cgroup, signal)
  const state = reportOf(records, record)
  requireActive(state, 'kill')
  try {
    process.kill(record.pid, signal)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err
    throw new WrongStatus('kill', id, 'stopped', ACTIVE) // it exited just now
  }
  // A frozen process dies only when it is thawed.
  if (state.status === 'paused' && signal === constants.signals.SIGKILL) await setFrozen(record.cgroup, false)
}

/** `pause` and `resume`. */
export async function freezeContainer({ records }: Context, id: string, frozen: boolean): Promise<void> {
  const record = records.load(id)
  const state = reportOf(records, record)
  if (frozen) requireStatus(state, 'pause', ['running', 'created'])
  else requireStatus(state, 'resume', ['paused'])
  await setFrozen(record.cgroup, frozen)
}

/**
 * `update`: other limits (config-linux.md, Control groups). CHECKUSAGE refuses a memory limit below the
 * current usage. Throws Unsupported naming the cgroup file that does not accept a limit.
 */
export function updateContainer(
  { records }: Context,
  id: string,
  resources: BundleResources,
  checkUsage: boolean,
): void {
  const record = records.load(id)
  requireActive(reportOf(records, record), 'update')
  updateCgroup(record.cgroup, resources, checkUsage)
}

/** Readings of one container. They stay possible after it was deleted. */
export interface Usage {
  isAlive(): boolean
  stats(): ReturnType<typeof statsOf>
  /** How often the kernel killed a process because memory ran out. */
  oomKills(): number
}

export function usageOf({ records }: Context, id: string): Usage {
  const record = records.load(id)
  requireActive(reportOf(records, record), 'events')
  return {
    isAlive: () => isAlive(record),
    stats: () => statsOf(record.cgroup),
    oomKills: () => oomKillsOf(record.cgroup),
  }
}
