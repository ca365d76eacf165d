// A runtime spec becomes a plan: the exact operations, in the exact order, with nothing left to
// decide.  Pure; the host's facts (descriptors, directories, what this kernel has) come in as
// values.  Read buildPlan from top to bottom and you have read the life of a container's start.
//
// Three things fix the order.  What comes from the host is opened before the clone.  /proc can be
// mounted only while the host's own is still visible (mount_too_revealing() in fs/namespace.c), so
// it is made before the pivot and attached behind it.  And nothing is looked up through the image
// before the pivot, so that no symbolic link in it can lead outside.

import { StartError } from '../contract/errors.ts'
import type { Capabilities, Mount, RuntimeSpec } from '../contract/runtime-spec.ts'
import { capabilityMask } from './capability.ts'
import { checkSpec } from './check.ts'
import { ATTR, CLONE, FLAG, MS, RLIMIT, SLOT_NONE, type Op, type Plan } from './ops.ts'
import { ID_COUNT } from './user.ts'

/** What the plan takes from the host; made by slots.ts, cgroup.ts, devices.ts and seccomp.ts. */
export interface HostFacts {
  /** An empty directory to build the root on; hidden by the container's own mounts. */
  readonly stageDir: string
  /** A folder with the standard device nodes, for one container at a time. */
  readonly devDir: string
  readonly idBase: number
  /**
   * -1: the data folder's file system cannot map ids; files of layers and volumes then belong to nobody
   * inside.
   */
  readonly idmapFd: number
  /** -1 makes a new network namespace. */
  readonly netnsFd: number
  /** v2: the cgroup's descriptor, else -1. */
  readonly cgroupFd: number
  /** v1: the `tasks` files to join. */
  readonly cgroupTasks: readonly string[]
  readonly seccomp: Uint8Array
  /**
   * This kernel's tmpfs keeps no user.* attributes (before Linux 6.6): the worker mounts a root on it, whose
   * overlay may use trusted.*.
   */
  readonly rootByWorker: boolean
  /** Which of a spec's masked and read-only paths this kernel has, and whether they are directories. */
  readonly procPaths: ReadonlyMap<string, 'file' | 'directory'>
}

const SIGKILL = 9
const ROOT_MODE = 0o755
/**
 * As a program expects it, and what is made for it on the way there; the worker's own is its starter's
 * business.
 */
const UMASK = 0o022
/** What a message quotes of a command. */
const QUOTED_MAX = 256

function attributesOf(options: readonly string[]): number {
  return (
    (options.includes('ro') ? ATTR.ro : 0) |
    (options.includes('nosuid') ? ATTR.nosuid : 0) |
    (options.includes('nodev') ? ATTR.nodev : 0) |
    (options.includes('noexec') ? ATTR.noexec : 0)
  )
}

function modeOf(mount: Mount): number {
  const mode = mount.options.find((option) => option.startsWith('mode='))
  return mode ? parseInt(mode.slice('mode='.length), 8) : ROOT_MODE
}

/** Hands out slots and remembers which mount or layer has which. */
function createSlots() {
  let next = 0
  return { take: (): number => next++ }
}

type Slots = ReturnType<typeof createSlots>

/** Layers, devices and volumes: detached copies made by the host, ids mapped to the container's range. */
function hostTrees(spec: RuntimeSpec, facts: HostFacts, slots: Slots) {
  const ops: Op[] = []
  const flags = facts.idmapFd < 0 ? 0 : FLAG.idmap
  const layers = spec.root.layers.map((path) => {
    const slot = slots.take()
    ops.push({ kind: 'tree', slot, texts: [path], wide: ATTR.ro | ATTR.nodev, flags })
    return slot
  })
  const mounts = new Map<Mount, number>()
  for (const mount of spec.mounts) {
    if (mount.type !== 'bind' && mount.type !== 'dev') continue
    const slot = slots.take()
    mounts.set(mount, slot)
    const path = mount.type === 'dev' ? facts.devDir : mount.source!
    ops.push({ kind: 'tree', slot, texts: [path], wide: attributesOf(mount.options), flags })
  }
  const { writable } = spec.root
  if (writable === undefined) return { ops, layers, mounts }
  if (facts.idmapFd < 0)
    throw new StartError(
      'what is written to the root cannot be kept: the file system of the data folder cannot be mounted with mapped ids',
      'ERR_START',
    )
  const slot = slots.take()
  ops.push({ kind: 'tree', slot, texts: [writable], wide: ATTR.nosuid | ATTR.nodev, flags: FLAG.idmap })
  return { ops, layers, mounts, writable: slot }
}

/** A tmpfs for all that a container writes, whose root belongs to OWNER. */
function scratchOp({ root }: RuntimeSpec, slot: number, owner: number): Op {
  const options = [
    `size=${root.scratchBytes}`,
    `nr_inodes=${root.scratchInodes}`,
    'mode=0755',
    `uid=${owner}`,
    `gid=${owner}`,
  ]
  return {
    kind: 'fsmount',
    slot,
    texts: ['tmpfs', options],
    num: options.length,
    wide: ATTR.nosuid | ATTR.nodev,
  }
}

interface RootOps {
  /** Before the clone. */
  readonly before: readonly Op[]
  readonly ops: readonly Op[]
  readonly scratch: number
}

/** The scratch file system with the overlay on it; leaves the cwd in it and the root at "root". */
function rootOps(
  spec: RuntimeSpec,
  facts: HostFacts,
  slots: Slots,
  { layers, writable }: ReturnType<typeof hostTrees>,
): RootOps {
  const scratch = slots.take()
  const lower = layers.map((_, i) => `l${i}`)
  const above = writable === undefined ? '' : 'disk/'
  return {
    before: [],
    scratch,
    ops: [
      // Owner in the container's ids: the file system is made by somebody who is not yet root there.
      scratchOp(spec, scratch, 0),
      { kind: 'attach', slot: scratch, texts: [facts.stageDir] },
      { kind: 'setupIds' },
      { kind: 'chdirSlot', slot: scratch },
      ...[...(writable === undefined ? ['upper', 'work'] : ['disk']), 'root', 'empty', ...lower].map(
        (name): Op => ({ kind: 'mkdir', slot: scratch, texts: [name], num: ROOT_MODE }),
      ),
      ...layers.map((slot, i): Op => ({ kind: 'attach', slot, texts: [lower[i]!] })),
      ...(writable === undefined ? [] : [{ kind: 'attach', slot: writable, texts: ['disk'] } as const]),
      {
        kind: 'mount',
        // userxattr: an overlay of a user namespace keeps its notes in user.overlay.* (overlayfs.rst).
        texts: [
          'overlay',
          'root',
          'overlay',
          `lowerdir=${lower.toReversed().join(':')},upperdir=${above}upper,workdir=${above}work,userxattr`,
        ],
        // Set-user-ID programs get nothing where no new privileges are to be had anyway.
        wide: (spec.process.noNewPrivileges ? MS.nosuid : 0) | MS.nodev,
      },
    ],
  }
}

/**
 * The same with both mounted by the worker, aside: its overlay keeps notes in trusted.overlay.*, which a
 * tmpfs always had and which only the host's root may write. Marks of layers are user.overlay.*, so several
 * become one by an overlay of their own that reads those.
 */
function workerRootOps(
  spec: RuntimeSpec,
  facts: HostFacts,
  slots: Slots,
  { layers }: ReturnType<typeof hostTrees>,
): RootOps {
  const [made, overlay, scratch] = [slots.take(), slots.take(), slots.take()]
  const lower = layers.map((_, i) => `l${i}`)
  const mkdir =
    (slot: number) =>
    (name: string): Op => ({ kind: 'mkdir', slot, texts: [name], num: ROOT_MODE })
  const options = [
    'source=overlay',
    `lowerdir=${lower.length === 1 ? lower[0]! : 'lower'}`,
    'upperdir=upper',
    'workdir=work',
  ]
  const aside: Op[] = [
    { kind: 'propagation', wide: MS.rec | MS.private },
    scratchOp(spec, made, facts.idBase),
    { kind: 'attach', slot: made, texts: [facts.stageDir] },
    { kind: 'chdirSlot', slot: made },
    // It is the container's "/".
    { ...mkdir(made)('upper'), num2: facts.idBase },
    ...['work', 'lower', ...lower].map(mkdir(made)),
    ...layers.map((slot, i): Op => ({ kind: 'attach', slot, texts: [lower[i]!] })),
    ...(lower.length === 1
      ? []
      : [
          {
            kind: 'mount',
            texts: ['overlay', 'lower', 'overlay', `lowerdir=${lower.toReversed().join(':')},userxattr`],
            wide: MS.nodev,
          } as const,
        ]),
    {
      kind: 'fsmount',
      slot: overlay,
      texts: ['overlay', options],
      num: options.length,
      wide: (spec.process.noNewPrivileges ? ATTR.nosuid : 0) | ATTR.nodev,
    },
    { kind: 'subtree', slot: scratch, from: SLOT_NONE, texts: ['.'] },
  ]
  return {
    before: [{ kind: 'aside', num: aside.length }, ...aside],
    scratch,
    ops: [
      { kind: 'attach', slot: scratch, texts: [facts.stageDir] },
      { kind: 'setupIds' },
      { kind: 'chdirSlot', slot: scratch },
      ...['root', 'empty'].map(mkdir(scratch)),
      { kind: 'attach', slot: overlay, texts: ['root'] },
    ],
  }
}

/** Mounts that must be made before the pivot and are attached behind it. */
function innerTrees(spec: RuntimeSpec, slots: Slots, scratch: number) {
  const ops: Op[] = []
  const mounts = new Map<Mount, number>()
  for (const [i, mount] of spec.mounts.entries()) {
    if (mount.type === 'proc') {
      const slot = slots.take()
      ops.push({ kind: 'fsmount', slot, texts: ['proc', []], wide: attributesOf(mount.options) })
      // Below a proc file system that is mounted nowhere yet: nothing of the image can stand in the way.
      for (const [name, value] of Object.entries(spec.linux.sysctl ?? {}))
        ops.push({ kind: 'write', slot, texts: [`sys/${name.replaceAll('.', '/')}`, value] })
      mounts.set(mount, slot)
    }
    if (mount.type === 'scratch') {
      const slot = slots.take()
      ops.push({ kind: 'mkdir', slot: scratch, texts: [`m${i}`], num: modeOf(mount) })
      ops.push({ kind: 'subtree', slot, from: scratch, texts: [`m${i}`], wide: attributesOf(mount.options) })
      mounts.set(mount, slot)
    }
  }
  return { ops, mounts }
}

/**
 * An image that ships a symbolic link where the system's own file systems go is refused; a volume or /tmp may
 * lie behind a link (/var/run), which then is resolved inside the container's root, and may not lead to
 * /proc.
 */
function attachOp(mount: Mount, slot: number): Op {
  const system = mount.type === 'proc' || mount.type === 'dev'
  const made = mount.options.includes('file') ? FLAG.makeFile : FLAG.makeDir
  return {
    kind: 'attach',
    slot,
    texts: [mount.destination],
    flags: made | (system ? FLAG.noSymlinks : FLAG.notOnProc),
  }
}

/** Masked files become the null device, masked directories an empty one, both read-only. */
function hidingOps(
  spec: RuntimeSpec,
  facts: HostFacts,
  slots: Slots,
  scratch: number,
): { before: Op[]; behind: Op[] } {
  const before: Op[] = []
  const behind: Op[] = []
  for (const path of spec.linux.maskedPaths) {
    const kind = facts.procPaths.get(path)
    if (kind === 'file')
      behind.push({
        kind: 'bind',
        from: SLOT_NONE,
        texts: ['/dev/null', path],
        wide: ATTR.ro | ATTR.noexec,
        flags: FLAG.noSymlinks,
      })
    if (kind === 'directory') {
      const slot = slots.take()
      before.push({ kind: 'subtree', slot, from: scratch, texts: ['empty'], wide: ATTR.ro | ATTR.noexec })
      behind.push({ kind: 'attach', slot, texts: [path], flags: FLAG.noSymlinks })
    }
  }
  for (const path of spec.linux.readonlyPaths) {
    if (!facts.procPaths.has(path)) continue
    behind.push({
      kind: 'bind',
      from: SLOT_NONE,
      texts: [path, path],
      wide: ATTR.ro | ATTR.nosuid | ATTR.nodev | ATTR.noexec,
      flags: FLAG.noSymlinks | FLAG.recursive | FLAG.recursiveAttributes,
    })
  }
  return { before, behind }
}

export function capabilitySets(capabilities: Capabilities): Uint8Array {
  const { bounding, permitted, inheritable, effective, ambient } = capabilities
  return new Uint8Array(
    BigUint64Array.from([bounding, permitted, inheritable, effective, ambient].map(capabilityMask)).buffer,
  )
}

/** As execvp(3): a name with a slash is a path, any other is looked for in the container's PATH. */
export function programPaths(name: string, env: readonly string[]): readonly string[] {
  if (name === '' || name.includes('/')) return [name]
  const path = env.find((variable) => variable.startsWith('PATH='))?.slice('PATH='.length) ?? ''
  return path.split(':', 64).map((directory) => `${directory === '' ? '.' : directory}/${name}`)
}

function processOps(spec: RuntimeSpec, facts: HostFacts): Op[] {
  const { process } = spec
  const groups = new Uint8Array(Uint32Array.from(process.user.additionalGids).buffer)
  const programs = programPaths(process.args[0]!, process.env)
  const filter: Op = { kind: 'seccomp', texts: [facts.seccomp], num: facts.seccomp.length }
  return [
    ...process.rlimits.map((limit): Op => ({
      kind: 'rlimit',
      num: RLIMIT[limit.type as keyof typeof RLIMIT],
      wide: limit.soft,
      wide2: limit.hard,
    })),
    { kind: 'closeFds' },
    { kind: 'chdir', texts: [process.cwd], flags: FLAG.makeDir },
    // Without no_new_privs only CAP_SYS_ADMIN may install a filter (seccomp(2)), so it comes before the
    // capabilities go.
    ...(process.noNewPrivileges ? [] : [filter]),
    {
      kind: 'ids',
      num: process.user.uid,
      num2: process.user.gid,
      from: process.user.additionalGids.length,
      texts: [groups],
    },
    { kind: 'capabilities', texts: [capabilitySets(process.capabilities)] },
    ...(process.noNewPrivileges ? [{ kind: 'noNewPrivs' } as const] : []),
    // After the ids: a change of credentials forgets it (prctl(2)).
    { kind: 'parentDeath', num: SIGKILL },
    ...(process.noNewPrivileges ? [filter] : []),
    {
      kind: 'exec',
      texts: [programs, process.args, process.env],
      num: programs.length,
      num2: process.args.length,
      wide: process.env.length,
    },
  ]
}

/** SPEC and FACTS as a plan.  Throws StartError that names every wrong field of SPEC. */
export function buildPlan(spec: RuntimeSpec, facts: HostFacts): Plan {
  checkSpec(spec)
  const slots = createSlots()
  const host = hostTrees(spec, facts, slots)
  // A folder on disk keeps user.* attributes on all kernels; without mapped ids nobody inside could change
  // what an overlay of the host's shows.
  const byWorker = facts.rootByWorker && host.writable === undefined && facts.idmapFd >= 0
  const root = (byWorker ? workerRootOps : rootOps)(spec, facts, slots, host)
  const inner = innerTrees(spec, slots, root.scratch)
  const hiding = hidingOps(spec, facts, slots, root.scratch)
  const newNetwork = spec.linux.namespaces.includes('network') && facts.netnsFd < 0
  const system = spec.mounts.filter((mount) => mount.type !== 'bind')
  const volumes = spec.mounts.filter((mount) => mount.type === 'bind')
  // The cgroup namespace is entered behind the cgroup, so that its root is the container's own.
  const atClone = spec.linux.namespaces.filter(
    (name) => name !== 'cgroup' && (name !== 'network' || newNetwork),
  )
  const ops: Op[] = [
    ...host.ops,
    ...root.before,
    ...facts.cgroupTasks.map((path): Op => ({ kind: 'cgroupJoin', texts: [path] })),
    { kind: 'userMaps' },
    { kind: 'umask', num: UMASK },
    ...(spec.linux.namespaces.includes('cgroup') ? [{ kind: 'unshare', wide: CLONE.cgroup } as const] : []),
    { kind: 'propagation', wide: MS.rec | MS.private },
    ...root.ops,
    ...inner.ops,
    ...hiding.before,
    { kind: 'pivot', texts: ['root'] },
    ...system.map((mount) => attachOp(mount, host.mounts.get(mount) ?? inner.mounts.get(mount)!)),
    ...hiding.behind,
    // After the masks: a volume whose target leads to /dev by a link of the image must not supply their
    // /dev/null.
    ...volumes.map((mount) => attachOp(mount, host.mounts.get(mount)!)),
    ...(spec.root.readonly ? [{ kind: 'attributes', texts: ['/'], wide: ATTR.ro } as const] : []),
    ...(spec.hostname === undefined ? [] : [{ kind: 'hostname', texts: [spec.hostname] } as const]),
    ...(newNetwork ? [{ kind: 'loopbackUp' } as const] : []),
    ...processOps(spec, facts),
  ]
  return {
    cloneFlags: atClone.reduce((flags, name) => flags | CLONE[name], 0),
    cgroupFd: facts.cgroupFd,
    idmapFd: facts.idmapFd,
    netnsFd: spec.linux.namespaces.includes('network') ? facts.netnsFd : -1,
    idBase: facts.idBase,
    idCount: ID_COUNT,
    pipeOwner: facts.idBase + spec.process.user.uid,
    ops,
  }
}

export interface StartFailure {
  readonly code: 'ERR_COMMAND_NOT_FOUND' | 'ERR_COMMAND_NOT_EXECUTABLE' | 'ERR_INVALID_ROOTFS'
  readonly message: string
}

/** Why OP failed with ERRNO, where image or function are the reason; undefined where the host is. */
export function explainFailure(
  spec: RuntimeSpec,
  op: Op | undefined,
  errno: string,
): StartFailure | undefined {
  const name = spec.process.args[0]?.slice(0, QUOTED_MAX)
  if (op?.kind === 'exec') {
    if (errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'ENAMETOOLONG')
      return {
        code: 'ERR_COMMAND_NOT_FOUND',
        message: `command "${name}" is not in the image (or its interpreter is not)`,
      }
    if (errno === 'ELOOP')
      return {
        code: 'ERR_COMMAND_NOT_EXECUTABLE',
        message: `command "${name}" leads through a link of /proc to a program that is not the image's, or through more links or scripts than the kernel follows`,
      }
    if (errno === 'EACCES')
      return {
        code: 'ERR_COMMAND_NOT_EXECUTABLE',
        message: `command "${name}" is in the image but may not be executed (permission denied)`,
      }
    if (errno === 'ENOEXEC')
      return {
        code: 'ERR_COMMAND_NOT_EXECUTABLE',
        message: `command "${name}" is not a program for this machine (no "#!" line, or another architecture)`,
      }
    if (errno === 'E2BIG')
      return {
        code: 'ERR_COMMAND_NOT_EXECUTABLE',
        message: `command "${name}": arguments and environment together are too long for the kernel`,
      }
  }
  if (op?.kind === 'chdir')
    return {
      code: 'ERR_INVALID_ROOTFS',
      message: `working directory "${spec.process.cwd}" cannot be entered (${errno})`,
    }
  if (op?.kind === 'attach' || op?.kind === 'bind') {
    const target = op.texts?.find((text) => typeof text === 'string' && text.startsWith('/'))
    if (errno === 'ELOOP')
      return {
        code: 'ERR_INVALID_ROOTFS',
        message: `the image has a symbolic link at ${String(target)}, where a file system has to go`,
      }
    if (errno === 'EXDEV')
      return {
        code: 'ERR_INVALID_ROOTFS',
        message: `the image has a symbolic link at ${String(target)} that leads to /proc, where nothing may be mounted`,
      }
    if (errno === 'ENOENT')
      return {
        code: 'ERR_INVALID_ROOTFS',
        message: `the image has a symbolic link at ${String(target)} that leads nowhere`,
      }
    if (errno === 'EROFS')
      return {
        code: 'ERR_INVALID_ROOTFS',
        message: `the image has a symbolic link at ${String(target)} that leads to where nothing can be made`,
      }
    if (errno === 'ENOTDIR' || errno === 'EINVAL')
      return {
        code: 'ERR_INVALID_ROOTFS',
        message: `the image has something that is not a directory at ${String(target)}`,
      }
  }
  return undefined
}
