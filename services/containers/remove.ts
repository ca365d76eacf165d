// `delete` (OCI runtime spec, runtime.md, Lifecycle steps 12 and 13). Engines run it twice at once, from the
// engine and its monitor: both succeed, and the poststop hooks run once.

import { constants } from 'node:os'
import { setTimeout as pause } from 'node:timers/promises'
import type { Hook } from '../contract/bundle-spec.ts'
import { locateCgroup, removeCgroup, signalAll, type CgroupTree } from '../runtime/cgroup/tree.ts'
import { detachMountsAt } from '../runtime/shared-root.ts'
import type { Context } from './context.ts'
import { ContainerError, requireStatus } from './errors.ts'
import { runHooks } from './hooks.ts'
import type { ContainerRecord } from './records.ts'
import { isAlive, reportOf } from './status.ts'

const DEATH_MAX_MS = 10_000
const POLL_MS = 5

const messageOf = (err: unknown): string => (err instanceof Error ? err.message : String(err))

async function killAndWait(record: ContainerRecord): Promise<void> {
  const deadline = performance.now() + DEATH_MAX_MS
  await signalAll(record.cgroup, constants.signals.SIGKILL)
  while (isAlive(record)) {
    if (performance.now() > deadline)
      throw new ContainerError('stuck', `container "${record.id}" did not exit after SIGKILL`)
    await pause(POLL_MS)
  }
}

/** Delete a stopped container; with FORCE one in any status, and succeed if there is none. */
export async function removeContainer(context: Context, id: string, force: boolean): Promise<void> {
  const { records, warn, environment } = context
  let record: ContainerRecord
  try {
    record = records.load(id)
  } catch (err) {
    if (!force || !(err instanceof ContainerError)) throw err
    return removeUnrecorded(context, id, err.kind === 'damaged')
  }
  if (!force) requireStatus(reportOf(records, record), 'delete', ['stopped'])
  // A stopped container may have processes, too: without a pid namespace they outlive the first process.
  await killAndWait(record)
  await removeCgroup(record.cgroup)
  if (record.mountsBefore !== undefined) await detachMountsAt(record.rootfs, record.mountsBefore)
  const { hooks, problem } = poststopOf(context, record)
  const state = JSON.stringify(reportOf(records, record, 'stopped'))
  if (!records.forget(id)) return
  if (problem !== undefined) warn(`container "${id}": no poststop hooks were run: ${problem}`)
  await runHooks('poststop', hooks, { state, environment }, (failure) => warn(failure.message))
}

/** Its poststop hooks. A lost or damaged copy of config.json must not prevent a deletion. */
function poststopOf(
  { records }: Context,
  record: ContainerRecord,
): { readonly hooks: readonly Hook[]; readonly problem?: string } {
  try {
    return { hooks: records.loadConfig(record).hooks.poststop }
  } catch (err) {
    return { hooks: [], problem: messageOf(err) }
  }
}

/** Remove the container ID, which has no record or a DAMAGED one: config.json says where its cgroup is. */
async function removeUnrecorded(
  { records, warn, systemdCgroup }: Context,
  id: string,
  damaged: boolean,
): Promise<void> {
  if (!records.has(id)) return
  let cgroup: CgroupTree
  try {
    cgroup = locateCgroup(records.loadConfig({ id, bundle: '/' }).linux.cgroupsPath, id, systemdCgroup)
  } catch (err) {
    // Both files are written before the first process exists and removed after the last: without either
    // there is no process.
    if (damaged || !(err instanceof ContainerError))
      warn(`container "${id}" has no record; its processes were not looked for: ${messageOf(err)}`)
    records.forget(id)
    return
  }
  await signalAll(cgroup, constants.signals.SIGKILL)
  await removeCgroup(cgroup)
  records.forget(id)
}
