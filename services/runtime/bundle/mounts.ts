// The mounts of a bundle: what is opened on the host's side, what is made before the pivot, what is attached
// behind it, and what becomes read-only once everything is in place.  Pure; facts about the host come in.

import type { BundleMount, BundleSpec, IdMapping } from '../../contract/bundle-spec.ts'
import type { CgroupTree } from '../cgroup/tree.ts'
import { parseMountOptions, type MountOptions } from './mount-options.ts'
import { ATTR, FLAG, MS, SLOT_NONE, type Op } from '../ops.ts'

/**
 * File systems that fsopen(2) makes from short options; any other is mounted once on the stage, and its tree
 * taken from there.
 */
const BY_FSOPEN = new Set(['proc', 'sysfs', 'tmpfs', 'devpts', 'mqueue', 'ramfs'])
/**
 * Where these go an image must have a real directory: what programs believe of them they believe of the
 * kernel.
 */
const SYSTEM = new Set(['proc', 'sysfs', 'devpts', 'mqueue', 'cgroup', 'cgroup2'])

export interface MountFacts {
  /** An empty directory for mounts that have to be somewhere for a moment. */
  readonly stageDir: string
  /** Bind sources that are no directories. */
  readonly files: ReadonlySet<string>
  readonly cgroup: CgroupTree
  /** It has a cgroup namespace of its own. */
  readonly cgroupNamespace: boolean
  /** Descriptors of user namespaces with the maps of mounts that have maps of their own. */
  readonly idmaps: ReadonlyMap<BundleMount, number>
  /** Top of the v2 hierarchy, for containers that see all of it. */
  readonly cgroupTop: string
}

/**
 * Does SPEC's container get a mount namespace of its own, so that its root can be pivoted? Not when it joins
 * one that is the runtime's, or has none and so stays with the runtime's.
 */
export const makesMounts = (spec: BundleSpec): boolean =>
  spec.linux.namespaces.some(({ type }) => type === 'mount')

/** Has MOUNT to be mounted on the stage first? */
export const needsStage = (mount: BundleMount): boolean =>
  mount.type !== 'bind' && mount.type !== 'cgroup' && mount.type !== 'cgroup2' && !BY_FSOPEN.has(mount.type)

/** Whose map serves for MOUNT in SPEC's container. */
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

type Take = () => number

/**
 * How trees of the host are opened. The kernel lists mounts in the order in which they were made, and
 * programs expect the order of config.json there; so the child opens them itself, between its own, before its
 * mounts are parted from the host's. In a user namespace it may not be able to, and in a joined mount
 * namespace it would open that one's: then the host does, ahead of all.
 */
export interface TreeSide {
  readonly inChild: boolean
  readonly shared: boolean
}

function hostTree(side: TreeSide, op: Omit<Op, 'kind'>): { host: Op[]; make: Op[] } {
  return side.inChild
    ? { host: [], make: [{ ...op, kind: 'subtree', from: SLOT_NONE, flags: (op.flags ?? 0) | FLAG.follow }] }
    : { host: [{ ...op, kind: 'tree' }], make: [] }
}

/**
 * Attributes and propagation that come one after the other, because some hold for this mount and others for
 * all below.
 */
function adjustOps(slot: number, options: MountOptions): Op[] {
  const recursive = options.recursiveSet !== 0 || options.recursiveClear !== 0
  return [
    ...(recursive
      ? [
          {
            kind: 'setattr',
            slot,
            wide: options.recursiveSet,
            wide2: options.recursiveClear,
            flags: FLAG.recursiveAttributes,
          } as const,
        ]
      : []),
    ...options.propagations.map((num): Op => ({ kind: 'setattr', slot, num })),
  ]
}

function bindMount(
  mount: BundleMount,
  options: MountOptions,
  facts: MountFacts,
  take: Take,
  side: TreeSide,
): MountOps {
  const recursive = options.bind?.recursive === true
  const slot = take()
  const idmap = facts.idmaps.get(mount)
  const users = idmap === undefined ? 0 : take()
  const op = {
    slot,
    texts: [mount.source],
    flags: recursive ? FLAG.recursive : 0,
    wide: options.set,
    wide2: options.clear,
    // What the host mounts later may appear inside, never the other way, unless the whole root is shared on
    // purpose.
    num: side.shared ? 0 : MS.slave | MS.rec,
  }
  return {
    ...(idmap === undefined
      ? hostTree(side, op)
      : {
          host: [
            { kind: 'fd', slot: users, num: idmap },
            { ...op, kind: 'tree', from: users, flags: op.flags | FLAG.idmapSlot },
          ],
          make: [],
        }),
    attach: [
      {
        kind: 'attach',
        slot,
        texts: [mount.destination],
        flags: facts.files.has(mount.source) ? FLAG.makeFile : FLAG.makeDir,
      },
      ...adjustOps(slot, options),
    ],
    seal: [],
  }
}

/** A mount(2) on the stage takes options of any length, as overlay needs; the tree is lifted from there. */
function stagedMount(
  mount: BundleMount,
  options: MountOptions,
  facts: MountFacts,
  slot: number,
): readonly Op[] {
  return [
    {
      kind: 'mount',
      texts: [mount.source || mount.type, facts.stageDir, mount.type, options.data.join(',')],
      wide: 0,
    },
    {
      kind: 'subtree',
      slot,
      from: SLOT_NONE,
      texts: [facts.stageDir],
      wide: options.set | options.recursiveSet,
    },
  ]
}

function fileSystemMount(
  mount: BundleMount,
  options: MountOptions,
  facts: MountFacts,
  slot: number,
): MountOps {
  const attributes = options.set | options.recursiveSet
  // A tmpfs that ends up read-only must take the mount points below it first.
  const late = mount.type === 'tmpfs' ? attributes & ATTR.ro : 0
  const now = attributes & ~late
  const data = [`source=${mount.source || mount.type}`, ...options.data]
  const hasMode = data.some((option) => option.startsWith('mode='))
  // A directory that the image keeps others out of stays so behind a tmpfs.
  const copyMode = mount.type === 'tmpfs' && !hasMode ? FLAG.copyMode : 0
  return {
    host: [],
    make: BY_FSOPEN.has(mount.type)
      ? [{ kind: 'fsmount', slot, texts: [mount.type, data], num: data.length, wide: now }]
      : stagedMount(mount, options, facts, slot),
    attach: [
      ...(options.copyUp
        ? [{ kind: 'copyUp', slot, texts: [mount.destination], num: hasMode ? 0 : 1 } as const]
        : []),
      {
        kind: 'attach',
        slot,
        texts: [mount.destination],
        flags:
          FLAG.makeDir |
          copyMode |
          (SYSTEM.has(mount.type) || mount.destination === '/dev' ? FLAG.noSymlinks : 0),
      },
      ...options.propagations.map((num): Op => ({ kind: 'setattr', slot, num })),
    ],
    seal: late === 0 ? [] : [{ kind: 'setattr', slot, wide: late }],
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
    /** To be made once no mount travels back to the host. */
    stage: all.filter(staged).flatMap(({ ops }) => ops.make),
    attach: all.flatMap(({ ops }) => ops.attach),
    seal: all.flatMap(({ ops }) => ops.seal),
  }
}

/**
 * A container sees its own cgroup only: its directories are bound from the host, one on v2, one per hierarchy
 * on v1 with a tmpfs around them. Without a cgroup namespace on v2 it is asked to see all of them.
 */
function cgroupMount(mount: BundleMount, facts: MountFacts, take: Take, side: TreeSide): MountOps {
  const options = parseMountOptions(mount.options)
  const tree = (slot: number, path: string) =>
    hostTree(side, { slot, texts: [path], wide: options.set | options.recursiveSet, num: MS.slave | MS.rec })
  if (facts.cgroup.version === 2) {
    const slot = take()
    const path = facts.cgroupNamespace ? facts.cgroup.directories[0]!.path : facts.cgroupTop
    return {
      ...tree(slot, path),
      attach: [{ kind: 'attach', slot, texts: [mount.destination], flags: FLAG.makeDir | FLAG.noSymlinks }],
      seal: [],
    }
  }
  const around = take()
  const hierarchies = facts.cgroup.directories.map((directory) => ({ ...directory, slot: take() }))
  const data = ['source=tmpfs', 'mode=755', 'size=64k']
  const trees = hierarchies.map(({ slot, path }) => tree(slot, path))
  return {
    host: trees.flatMap(({ host }) => host),
    make: [
      {
        kind: 'fsmount',
        slot: around,
        texts: ['tmpfs', data],
        num: data.length,
        wide: (options.set & ~ATTR.ro) | ATTR.nosuid | ATTR.nodev,
      },
      ...trees.flatMap(({ make }) => make),
    ],
    attach: [
      { kind: 'attach', slot: around, texts: [mount.destination], flags: FLAG.makeDir | FLAG.noSymlinks },
      ...hierarchies.map(({ slot, mountName }): Op => ({
        kind: 'attach',
        slot,
        texts: [`${mount.destination}/${mountName}`],
        flags: FLAG.makeDir | FLAG.noSymlinks,
      })),
      // Hierarchies with several controllers are found under the name of each ("cpu" -> "cpu,cpuacct").
      ...hierarchies.flatMap(({ controllers, mountName }) =>
        controllers
          .filter((name) => name !== mountName && !name.startsWith('name='))
          .map((name): Op => ({ kind: 'symlink', texts: [mountName, `${mount.destination}/${name}`] })),
      ),
    ],
    seal: (options.set & ATTR.ro) === 0 ? [] : [{ kind: 'setattr', slot: around, wide: ATTR.ro }],
  }
}
