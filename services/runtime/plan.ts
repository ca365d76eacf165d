// A runtime spec becomes a plan: the exact operations in the exact order, with nothing left to decide. Pure;
// the host's facts (descriptors, directories, what this kernel has) come in as values. buildPlan, read from
// top to bottom, is a container's start.
//
// Three facts fix the order. Whatever comes from the host is opened before the clone. /proc can be mounted
// only while the host's own is still visible (mount_too_revealing() in fs/namespace.c), so it is made before
// the pivot and attached behind it. And before the pivot no path is resolved through the image, so that no
// symbolic link in it can lead outside.

import type { RuntimeSpec } from '../contract/runtime-spec.ts'
import { checkSpec } from './check.ts'
import type { HostFacts } from './host-facts.ts'
import { ATTR, CLONE, MS } from './linux.ts'
import { countHandles, type Op, type Plan } from './ops.ts'
import { attachOp, hidingOps, innerTrees } from './plan-mounts.ts'
import { processOps } from './plan-process.ts'
import { hostTrees, rootOps, workerRootOps } from './plan-root.ts'
import { ID_COUNT } from './user.ts'

/**
 * What programs expect, and the mode of what is made on their behalf; the worker's own umask is unrelated.
 */
const UMASK = 0o022

/** The operations of a whole start. */
function startOps(spec: RuntimeSpec, facts: HostFacts, newNetwork: boolean): Op[] {
  const take = countHandles()
  const host = hostTrees(spec, facts, take)
  // A folder on disk keeps user.* attributes on all kernels. And without mapped ids the container's root
  // could not change what an overlay of the host shows.
  const byWorker = facts.rootByWorker && host.writable === undefined && facts.idmapFd >= 0
  const root = (byWorker ? workerRootOps : rootOps)(spec, facts, take, host)
  const inner = innerTrees(spec, take, root.scratch)
  const hiding = hidingOps(spec, facts, take, root.scratch)
  const system = spec.mounts.filter((mount) => mount.type !== 'bind')
  const volumes = spec.mounts.filter((mount) => mount.type === 'bind')
  return [
    ...host.ops,
    ...root.before,
    ...facts.cgroupTasks.map((path): Op => ({ kind: 'cgroupJoin', path })),
    { kind: 'userMaps' },
    { kind: 'umask', mask: UMASK },
    // Entered after the cgroup was joined, so that its root is the container's own cgroup.
    ...(spec.linux.namespaces.includes('cgroup')
      ? [{ kind: 'unshare', namespaces: CLONE.cgroup } as const]
      : []),
    { kind: 'propagation', propagation: MS.rec | MS.private },
    ...root.ops,
    ...inner.ops,
    ...hiding.before,
    { kind: 'pivot', root: 'root' },
    ...system.map((mount) => attachOp(mount, host.mounts.get(mount) ?? inner.mounts.get(mount)!)),
    ...hiding.behind,
    // After the masks: a volume whose target leads to /dev through a link of the image must not supply the
    // /dev/null of the masks.
    ...volumes.map((mount) => attachOp(mount, host.mounts.get(mount)!)),
    ...(spec.root.readonly ? [{ kind: 'attributes', target: '/', set: ATTR.ro } as const] : []),
    ...(spec.hostname === undefined ? [] : [{ kind: 'hostname', name: spec.hostname } as const]),
    ...(newNetwork ? [{ kind: 'loopbackUp' } as const] : []),
    ...processOps(spec, facts.seccomp),
  ]
}

/** SPEC and FACTS as a plan.  Throws StartError that names every wrong field of SPEC. */
export function buildPlan(spec: RuntimeSpec, facts: HostFacts): Plan {
  checkSpec(spec)
  const { namespaces } = spec.linux
  const newNetwork = namespaces.includes('network') && facts.netnsFd < 0
  const atClone = namespaces.filter((name) => name !== 'cgroup' && (name !== 'network' || newNetwork))
  return {
    cloneFlags: atClone.reduce((flags, name) => flags | CLONE[name], 0),
    cgroupFd: facts.cgroupFd,
    idmapFd: facts.idmapFd,
    netnsFd: namespaces.includes('network') ? facts.netnsFd : -1,
    idBase: facts.idBase,
    idCount: ID_COUNT,
    pipeOwner: facts.idBase + spec.process.user.uid,
    ops: startOps(spec, facts, newNetwork),
  }
}
