// The mounts of a bundle: what is opened on the host's side, what is made before the pivot, what is attached
// after it, and what becomes read-only once everything is in place. Pure; facts about the host are arguments.

import type { BundleMount, BundleSpec, IdMapping } from '../../contract/bundle-spec.ts'
import type { CgroupTree } from '../cgroup/tree.ts'
import { parseMountOptions, type MountOptions } from './mount-options.ts'
import { ATTR, MS } from '../linux.ts'
import { FLAG, HANDLE_NONE, type Handle, type Op, type OpOf } from '../ops.ts'

/** File systems made by fsopen(2), which takes short options only; others are mounted on the stage first. */
const BY_FSOPEN = new Set(['proc', 'sysfs', 'tmpfs', 'devpts', 'mqueue', 'ramfs'])
/**
 * Programs trust what they read here as the kernel's word, so a symbolic link of the image must not redirect
 * these.
 */
const SYSTEM = new Set(['proc', 'sysfs', 'devpts', 'mqueue', 'cgroup', 'cgroup2'])

export interface MountFacts {
  /** An empty directory for mounts that need a place for a moment. */
  readonly stageDir: string
  /** Bind sources that are not directories. */
  readonly files: ReadonlySet<string>
  readonly cgroup: CgroupTree
  /** Whether the container has a cgroup namespace. */
  readonly cgroupNamespace: boolean
  /** User namespaces with the id maps of mounts, as descriptors. */
  readonly idmaps: ReadonlyMap<BundleMount, number>
  /** Root of the v2 hierarchy, for containers that see all of it. */
  readonly cgroupTop: string
}

/**
 * Whether the container of SPEC has a mount namespace, so that its root can be pivoted. Without an entry for
 * one it stays in the runtime's.
 */
export const makesMounts = (spec: BundleSpec): boolean =>
  spec.linux.namespaces.some(({ type }) => type === 'mount')

/** Whether MOUNT must be mounted on the stage first. */
export const needsStage = (mount: BundleMount): boolean =>
  mount.type !== 'bind' && mount.type !== 'cgroup' && mount.type !== 'cgroup2' && !BY_FSOPEN.has(mount.type)

/** The id maps of MOUNT: its own, or the container's. */
export function idmapOf(
  spec: BundleSpec,
  mount: BundleMount,
): { uid: readonly IdMapping[]; gid: readonly IdMapping[] } | undefined {
  if (!mount.idmap) return undefined
  const own = mount.idmap.uidMappings.length > 0
  return own
    ? { uid: mount.idmap.uidMappings, gid: mount.idmap.gidMappings }
    : { uid: spec.linux.uidMappings, gid: spec.linux.gidMappings }
}

export interface MountOps {
  readonly host: readonly Op[]
  readonly make: readonly Op[]
  readonly attach: readonly Op[]
  readonly seal: readonly Op[]
}

type Take = () => Handle

/**
 * Which side opens the host's trees. /proc/self/mountinfo lists mounts in the order of their creation, and
 * programs expect the order of config.json there, so the child opens trees between its own mounts, before its
 * mount namespace is detached from the host's. In a user namespace it may lack the permission, and in a
 * joined mount namespace it would open that namespace's trees; then the caller opens them before all others.
 */
export interface TreeSide {
  readonly inChild: boolean
  readonly shared: boolean
}

function hostTree(
  side: TreeSide,
  tree: Omit<OpOf<'tree'>, 'kind' | 'users'>,
): { readonly host: readonly Op[]; readonly make: readonly Op[] } {
  if (!side.inChild) return { host: [{ ...tree, kind: 'tree' }], make: [] }
  const flags = (tree.flags ?? 0) | FLAG.follow
  return { host: [], make: [{ ...tree, kind: 'subtree', below: HANDLE_NONE, flags }] }
}

/** Changes in sequence, because some apply to this mount only and others to all mounts below it. */
function adjustOps(handle: Handle, options: MountOptions): readonly Op[] {
  const { recursiveSet: set, recursiveClear: clear } = options
  const below: Op = { kind: 'setattr', handle, set, clear, flags: FLAG.recursiveAttributes }
  return [...(set === 0 && clear === 0 ? [] : [below]), ...propagationOps(handle, options)]
}

const propagationOps = (handle: Handle, { propagations }: MountOptions): readonly Op[] =>
  propagations.map((propagation): Op => ({ kind: 'setattr', handle, propagation }))

function bindMount(
  mount: BundleMount,
  options: MountOptions,
  facts: MountFacts,
  take: Take,
  side: TreeSide,
): MountOps {
  const handle = take()
  const idmap = facts.idmaps.get(mount)
  const users = idmap === undefined ? 0 : take()
  const flags = options.bind?.recursive === true ? FLAG.recursive : 0
  const tree = {
    handle,
    path: mount.source,
    flags,
    set: options.set,
    clear: options.clear,
    // Later mounts of the host may appear inside, never the other way, unless the whole root is shared on
    // purpose.
    propagation: side.shared ? 0 : MS.slave | MS.rec,
  }
  const mapped: readonly Op[] =
    idmap === undefined
      ? []
      : [
          { kind: 'fd', handle: users, fd: idmap },
          { ...tree, kind: 'tree', users, flags: flags | FLAG.idmapHandle },
        ]
  return {
    ...(idmap === undefined ? hostTree(side, tree) : { host: mapped, make: [] }),
    attach: [
      {
        kind: 'attach',
        handle,
        target: mount.destination,
        flags: facts.files.has(mount.source) ? FLAG.makeFile : FLAG.makeDir,
      },
      ...adjustOps(handle, options),
    ],
    seal: [],
  }
}

/** A mount(2) on the stage takes options of any length, as overlay needs; its tree is cloned from there. */
function stagedMount(
  mount: BundleMount,
  options: MountOptions,
  facts: MountFacts,
  handle: Handle,
): readonly Op[] {
  const { stageDir } = facts
  const source = mount.source || mount.type
  const set = options.set | options.recursiveSet
  return [
    {
      kind: 'mount',
      source,
      target: stageDir,
      type: mount.type,
      data: options.data.join(','),
      mountFlags: 0,
    },
    { kind: 'subtree', handle, below: HANDLE_NONE, path: stageDir, set },
  ]
}

function fileSystemMount(
  mount: BundleMount,
  options: MountOptions,
  facts: MountFacts,
  handle: Handle,
): MountOps {
  const { type, destination: target } = mount
  const attributes = options.set | options.recursiveSet
  // A read-only tmpfs must first take the mount points below it.
  const late = type === 'tmpfs' ? attributes & ATTR.ro : 0
  const data = [`source=${mount.source || type}`, ...options.data]
  const hasMode = data.some((option) => option.startsWith('mode='))
  // A directory that the image closes to others stays closed behind a tmpfs.
  const copyMode = type === 'tmpfs' && !hasMode ? FLAG.copyMode : 0
  const noSymlinks = SYSTEM.has(type) || target === '/dev' ? FLAG.noSymlinks : 0
  return {
    host: [],
    make: BY_FSOPEN.has(type)
      ? [{ kind: 'fsmount', handle, type, options: data, set: attributes & ~late }]
      : stagedMount(mount, options, facts, handle),
    attach: [
      ...(options.copyUp ? [{ kind: 'copyUp', handle, path: target, withOwner: !hasMode } as const] : []),
      { kind: 'attach', handle, target, flags: FLAG.makeDir | copyMode | noSymlinks },
      ...propagationOps(handle, options),
    ],
    seal: late === 0 ? [] : [{ kind: 'setattr', handle, set: late }],
  }
}

/** All mounts, in their order. */
export function mountOps(mounts: readonly BundleMount[], facts: MountFacts, take: Take, side: TreeSide) {
  const all = mounts.map((mount) => {
    if (mount.type === 'cgroup' || mount.type === 'cgroup2')
      return { mount, ops: cgroupMount(mount, facts, take, side) }
    const options = parseMountOptions(mount.options)
    return {
      mount,
      ops:
        mount.type === 'bind'
          ? bindMount(mount, options, facts, take, side)
          : fileSystemMount(mount, options, facts, take()),
    }
  })
  const staged = ({ mount }: { mount: BundleMount }): boolean => needsStage(mount)
  return {
    host: all.flatMap(({ ops }) => ops.host),
    make: all.filter((one) => !staged(one)).flatMap(({ ops }) => ops.make),
    /** To be made once mounts no longer propagate to the host. */
    stage: all.filter(staged).flatMap(({ ops }) => ops.make),
    attach: all.flatMap(({ ops }) => ops.attach),
    seal: all.flatMap(({ ops }) => ops.seal),
  }
}

/**
 * A container sees its own cgroup only. Its directories are bound from the host: one on v2; on v1 one per
 * hierarchy, in a tmpfs. On v2 a container without a cgroup namespace sees the whole hierarchy.
 */
function cgroupMount(mount: BundleMount, facts: MountFacts, take: Take, side: TreeSide): MountOps {
  const options = parseMountOptions(mount.options)
  const flags = FLAG.makeDir | FLAG.noSymlinks
  const bind = (handle: Handle, path: string) =>
    hostTree(side, {
      handle,
      path,
      set: options.set | options.recursiveSet,
      propagation: MS.slave | MS.rec,
    })
  if (facts.cgroup.version === 2) {
    const handle = take()
    const path = facts.cgroupNamespace ? facts.cgroup.directories[0]!.path : facts.cgroupTop
    return {
      ...bind(handle, path),
      attach: [{ kind: 'attach', handle, target: mount.destination, flags }],
      seal: [],
    }
  }
  const around = take()
  const hierarchies = facts.cgroup.directories.map((directory) => ({ ...directory, handle: take() }))
  const trees = hierarchies.map(({ handle, path }) => bind(handle, path))
  return {
    host: trees.flatMap(({ host }) => host),
    make: [
      {
        kind: 'fsmount',
        handle: around,
        type: 'tmpfs',
        options: ['source=tmpfs', 'mode=755', 'size=64k'],
        set: (options.set & ~ATTR.ro) | ATTR.nosuid | ATTR.nodev,
      },
      ...trees.flatMap(({ make }) => make),
    ],
    attach: [
      { kind: 'attach', handle: around, target: mount.destination, flags },
      ...hierarchies.map(({ handle, mountName }): Op => {
        return { kind: 'attach', handle, target: `${mount.destination}/${mountName}`, flags }
      }),
      // A hierarchy of several controllers is also found under the name of each ("cpu" -> "cpu,cpuacct").
      ...hierarchies.flatMap(({ controllers, mountName }) =>
        controllers
          .filter((name) => name !== mountName && !name.startsWith('name='))
          .map((name): Op => ({ kind: 'symlink', target: mountName, path: `${mount.destination}/${name}` })),
      ),
    ],
    seal: (options.set & ATTR.ro) === 0 ? [] : [{ kind: 'setattr', handle: around, set: ATTR.ro }],
  }
}
