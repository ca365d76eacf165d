// The root file system of a container: the host's trees it is made of, and the overlay that joins them. On
// kernels before 6.6 a tmpfs keeps no user.* attributes, which an overlay of a user namespace needs; there
// the worker mounts the overlay and the container attaches it.

import { StartError } from '../contract/errors.ts'
import type { Mount, RuntimeSpec } from '../contract/runtime-spec.ts'
import type { HostFacts } from './host-facts.ts'
import { ATTR, MS } from './linux.ts'
import { FLAG, HANDLE_NONE, type Handle, type Op } from './ops.ts'
import { attributesOf } from './plan-mounts.ts'

/** Mode of directories made for a container. */
const DIRECTORY_MODE = 0o755

export interface HostTrees {
  readonly ops: readonly Op[]
  /** Lowest layer first. */
  readonly layers: readonly Handle[]
  readonly mounts: ReadonlyMap<Mount, Handle>
  /** The folder on disk that keeps what is written to the root, where the spec has one. */
  readonly writable?: Handle
}

/** Layers, devices and volumes: detached clones of the host's mounts, ids mapped to the container's range. */
export function hostTrees(spec: RuntimeSpec, facts: HostFacts, take: () => Handle): HostTrees {
  const ops: Op[] = []
  const flags = facts.idmapFd < 0 ? 0 : FLAG.idmap
  const layers = spec.root.layers.map((path) => {
    const handle = take()
    ops.push({ kind: 'tree', handle, path, set: ATTR.ro | ATTR.nodev, flags })
    return handle
  })
  const mounts = new Map<Mount, Handle>()
  for (const mount of spec.mounts) {
    if (mount.type !== 'bind' && mount.type !== 'dev') continue
    const handle = take()
    mounts.set(mount, handle)
    const path = mount.type === 'dev' ? facts.devDir : mount.source!
    ops.push({ kind: 'tree', handle, path, set: attributesOf(mount.options), flags })
  }
  const { writable } = spec.root
  if (writable === undefined) return { ops, layers, mounts }
  if (facts.idmapFd < 0)
    throw new StartError(
      'changes to the root cannot be kept: the file system of the data folder does not support id-mapped mounts',
      'ERR_START',
    )
  const handle = take()
  ops.push({ kind: 'tree', handle, path: writable, set: ATTR.nosuid | ATTR.nodev, flags: FLAG.idmap })
  return { ops, layers, mounts, writable: handle }
}

/** The tmpfs that takes a container's writes; its root directory belongs to OWNER. */
function scratchOp({ root }: RuntimeSpec, handle: Handle, owner: number): Op {
  return {
    kind: 'fsmount',
    handle,
    type: 'tmpfs',
    options: [
      `size=${root.scratchBytes}`,
      `nr_inodes=${root.scratchInodes}`,
      'mode=0755',
      `uid=${owner}`,
      `gid=${owner}`,
    ],
    set: ATTR.nosuid | ATTR.nodev,
  }
}

const layerNames = (layers: readonly Handle[]): readonly string[] => layers.map((_, i) => `l${i}`)

/** lowerdir of an overlay: topmost first. */
const lowerdir = (names: readonly string[]): string => names.toReversed().join(':')

const mkdir = (below: Handle, path: string): Op => ({ kind: 'mkdir', below, path, mode: DIRECTORY_MODE })

const attachLayers = (layers: readonly Handle[], names: readonly string[]): readonly Op[] =>
  layers.map((handle, i): Op => ({ kind: 'attach', handle, target: names[i]! }))

export interface RootOps {
  /** Before the clone. */
  readonly before: readonly Op[]
  readonly ops: readonly Op[]
  readonly scratch: Handle
}

/** The scratch file system with the overlay on it. The cwd ends up in it, with the root at "root". */
export function rootOps(
  spec: RuntimeSpec,
  facts: HostFacts,
  take: () => Handle,
  { layers, writable }: HostTrees,
): RootOps {
  const scratch = take()
  const names = layerNames(layers)
  const folders = writable === undefined ? ['upper', 'work'] : ['disk']
  const above = writable === undefined ? '' : 'disk/'
  return {
    before: [],
    scratch,
    ops: [
      // Owner 0 is the container's root: the mounting process has not taken that id yet.
      scratchOp(spec, scratch, 0),
      { kind: 'attach', handle: scratch, target: facts.stageDir },
      { kind: 'setupIds' },
      { kind: 'fchdir', handle: scratch },
      ...[...folders, 'root', 'empty', ...names].map((name) => mkdir(scratch, name)),
      ...attachLayers(layers, names),
      ...(writable === undefined ? [] : [{ kind: 'attach', handle: writable, target: 'disk' } as const]),
      {
        kind: 'mount',
        source: 'overlay',
        target: 'root',
        type: 'overlay',
        // userxattr: an overlay of a user namespace keeps its marks in user.overlay.* (overlayfs.rst).
        data: `lowerdir=${lowerdir(names)},upperdir=${above}upper,workdir=${above}work,userxattr`,
        // With no_new_privs set-user-ID programs gain nothing anyway.
        mountFlags: (spec.process.noNewPrivileges ? MS.nosuid : 0) | MS.nodev,
      },
    ],
  }
}

/**
 * The same root, mounted by the worker in a mount namespace aside: its overlay keeps marks in
 * trusted.overlay.*, which every tmpfs supports and only the host's root may write. Layers carry their marks
 * in user.overlay.*, so several layers first become one through an overlay that reads those.
 */
export function workerRootOps(
  spec: RuntimeSpec,
  facts: HostFacts,
  take: () => Handle,
  { layers }: HostTrees,
): RootOps {
  const [made, overlay, scratch] = [take(), take(), take()]
  const names = layerNames(layers)
  const aside: Op[] = [
    { kind: 'propagation', propagation: MS.rec | MS.private },
    scratchOp(spec, made, facts.idBase),
    { kind: 'attach', handle: made, target: facts.stageDir },
    { kind: 'fchdir', handle: made },
    // This becomes the container's "/", so the container's root owns it.
    { kind: 'mkdir', below: made, path: 'upper', mode: DIRECTORY_MODE, owner: facts.idBase },
    ...['work', 'lower', ...names].map((name) => mkdir(made, name)),
    ...attachLayers(layers, names),
    ...(names.length === 1
      ? []
      : [
          {
            kind: 'mount',
            source: 'overlay',
            target: 'lower',
            type: 'overlay',
            data: `lowerdir=${lowerdir(names)},userxattr`,
            mountFlags: MS.nodev,
          } as const,
        ]),
    {
      kind: 'fsmount',
      handle: overlay,
      type: 'overlay',
      options: [
        'source=overlay',
        `lowerdir=${names.length === 1 ? names[0]! : 'lower'}`,
        'upperdir=upper',
        'workdir=work',
      ],
      set: (spec.process.noNewPrivileges ? ATTR.nosuid : 0) | ATTR.nodev,
    },
    { kind: 'subtree', handle: scratch, below: HANDLE_NONE, path: '.' },
  ]
  return {
    before: [{ kind: 'aside', count: aside.length }, ...aside],
    scratch,
    ops: [
      { kind: 'attach', handle: scratch, target: facts.stageDir },
      { kind: 'setupIds' },
      { kind: 'fchdir', handle: scratch },
      ...['root', 'empty'].map((name) => mkdir(scratch, name)),
      { kind: 'attach', handle: overlay, target: 'root' },
    ],
  }
}
