// A bundle's container becomes two plans.  The first is performed by the clone: it enters namespaces and
// becomes wherry-init.  The second goes to that wherry-init over its socket and does all the rest, because
// only a process of its own can run hooks in between and wait for "start".  Pure, like plan.ts, whose rules
// of order hold here too: the host's files are opened on the host's side, /proc is mounted while the host's
// own is visible, and behind the pivot every path ends inside the container's root.

import type {
  BundleNamespaceType,
  BundleProcess,
  BundleSpec,
  Hook,
  Scheduler,
} from '../../contract/bundle-spec.ts'
import { consoleOps, deviceOps, hostDevices, needsDevices } from './devices.ts'
import { makesMounts, mountOps, type MountFacts } from './mounts.ts'
import { capabilitySets, programPaths } from '../plan.ts'
import { ATTR, CLONE, CLONE_TIME, FLAG, MS, RLIMIT, SLOT_NONE, type Op, type Plan } from '../ops.ts'
import { propagationFlags } from './mount-options.ts'
import type { CompiledSeccomp } from './seccomp.ts'

const INIT_NAME = 'wherry-init'
/** Where the spec leaves it open; the caller's own says nothing about the container. */
const UMASK = 0o022
/** personality(2) */
const PERSONALITY = { LINUX: 0, LINUX32: 8 } as const

export interface EntryFacts {
  /** Descriptors: of wherry-init in sealed memory, and of the child's end of its socket. */
  readonly initFd: number
  readonly socketFd: number
  /** Descriptors 3, 4 … that the container's program shall have. */
  readonly preserveFds: number
  /** Namespaces to join: an open descriptor, a namespace's own or a pidfd, and what of it. */
  readonly joined: ReadonlyArray<{ readonly fd: number; readonly types: readonly BundleNamespaceType[] }>
  readonly created: readonly BundleNamespaceType[]
  readonly uidMap: string
  readonly gidMap: string
  readonly cgroupFd: number
  readonly cgroupTasks: readonly string[]
  /**
   * For a new time namespace: the host's /proc, through which the lines are written before anybody is in it.
   */
  readonly clocks?: { readonly procFd: number; readonly offsets: string }
}

const flagsOf = (types: readonly BundleNamespaceType[]): number =>
  types.reduce((flags, type) => flags | (type === 'time' ? CLONE_TIME : CLONE[type]), 0)

function planOf(ops: readonly Op[], cloneFlags = 0, cgroupFd = -1): Plan {
  return { cloneFlags, cgroupFd, idmapFd: -1, netnsFd: -1, idBase: 0, idCount: 1, pipeOwner: 0, ops }
}

/**
 * Enter cgroup and namespaces, become wherry-init. The order of joining: a user namespace last, because in it
 * the capabilities over the others are gone, unless one descriptor (a pidfd) names them together.
 */
export function buildEntryPlan(facts: EntryFacts): Plan {
  const joinsUser = facts.joined.some(({ types }) => types.includes('user'))
  // Inside a user namespace that is joined, the others can only be made once it is.
  // And an ipc namespace belongs, with its message queues, to whoever makes it: not to root outside.
  const late = (type: BundleNamespaceType): boolean =>
    type === 'cgroup' || joinsUser || (type === 'ipc' && facts.created.includes('user'))
  const created = facts.created.filter((type) => type !== 'time')
  const clockSlot = 2 + facts.joined.length
  const joins = facts.joined.map((join, i) => ({ ...join, slot: 2 + i }))
  const inOrder = joins.toSorted(
    (a, b) => Number(a.types.includes('user')) - Number(b.types.includes('user')),
  )
  const unshared = created.filter(late)
  const args = [INIT_NAME, String(facts.socketFd)]
  return planOf(
    [
      { kind: 'fd', slot: 0, num: facts.initFd },
      { kind: 'fd', slot: 1, num: facts.socketFd },
      ...joins.map(({ fd, slot }): Op => ({ kind: 'fd', slot, num: fd })),
      ...(facts.clocks ? [{ kind: 'fd', slot: clockSlot, num: facts.clocks.procFd } as const] : []),
      ...joins
        .filter(({ types }) => types.includes('pid'))
        .map(({ slot }): Op => ({ kind: 'pidNamespace', slot })),
      ...facts.cgroupTasks.map((path): Op => ({ kind: 'cgroupJoin', texts: [path] })),
      ...(facts.created.includes('user')
        ? [{ kind: 'userMaps', texts: [facts.uidMap, facts.gidMap] } as const]
        : []),
      ...inOrder
        .map(({ slot, types }): Op => ({
          kind: 'setns',
          slot,
          wide: flagsOf(types.filter((type) => type !== 'pid')),
        }))
        .filter((op) => op.wide !== 0),
      // It is entered at exec.  While its file in /proc is still our own: with other ids it would be root's.
      ...(facts.created.includes('time') ? [{ kind: 'unshare', wide: CLONE_TIME } as const] : []),
      ...(facts.clocks
        ? [{ kind: 'write', slot: clockSlot, texts: ['self/timens_offsets', facts.clocks.offsets] } as const]
        : []),
      ...(joinsUser || facts.created.includes('user') ? [{ kind: 'setupIds' } as const] : []),
      ...(unshared.length > 0 ? [{ kind: 'unshare', wide: flagsOf(unshared) } as const] : []),
      { kind: 'closeFds', num: facts.preserveFds, flags: FLAG.keepUntilExec },
      { kind: 'keepFds', num: 3 + facts.preserveFds },
      { kind: 'inherit', slot: 1 },
      { kind: 'execFd', slot: 0, texts: [[INIT_NAME], args, []], num: 1, num2: args.length, wide: 0 },
    ],
    flagsOf(created.filter((type) => !late(type))),
    facts.cgroupFd,
  )
}

export interface ProcessFacts {
  readonly preserveFds: number
  readonly seccomp: CompiledSeccomp | undefined
  /** Socket that gets the terminal's master; -1 without a terminal. */
  readonly consoleFd: number
  /** Name of a session keyring of its own; undefined leaves it the caller's. */
  readonly keyring: string | undefined
  /** A time namespace to join, which only a process that shares no memory may: wherry-init. */
  readonly timeFd: number | undefined
  /**
   * For a filter whose calls somebody else decides on: a connection to PATH, and what is told there, JSON.
   */
  readonly listener: { readonly fd: number; readonly path: string; readonly state: string } | undefined
}

export interface ContainerFacts extends ProcessFacts, MountFacts {
  /** Listening socket on which it waits for "start". */
  readonly startFd: number
  /** What hooks read on stdin: the state as JSON, at the time of each kind. */
  readonly state: { readonly creating: string; readonly created: string }
}

function hookOp(hook: Hook, state: string): Op {
  const { path, args, env = [], timeoutMs } = hook
  return {
    kind: 'hook',
    texts: [path, args, env, state],
    num: 1,
    num2: args.length,
    wide: env.length,
    from: timeoutMs,
  }
}

function seccompOps({ seccomp, listener }: ProcessFacts, slot: number): Op[] {
  if (!seccomp) return []
  const filter = { num: seccomp.program.length, num2: seccomp.flags }
  return [
    listener
      ? { kind: 'seccompListen', slot, texts: [seccomp.program, listener.path, listener.state], ...filter }
      : { kind: 'seccomp', texts: [seccomp.program], ...filter },
  ]
}

/** struct sched_attr of sched_setattr(2), SCHED_ATTR_SIZE_VER0. */
function schedulerBytes({ policy, flags, nice, priority, runtime, deadline, period }: Scheduler): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(48))
  bytes.setUint32(0, bytes.byteLength, true)
  bytes.setUint32(4, policy, true)
  bytes.setBigUint64(8, BigInt(flags), true)
  bytes.setInt32(16, nice, true)
  bytes.setUint32(20, priority, true)
  for (const [i, time] of [runtime, deadline, period].entries())
    bytes.setBigUint64(24 + 8 * i, BigInt(time), true)
  return new Uint8Array(bytes.buffer)
}

function listenerFd({ listener }: ProcessFacts, slot: number): Op[] {
  return listener ? [{ kind: 'fd', slot, num: listener.fd }] : []
}

function joinTime(slot: number, timeFd: number | undefined): { host: Op[]; join: Op[] } {
  return timeFd === undefined
    ? { host: [], join: [] }
    : { host: [{ kind: 'fd', slot, num: timeFd }], join: [{ kind: 'setns', slot, wide: CLONE_TIME }] }
}

/**
 * Who the process is and what surrounds it. WAIT stands in the middle: before it whatever can go wrong
 * without the program itself.
 */
function processOps(
  process: BundleProcess,
  facts: ProcessFacts,
  slots: { proc: number; listener: number },
  personality: keyof typeof PERSONALITY | undefined,
  wait: readonly Op[],
): Op[] {
  const groups = new Uint8Array(Uint32Array.from(process.user.additionalGids).buffer)
  const programs = programPaths(process.args[0]!, process.env)
  const { noNewPrivileges } = process
  const rlimits = process.rlimits.map((limit): Op => ({
    kind: 'rlimit',
    texts: [limit.type],
    num: RLIMIT[limit.type as keyof typeof RLIMIT],
    wide: limit.soft,
    wide2: limit.hard,
  }))
  const hasHome = process.env.some((entry) => /^HOME=./.test(entry))
  const env = hasHome ? process.env : process.env.filter((entry) => entry !== 'HOME=')
  return [
    ...(facts.keyring === undefined ? [] : [{ kind: 'keyring', texts: [facts.keyring] } as const]),
    // What needs a right is done now, so that it fails now; what takes something away would take it from
    // wherry-init, too.
    ...rlimits.map((op) => ({ ...op, flags: FLAG.raiseOnly })),
    ...(process.ioPriority === undefined ? [] : [{ kind: 'ioPriority', num: process.ioPriority } as const]),
    ...(process.scheduler === undefined
      ? []
      : [{ kind: 'scheduler', texts: [schedulerBytes(process.scheduler)], num: 48 } as const]),
    ...(personality === undefined ? [] : [{ kind: 'personality', num: PERSONALITY[personality] } as const]),
    { kind: 'chdir', texts: [process.cwd], flags: FLAG.makeDir },
    { kind: 'checkProgram', texts: [programs], num: programs.length },
    ...(process.apparmorProfile === undefined
      ? []
      : [
          {
            kind: 'write',
            slot: slots.proc,
            texts: ['self/attr/apparmor/exec', `exec ${process.apparmorProfile}`],
          } as const,
        ]),
    ...(hasHome ? [] : [{ kind: 'home', num: process.user.uid } as const]),
    ...(process.terminal ? [] : [{ kind: 'stdioOwner', num: process.user.uid } as const]),
    ...wait,
    ...rlimits,
    { kind: 'closeFds', num: facts.preserveFds, flags: FLAG.keepUntilExec },
    // Without no_new_privs only CAP_SYS_ADMIN may install a filter (seccomp(2)), so it comes before the
    // capabilities go.
    ...(noNewPrivileges ? [] : seccompOps(facts, slots.listener)),
    {
      kind: 'ids',
      num: process.user.uid,
      num2: process.user.gid,
      from: process.user.additionalGids.length,
      texts: [groups],
    },
    { kind: 'capabilities', texts: [capabilitySets(process.capabilities)] },
    { kind: 'umask', num: process.umask ?? UMASK },
    ...(noNewPrivileges ? [{ kind: 'noNewPrivs' } as const, ...seccompOps(facts, slots.listener)] : []),
    {
      kind: 'exec',
      flags: FLAG.checked,
      texts: [programs, process.args, env],
      num: programs.length,
      num2: process.args.length,
      wide: env.length,
    },
  ]
}

/**
 * A proc file system of our own, mounted nowhere: whatever an image puts at /proc, settings are written to
 * the kernel's.
 */
function procOps(slot: number): Op[] {
  return [{ kind: 'fsmount', slot, texts: ['proc', []], wide: ATTR.nosuid | ATTR.nodev | ATTR.noexec }]
}

const apparmorProc = (process: BundleProcess, slot: number): Op[] =>
  process.apparmorProfile === undefined ? [] : procOps(slot)

/**
 * "net.ipv4.ip_forward" and "net/ipv4/ip_forward" are one setting; in the second form a dot is a dot
 * (sysctl.d(5)).
 */
function sysctlPath(name: string): string {
  const slash = name.indexOf('/')
  const dot = name.indexOf('.')
  return `sys/${slash >= 0 && (dot < 0 || slash < dot) ? name : name.replaceAll('.', '/')}`
}

/**
 * Where the root is attached for the moment until it is pivoted: on top of everything, because in a user
 * namespace the way to its own folder may be closed. Hooks look for it there, and without a pivot it stays
 * there.
 */
const rootPlace = (spec: BundleSpec): string =>
  makesMounts(spec) && spec.hooks.createContainer.length === 0 ? '/' : spec.root.path

/** Everything that wherry-init does, from its first mount to the program. */
export function buildContainerPlan(spec: BundleSpec, facts: ContainerFacts): Plan {
  let next = 0
  const take = (): number => next++
  const { linux, process } = spec
  const makesUser = linux.namespaces.some((namespace) => namespace.type === 'user')
  const rootSlot = take()
  const proc = take()
  const startSlot = take()
  const consoleSlot = take()
  const timeSlot = take()
  const listenerSlot = take()
  const ownMounts = makesMounts(spec)
  const joinsMounts = linux.namespaces.some(({ type, path }) => type === 'mount' && path !== undefined)
  const trees = mountOps(spec.mounts, facts, take, {
    inChild: !makesUser && !joinsMounts,
    shared: linux.rootfsPropagation?.endsWith('shared') === true,
  })
  const time = joinTime(timeSlot, facts.timeFd)
  const masks = linux.maskedPaths.map((path) => ({ path, slot: take() }))
  const devices = needsDevices(spec) ? hostDevices(linux.devices, makesUser, take) : undefined
  const rootPropagation =
    linux.rootfsPropagation === undefined ? 0 : propagationFlags(linux.rootfsPropagation)!
  const ops: Op[] = [
    // The host's side.
    {
      kind: 'tree',
      slot: rootSlot,
      texts: [spec.root.path],
      flags: FLAG.recursive,
      num: MS.private | MS.rec,
    },
    { kind: 'fd', slot: startSlot, num: facts.startFd },
    ...listenerFd(facts, listenerSlot),
    ...(process.terminal ? [{ kind: 'fd', slot: consoleSlot, num: facts.consoleFd } as const] : []),
    ...time.host,
    ...trees.host,
    ...masks.map(({ slot }): Op => ({
      kind: 'tree',
      slot,
      texts: ['/dev/null'],
      wide: ATTR.ro | ATTR.noexec | ATTR.nosuid,
      num: MS.private,
    })),
    ...(devices?.host ?? []),
    // In the container's namespaces, the host's files still in sight.
    ...time.join,
    ...trees.make,
    ...(ownMounts ? [{ kind: 'propagation', wide: MS.rec | MS.private } as const] : []),
    ...(spec.hostname === undefined ? [] : [{ kind: 'hostname', texts: [spec.hostname] } as const]),
    ...(linux.namespaces.some(({ type, path }) => type === 'network' && path === undefined)
      ? [{ kind: 'loopbackUp' } as const]
      : []),
    ...(spec.domainname === undefined ? [] : [{ kind: 'domainname', texts: [spec.domainname] } as const]),
    { kind: 'attach', slot: rootSlot, texts: [rootPlace(spec)] },
    ...(Object.keys(linux.sysctl).length > 0 ? procOps(proc) : apparmorProc(process, proc)),
    ...trees.stage,
    ...spec.hooks.createContainer.map((hook) => hookOp(hook, facts.state.creating)),
    { kind: 'chdirSlot', slot: rootSlot },
    ownMounts ? { kind: 'pivot', texts: ['.'] } : { kind: 'chroot' },
    // Inside.
    ...trees.attach,
    ...(devices ? deviceOps(linux.devices, devices) : []),
    ...(process.terminal ? consoleOps(process, consoleSlot, true) : []),
    ...Object.entries(linux.sysctl).map(([name, value]): Op => ({
      kind: 'write',
      slot: proc,
      texts: [sysctlPath(name), value],
    })),
    ...masks.map(({ path, slot }): Op => ({ kind: 'mask', slot, texts: [path] })),
    ...linux.readonlyPaths.map((path): Op => ({
      kind: 'bind',
      from: SLOT_NONE,
      texts: [path, path],
      wide: ATTR.ro,
      flags: FLAG.recursive | FLAG.optional | FLAG.follow,
    })),
    ...trees.seal,
    ...(rootPropagation === 0 ? [] : [{ kind: 'propagation', wide: rootPropagation } as const]),
    // The working directory can be made as long as the root takes it.
    ...(spec.root.readonly
      ? ([
          { kind: 'chdir', texts: [process.cwd], flags: FLAG.makeDir },
          { kind: 'attributes', texts: ['/'], wide: ATTR.ro },
        ] as const)
      : []),
    ...processOps(process, facts, { proc, listener: listenerSlot }, linux.personality, [
      { kind: 'wait', slot: startSlot },
      ...spec.hooks.startContainer.map((hook) => hookOp(hook, facts.state.created)),
    ]),
  ]
  return planOf(ops)
}

/**
 * A further process in a container: wherry-init has joined it already. ROOTFD: its root, where that is not
 * the mount namespace's.
 */
export function buildExecPlan(
  process: BundleProcess,
  facts: ProcessFacts & { readonly rootFd: number | undefined },
): Plan {
  const [proc, consoleSlot, timeSlot, rootSlot, listener] = [0, 1, 2, 3, 4]
  const time = joinTime(timeSlot, facts.timeFd)
  return planOf([
    ...(process.terminal ? [{ kind: 'fd', slot: consoleSlot, num: facts.consoleFd } as const] : []),
    ...time.host,
    ...listenerFd(facts, listener),
    ...(facts.rootFd === undefined ? [] : [{ kind: 'fd', slot: rootSlot, num: facts.rootFd } as const]),
    ...time.join,
    ...(facts.rootFd === undefined
      ? []
      : [{ kind: 'chdirSlot', slot: rootSlot } as const, { kind: 'chroot' } as const]),
    ...apparmorProc(process, proc),
    ...(process.terminal ? consoleOps(process, consoleSlot, false) : []),
    ...processOps(process, facts, { proc, listener }, undefined, []),
  ])
}
