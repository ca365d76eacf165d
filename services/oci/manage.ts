// What is done to containers that are there: kill, delete, pause, resume, list, ps.

import { constants } from 'node:os'
import { setTimeout as pause } from 'node:timers/promises'
import type { Hook } from '../contract/bundle-spec.ts'
import { detachMountsAt } from '../runtime/shared-root.ts'
import {
  locateCgroup,
  pidsOf,
  removeCgroup,
  setFrozen,
  signalAll,
  type CgroupTree,
} from '../runtime/cgroup/tree.ts'
import type { Context } from './context.ts'
import { messageOf, OciError } from './failure.ts'
import { runHooks } from './hooks.ts'
import { DamagedRecord, isAlive, reportOf, statusOf, type ContainerRecord } from './store.ts'

const DEATH_MAX_MS = 10_000
const POLL_MS = 5

/** "TERM", "SIGTERM", "sigterm" or "15"; 0 only asks whether it is there (kill(2)). */
export function parseSignal(text: string): number {
  const name = text.toUpperCase().replace(/^(?:SIG)?/, 'SIG')
  const number = /^\d{1,2}$/.test(text)
    ? Number(text)
    : Object.entries(constants.signals).find(([known]) => known === name)?.[1]
  if (number === undefined || number < 0 || number > 64) throw new OciError(`"${text}" is not a signal`)
  return number
}

/** `kill`: SIGNAL to the first process, or to ALL. */
export async function killContainer(
  context: Context,
  id: string,
  signal: number,
  all: boolean,
): Promise<void> {
  const record = context.store.load(id)
  if (all) return signalAll(record.cgroup, signal)
  const status = statusOf(context.store, record)
  if (status === 'stopped' || status === 'creating')
    throw new OciError(`container not running: "${id}" is ${status}`)
  try {
    process.kill(record.pid, signal)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err
    throw new OciError(`container not running: "${id}" ended just now`)
  }
  // A frozen process dies when it is thawed.
  if (status === 'paused' && signal === constants.signals.SIGKILL) await setFrozen(record.cgroup, false)
}

async function killAndWait(record: ContainerRecord): Promise<void> {
  const deadline = performance.now() + DEATH_MAX_MS
  await signalAll(record.cgroup, constants.signals.SIGKILL)
  while (isAlive(record)) {
    if (performance.now() > deadline)
      throw new OciError(`container "${record.id}" does not end although it was killed`)
    await pause(POLL_MS)
  }
}

/**
 * `delete`: of a container that has stopped; with FORCE of any, and it is no failure if there is none.
 * Engines do it twice at once.
 */
export async function deleteContainer(context: Context, id: string, force: boolean): Promise<void> {
  const { store, log } = context
  let record: ContainerRecord
  try {
    record = store.load(id)
  } catch (err) {
    if (!force || !(err instanceof OciError)) throw err
    return deleteUnrecorded(context, id, err instanceof DamagedRecord)
  }
  const status = statusOf(store, record)
  if (status !== 'stopped' && !force)
    throw new OciError(`cannot delete container "${id}": it is ${status}, not stopped`)
  // Also of a stopped one: in a pid namespace of the host's its children may have outlived it.
  await killAndWait(record)
  await removeCgroup(record.cgroup)
  if (record.mountsBefore !== undefined) detachMountsAt(record.rootfs, record.mountsBefore)
  const { hooks, problem } = poststopOf(context, record)
  const state = JSON.stringify(reportOf(store, record, 'stopped'))
  if (!store.forget(id)) return
  if (problem !== undefined) log.warn(`container "${id}": no poststop hooks were run: ${problem}`)
  runHooks('poststop', hooks, { state, environment: context.world.environment }, (failure) => {
    log.warn(failure.message)
  })
}

/**
 * A copy of config.json that is gone or spoilt, by a `delete` that was killed or by others, keeps nobody from
 * deleting the rest.
 */
function poststopOf(
  { store }: Context,
  record: ContainerRecord,
): { readonly hooks: readonly Hook[]; readonly problem?: string } {
  try {
    return { hooks: store.loadConfig(record).hooks.poststop }
  } catch (err) {
    return { hooks: [], problem: messageOf(err) }
  }
}

/** The container ID has no record, or a DAMAGED one: its cgroup is looked for where its config.json says. */
async function deleteUnrecorded(
  { store, log, systemdCgroup }: Context,
  id: string,
  damaged: boolean,
): Promise<void> {
  if (!store.has(id)) return
  let cgroup: CgroupTree
  try {
    cgroup = locateCgroup(store.loadConfig({ id, bundle: '/' }).linux.cgroupsPath, id, systemdCgroup)
  } catch (err) {
    // With neither of the two files there is no process: they come before the first, and go behind the last.
    if (damaged || !(err instanceof OciError))
      log.warn(`container "${id}" has no record; its processes were not looked for: ${messageOf(err)}`)
    store.forget(id)
    return
  }
  await signalAll(cgroup, constants.signals.SIGKILL)
  await removeCgroup(cgroup)
  store.forget(id)
}

/** `pause` and `resume`. */
export async function freezeContainer(context: Context, id: string, frozen: boolean): Promise<void> {
  const record = context.store.load(id)
  const status = statusOf(context.store, record)
  const fits = frozen ? status === 'running' || status === 'created' : status === 'paused'
  if (!fits) throw new OciError(`cannot ${frozen ? 'pause' : 'resume'} container "${id}": it is ${status}`)
  await setFrozen(record.cgroup, frozen)
}

/** `ps`: numbers of its processes, as the caller sees them. */
export function processesOf(context: Context, id: string): number[] {
  return pidsOf(context.store.load(id).cgroup)
}
