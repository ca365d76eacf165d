// A bundle's container takes two plans. The clone performs the first (entry-plan.ts): it enters namespaces
// and becomes wherry-init. The second goes to that wherry-init over its socket and does the rest, because
// only a process of its own can run hooks in between and wait for "start". Pure, and in the order that
// ../plan.ts explains: host files are opened on the host's side, /proc is mounted while the host's own is
// visible, and after the pivot every path ends inside the container's root.

import type { BundleProcess, BundleSpec, Hook } from '../../contract/bundle-spec.ts'
import { ATTR, CLONE_TIME, MS } from '../linux.ts'
import { countHandles, FLAG, HANDLE_NONE, type Handle, type Op, type Plan } from '../ops.ts'
import { consoleOp, deviceOps, hostDevices, needsDevices } from './devices.ts'
import { planOf } from './entry-plan.ts'
import { propagationFlags } from './mount-options.ts'
import { makesMounts, mountOps, type MountFacts } from './mounts.ts'
import { fdOps, processOps, procOp, type ProcessFacts, type ProcessHandles } from './process-ops.ts'

export interface ContainerFacts extends ProcessFacts, MountFacts {
  /** Listening socket on which it waits for "start". */
  readonly startFd: number
  /** What hooks read on stdin: the state as JSON, at the time of each kind. */
  readonly state: { readonly creating: string; readonly created: string }
}

function hookOp({ path, args, env = [], timeoutMs }: Hook, stdin: string): Op {
  return { kind: 'hook', path, args, env, stdin, timeoutMs }
}

function joinTime(handle: Handle, timeFd: number | undefined): readonly Op[] {
  return timeFd === undefined ? [] : [{ kind: 'setns', handle, namespaces: CLONE_TIME }]
}

/**
 * "net.ipv4.ip_forward" and "net/ipv4/ip_forward" name one setting; in the second form a dot is a dot
 * (sysctl.d(5)).
 */
function sysctlPath(name: string): string {
  const slash = name.indexOf('/')
  const dot = name.indexOf('.')
  return `sys/${slash >= 0 && (dot < 0 || slash < dot) ? name : name.replaceAll('.', '/')}`
}

/**
 * Where the root is attached until the pivot: on "/", because in a user namespace the path to its own folder
 * may be closed. createContainer hooks expect it at its own folder, and without a pivot it stays there.
 */
const rootPlace = (spec: BundleSpec): string =>
  makesMounts(spec) && spec.hooks.createContainer.length === 0 ? '/' : spec.root.path

interface Parts {
  readonly handles: ProcessHandles & {
    readonly root: Handle
    readonly start: Handle
    readonly console: Handle
    readonly time: Handle
  }
  readonly trees: ReturnType<typeof mountOps>
  readonly masks: ReadonlyArray<{ readonly path: string; readonly handle: Handle }>
  /** undefined: the container has the host's /dev. */
  readonly devices: ReturnType<typeof hostDevices> | undefined
}

/** Everything that handles refer to. */
function partsOf(spec: BundleSpec, facts: ContainerFacts): Parts {
  const take = countHandles()
  const { linux } = spec
  const makesUser = linux.namespaces.some(({ type }) => type === 'user')
  const joinsMounts = linux.namespaces.some(({ type, path }) => type === 'mount' && path !== undefined)
  return {
    handles: {
      root: take(),
      proc: take(),
      start: take(),
      console: take(),
      time: take(),
      listener: take(),
    },
    trees: mountOps(spec.mounts, facts, take, {
      inChild: !makesUser && !joinsMounts,
      shared: linux.rootfsPropagation?.endsWith('shared') === true,
    }),
    masks: linux.maskedPaths.map((path) => ({ path, handle: take() })),
    devices: needsDevices(spec) ? hostDevices(linux.devices, makesUser, take) : undefined,
  }
}

/** The caller's half: descriptors and trees of the host. */
function hostOps(spec: BundleSpec, facts: ContainerFacts, parts: Parts): readonly Op[] {
  const { handles, trees, masks, devices } = parts
  return [
    {
      kind: 'tree',
      handle: handles.root,
      path: spec.root.path,
      flags: FLAG.recursive,
      propagation: MS.private | MS.rec,
    },
    { kind: 'fd', handle: handles.start, fd: facts.startFd },
    ...fdOps(handles.listener, facts.listener?.fd),
    ...fdOps(handles.console, spec.process.terminal ? facts.consoleFd : undefined),
    ...fdOps(handles.time, facts.timeFd),
    ...trees.host,
    ...masks.map(({ handle }): Op => ({
      kind: 'tree',
      handle,
      path: '/dev/null',
      set: ATTR.ro | ATTR.noexec | ATTR.nosuid,
      propagation: MS.private,
    })),
    ...(devices?.host ?? []),
  ]
}

/** In the container's namespaces, with the host's files still in sight: up to the pivot. */
function outsideOps(spec: BundleSpec, facts: ContainerFacts, { handles, trees }: Parts): readonly Op[] {
  const { linux, hostname, domainname } = spec
  const ownMounts = makesMounts(spec)
  const newNetwork = linux.namespaces.some(({ type, path }) => type === 'network' && path === undefined)
  const needsProc = Object.keys(linux.sysctl).length > 0 || spec.process.apparmorProfile !== undefined
  return [
    ...joinTime(handles.time, facts.timeFd),
    ...trees.make,
    ...(ownMounts ? [{ kind: 'propagation', propagation: MS.rec | MS.private } as const] : []),
    ...(hostname === undefined ? [] : [{ kind: 'hostname', name: hostname } as const]),
    ...(newNetwork ? [{ kind: 'loopbackUp' } as const] : []),
    ...(domainname === undefined ? [] : [{ kind: 'domainname', name: domainname } as const]),
    { kind: 'attach', handle: handles.root, target: rootPlace(spec) },
    ...(needsProc ? [procOp(handles.proc)] : []),
    ...trees.stage,
    ...spec.hooks.createContainer.map((hook) => hookOp(hook, facts.state.creating)),
    { kind: 'fchdir', handle: handles.root },
    ownMounts ? { kind: 'pivot', root: '.' } : { kind: 'chroot' },
  ]
}

/** Inside the container's root. */
function insideOps(spec: BundleSpec, { handles, trees, masks, devices }: Parts): readonly Op[] {
  const { linux, process } = spec
  const propagation = linux.rootfsPropagation === undefined ? 0 : propagationFlags(linux.rootfsPropagation)!
  return [
    ...trees.attach,
    ...(devices ? deviceOps(linux.devices, devices) : []),
    ...(process.terminal ? [consoleOp(process, handles.console, true)] : []),
    ...Object.entries(linux.sysctl).map(([name, content]): Op => ({
      kind: 'write',
      below: handles.proc,
      path: sysctlPath(name),
      content,
    })),
    ...masks.map((mask): Op => ({ kind: 'mask', ...mask })),
    ...linux.readonlyPaths.map((path): Op => ({
      kind: 'bind',
      below: HANDLE_NONE,
      source: path,
      target: path,
      set: ATTR.ro,
      flags: FLAG.recursive | FLAG.optional | FLAG.follow,
    })),
    ...trees.seal,
    ...(propagation === 0 ? [] : [{ kind: 'propagation', propagation } as const]),
    // The working directory is created while the root is still writable.
    ...(spec.root.readonly
      ? ([
          { kind: 'chdir', path: process.cwd, flags: FLAG.makeDir },
          { kind: 'attributes', target: '/', set: ATTR.ro },
        ] as const)
      : []),
  ]
}

/** Everything that wherry-init does, from its first mount to the program. */
export function buildContainerPlan(spec: BundleSpec, facts: ContainerFacts): Plan {
  const parts = partsOf(spec, facts)
  const { personality } = spec.linux
  return planOf([
    ...hostOps(spec, facts, parts),
    ...outsideOps(spec, facts, parts),
    ...insideOps(spec, parts),
    ...processOps(spec.process, facts, parts.handles, {
      personality,
      pause: [{ kind: 'wait', socket: parts.handles.start }],
      // The image chooses the program behind such a hook's path, so it gets no more than the process itself.
      beforeExec: spec.hooks.startContainer.map((hook) =>
        hookOp({ ...hook, env: hook.env ?? spec.process.env }, facts.state.created),
      ),
    }),
  ])
}

/**
 * A further process in a container, whose namespaces wherry-init has already joined. ROOTFD is the
 * container's root where that differs from the mount namespace's.
 */
export function buildExecPlan(
  process: BundleProcess,
  facts: ProcessFacts & { readonly rootFd: number | undefined },
): Plan {
  const take = countHandles()
  const [proc, console, time, root, listener] = [take(), take(), take(), take(), take()]
  return planOf([
    ...fdOps(console, process.terminal ? facts.consoleFd : undefined),
    ...fdOps(time, facts.timeFd),
    ...fdOps(listener, facts.listener?.fd),
    ...fdOps(root, facts.rootFd),
    ...joinTime(time, facts.timeFd),
    ...(facts.rootFd === undefined
      ? []
      : [{ kind: 'fchdir', handle: root } as const, { kind: 'chroot' } as const]),
    ...(process.apparmorProfile === undefined ? [] : [procOp(proc)]),
    ...(process.terminal ? [consoleOp(process, console, false)] : []),
    ...processOps(process, facts, { proc, listener }),
  ])
}
