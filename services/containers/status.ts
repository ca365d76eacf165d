// The state of a container (OCI runtime spec, runtime.md, State). The kernel decides the status each time it
// is read; the record only says which process and which cgroup to check.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { SPEC_VERSION, type Seccomp } from '../contract/bundle-spec.ts'
import { startTimeOf } from '../platform/process-identity.ts'
import { START_SOCKET } from '../runtime/bundle/bundle.ts'
import { isFrozen } from '../runtime/cgroup/tree.ts'
import type { ContainerRecord, Records } from './records.ts'

export type Status = 'creating' | 'created' | 'running' | 'paused' | 'stopped'

/** The state of the spec, and `rootfs` and `created` as runc's `list` shows them. */
export interface StateReport {
  readonly ociVersion: string
  readonly id: string
  readonly status: Status
  readonly pid: number
  readonly bundle: string
  readonly rootfs: string
  readonly created: string
  readonly annotations: Readonly<Record<string, string>>
}

/** Whether the container's first process runs. A zombie does not count. */
export const isAlive = (record: ContainerRecord): boolean =>
  record.pid > 0 && startTimeOf(record.pid) === record.pidStartTime

export function statusOf(records: Records, record: ContainerRecord): Status {
  if (!isAlive(record)) return record.pid === 0 ? 'creating' : 'stopped'
  if (!record.ready) return 'creating'
  if (isFrozen(record.cgroup)) return 'paused'
  return existsSync(join(records.directoryOf(record.id), START_SOCKET)) ? 'created' : 'running'
}

/** The state of RECORD. A given STATUS replaces the current one: hooks get the status that they interrupt. */
export function reportOf(
  records: Records,
  record: ContainerRecord,
  status: Status = statusOf(records, record),
): StateReport {
  const { id, bundle, rootfs, createdAt, annotations } = record
  return {
    ociVersion: SPEC_VERSION,
    id,
    status,
    pid: status === 'stopped' ? 0 : record.pid,
    bundle,
    rootfs,
    created: createdAt,
    annotations,
  }
}

/**
 * JSON for the seccomp agent, which receives it with the listener of the process PID (config-linux.md, The
 * Container Process State).
 */
export function agentStateOf(state: StateReport, pid: number, seccomp: Seccomp | undefined): string {
  return JSON.stringify({
    ociVersion: SPEC_VERSION,
    fds: ['seccompFd'],
    pid,
    metadata: seccomp?.listener?.metadata ?? '',
    state,
  })
}
