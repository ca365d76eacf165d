// The mounts inside a container's root: what is made before the pivot, how it is attached behind it, and the
// paths of /proc that are hidden or read-only.

import type { Mount, RuntimeSpec } from '../contract/runtime-spec.ts'
import type { HostFacts } from './host-facts.ts'
import { ATTR } from './linux.ts'
import { FLAG, HANDLE_NONE, type Handle, type Op } from './ops.ts'

const MOUNT_MODE = 0o755

export function attributesOf(options: readonly string[]): number {
  return (
    (options.includes('ro') ? ATTR.ro : 0) |
    (options.includes('nosuid') ? ATTR.nosuid : 0) |
    (options.includes('nodev') ? ATTR.nodev : 0) |
    (options.includes('noexec') ? ATTR.noexec : 0)
  )
}

function modeOf(mount: Mount): number {
  const mode = mount.options.find((option) => option.startsWith('mode='))
  return mode ? parseInt(mode.slice('mode='.length), 8) : MOUNT_MODE
}

/** Mounts that must be made before the pivot and are attached behind it. */
export function innerTrees(
  spec: RuntimeSpec,
  take: () => Handle,
  scratch: Handle,
): { readonly ops: readonly Op[]; readonly mounts: ReadonlyMap<Mount, Handle> } {
  const ops: Op[] = []
  const mounts = new Map<Mount, Handle>()
  for (const [i, mount] of spec.mounts.entries()) {
    if (mount.type === 'proc') {
      const handle = take()
      ops.push({ kind: 'fsmount', handle, type: 'proc', options: [], set: attributesOf(mount.options) })
      // This proc file system is not mounted anywhere yet, so nothing of the image can stand in the way.
      for (const [name, content] of Object.entries(spec.linux.sysctl ?? {}))
        ops.push({ kind: 'write', below: handle, path: `sys/${name.replaceAll('.', '/')}`, content })
      mounts.set(mount, handle)
    }
    if (mount.type === 'scratch') {
      const handle = take()
      const path = `m${i}`
      ops.push({ kind: 'mkdir', below: scratch, path, mode: modeOf(mount) })
      ops.push({ kind: 'subtree', handle, below: scratch, path, set: attributesOf(mount.options) })
      mounts.set(mount, handle)
    }
  }
  return { ops, mounts }
}

/**
 * Attaches MOUNT at its destination. A symbolic link where a system file system goes is an error. A volume or
 * /tmp may lie behind a link (/var/run): it is resolved inside the container's root and must not lead to
 * /proc.
 */
export function attachOp(mount: Mount, handle: Handle): Op {
  const system = mount.type === 'proc' || mount.type === 'dev'
  const made = mount.options.includes('file') ? FLAG.makeFile : FLAG.makeDir
  return {
    kind: 'attach',
    handle,
    target: mount.destination,
    flags: made | (system ? FLAG.noSymlinks : FLAG.notOnProc),
  }
}

/** Masked files become the null device, masked directories an empty one, both read-only. */
export function hidingOps(
  spec: RuntimeSpec,
  facts: HostFacts,
  take: () => Handle,
  scratch: Handle,
): { readonly before: readonly Op[]; readonly behind: readonly Op[] } {
  const before: Op[] = []
  const behind: Op[] = []
  const attributes = ATTR.ro | ATTR.noexec
  for (const target of spec.linux.maskedPaths) {
    const kind = facts.procPaths.get(target)
    if (kind === 'file')
      behind.push({
        kind: 'bind',
        below: HANDLE_NONE,
        source: '/dev/null',
        target,
        set: attributes,
        flags: FLAG.noSymlinks,
      })
    if (kind === 'directory') {
      const handle = take()
      before.push({ kind: 'subtree', handle, below: scratch, path: 'empty', set: attributes })
      behind.push({ kind: 'attach', handle, target, flags: FLAG.noSymlinks })
    }
  }
  for (const path of spec.linux.readonlyPaths) {
    if (!facts.procPaths.has(path)) continue
    behind.push({
      kind: 'bind',
      below: HANDLE_NONE,
      source: path,
      target: path,
      set: ATTR.ro | ATTR.nosuid | ATTR.nodev | ATTR.noexec,
      flags: FLAG.noSymlinks | FLAG.recursive | FLAG.recursiveAttributes,
    })
  }
  return { before, behind }
}
