// A bundle's container, step by step: a wherry-init in its namespaces and cgroup, the plan sent to it, the
// word to start. The steps are separate because engines request them one by one, from processes of their own;
// the caller keeps what is needed in between (services/containers/records.ts).

import { closeSync, openSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type {
  BundleMount,
  BundleNamespaceType,
  BundleProcess,
  BundleSpec,
  IdMapping,
} from '../../contract/bundle-spec.ts'
import { defined } from '../../contract/defined.ts'
import { SyscallError } from '../../contract/errors.ts'
import { joinCgroup, topOfCgroups, type CgroupTree } from '../cgroup/tree.ts'
import type { Native } from '../native.ts'
import type { Plan } from '../ops.ts'
import { describeOp } from '../wire.ts'
import { buildEntryPlan, type JoinedNamespaces } from './entry-plan.ts'
import { explain, killed } from './failure.ts'
import { openFilter } from './filter.ts'
import { idmapOf, makesMounts } from './mounts.ts'
import {
  checkClocks,
  checkMountNamespace,
  foreignTypes,
  isForeign,
  openNamespace,
  openNamespaceOf,
} from './namespaces.ts'
import { buildContainerPlan, buildExecPlan } from './plan.ts'
import type { ProcessFacts } from './process-ops.ts'

/** The socket in a container's folder on which it waits for "start"; removed once it has started. */
export const START_SOCKET = 'start.sock'

/** A wherry-init that waits for its plan. The caller closes both descriptors. */
export interface Entered {
  readonly pid: number
  readonly pidfd: number
  /** Our end of its socket. */
  readonly socket: number
}

export interface InitDeps {
  readonly native: Native
  readonly nativeDir: string
}

interface EntryRequest {
  readonly cgroup: CgroupTree
  readonly preserveFds: number
  readonly joined: readonly JoinedNamespaces[]
  readonly created: readonly BundleNamespaceType[]
  readonly uidMap: string
  readonly gidMap: string
  readonly oomScoreAdj: number | undefined
  readonly timeOffsets?: string
}

function closeAll(fds: Iterable<number | undefined>): void {
  for (const fd of fds) if (fd !== undefined) closeSync(fd)
}

/** Lines of uid_map (user_namespaces(7)). */
const mapText = (mappings: readonly IdMapping[]): string =>
  mappings.map((m) => `${m.containerID} ${m.hostID} ${m.size}\n`).join('')

function enter({ native, nativeDir }: InitDeps, request: EntryRequest): Entered {
  const { timeOffsets: offsets } = request
  const initFd = native.sealedCopy(join(nativeDir, 'wherry-init'))
  const [ours, theirs] = native.socketPair()
  const procFd = openSync('/proc', 'r')
  try {
    const clocks = offsets === undefined ? undefined : { procFd, offsets }
    const started = joinCgroup(request.cgroup, (cgroup) =>
      native.start(
        buildEntryPlan({ ...request, ...cgroup, ...defined({ clocks }), initFd, socketFd: theirs }),
        false,
      ),
    )
    if (request.created.includes('time')) checkClocks(started.pid)
    // Written from outside: inside there may be no /proc, nor the right to lower the score.
    if (request.oomScoreAdj !== undefined) native.oomScore(started.pid, request.oomScoreAdj)
    return { pid: started.pid, pidfd: started.pidfd, socket: ours }
  } catch (err) {
    closeSync(ours)
    throw err
  } finally {
    closeAll([initFd, theirs, procFd])
  }
}

/** A wherry-init in new namespaces and in those that SPEC names by path.  Throws SyscallError. */
export function enterContainer(
  deps: InitDeps,
  spec: BundleSpec,
  { cgroup, preserveFds }: { cgroup: CgroupTree; preserveFds: number },
): Entered {
  const { namespaces, uidMappings, gidMappings, timeOffsets } = spec.linux
  checkMountNamespace(spec)
  const joined: JoinedNamespaces[] = []
  try {
    for (const [i, { type, path }] of namespaces.entries())
      if (path !== undefined && type !== 'time')
        joined.push({ fd: openNamespace(type, path, i), types: [type] })
    return enter(deps, {
      cgroup,
      preserveFds,
      joined,
      created: namespaces.filter(({ path }) => path === undefined).map(({ type }) => type),
      uidMap: mapText(uidMappings),
      gidMap: mapText(gidMappings),
      oomScoreAdj: spec.process.oomScoreAdj,
      ...defined({ timeOffsets }),
    })
  } finally {
    closeAll(joined.map(({ fd }) => fd))
  }
}

/** A wherry-init in all namespaces of the process PID that are not our own. */
export function joinContainer(
  deps: InitDeps,
  pid: number,
  request: { cgroup: CgroupTree; preserveFds: number; oomScoreAdj: number | undefined },
): Entered {
  const joined = foreignTypes(pid).map((type) => ({ fd: openNamespaceOf(pid, type), types: [type] }))
  try {
    return enter(deps, { ...request, joined, created: [], uidMap: '', gidMap: '' })
  } finally {
    closeAll(joined.map(({ fd }) => fd))
  }
}

/** Resolves when FD is readable or its other end is closed. */
const readable = (native: Native, fd: number): Promise<void> =>
  new Promise((resolve) => {
    const stop = native.onReadable(fd, () => {
      stop()
      resolve()
    })
  })

/** Sends PLAN and waits until wherry-init has performed it as far as WANTED. */
async function perform(
  native: Native,
  entered: Entered,
  plan: Plan,
  args: readonly string[],
  wanted: 'waiting' | 'closed',
): Promise<void> {
  try {
    native.send(entered.socket, plan)
    await readable(native, entered.socket)
    if (native.report(entered.socket, plan.ops.map(describeOp)) !== wanted) throw killed()
  } catch (err) {
    // EPIPE: wherry-init died before it could read the plan.
    throw err instanceof SyscallError && err.syscall === 'send' && err.errno === 'EPIPE'
      ? killed(err)
      : explain(err, args)
  }
}

interface Given extends Omit<ProcessFacts, 'seccomp' | 'timeFd' | 'listener'> {
  /** The state sent to a seccomp agent, as JSON (config-linux.md, The Container Process State). */
  readonly agentState: string
}

export interface PrepareRequest extends Given {
  readonly cgroup: CgroupTree
  /** The container's own folder; START_SOCKET is created in it. */
  readonly directory: string
  readonly stageDir: string
  readonly state: { readonly creating: string; readonly created: string }
}

/** Sources of bind mounts that exist and are not directories. */
function fileSources({ mounts }: BundleSpec): ReadonlySet<string> {
  const isFile = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === false
  return new Set(
    mounts.filter(({ type, source }) => type === 'bind' && isFile(source)).map(({ source }) => source),
  )
}

/** The time namespace that SPEC names by path. */
function openTimeNamespace({ linux: { namespaces } }: BundleSpec): number | undefined {
  const i = namespaces.findIndex(({ type }) => type === 'time')
  const path = namespaces[i]?.path
  return path === undefined ? undefined : openNamespace('time', path, i)
}

/**
 * Makes the container ready: afterwards it is "created" and waits on START_SOCKET. Returns the names of its
 * operations, for `startContainer`.
 */
export async function prepareContainer(
  native: Native,
  entered: Entered,
  spec: BundleSpec,
  request: PrepareRequest,
): Promise<readonly string[]> {
  const startFd = native.listen(request.directory, START_SOCKET)
  const timeFd = openTimeNamespace(spec)
  const idmaps = new Map<BundleMount, number>()
  const filter = openFilter(native, spec.linux.seccomp, request.agentState)
  try {
    for (const mount of spec.mounts) {
      const maps = idmapOf(spec, mount)
      if (maps) idmaps.set(mount, native.newMappedNamespace(mapText(maps.uid), mapText(maps.gid)))
    }
    const plan = buildContainerPlan(spec, {
      ...request,
      ...filter,
      files: fileSources(spec),
      startFd,
      timeFd,
      idmaps,
      cgroupNamespace: spec.linux.namespaces.some(({ type }) => type === 'cgroup'),
      cgroupTop: topOfCgroups(request.cgroup),
    })
    await perform(native, entered, plan, spec.process.args, 'waiting')
    return plan.ops.map(describeOp)
  } finally {
    closeAll([startFd, timeFd, ...idmaps.values()])
    filter.close()
  }
}

/** Lets the container in DIRECTORY execute its program.  Resolves once it has; rejects if it could not. */
export async function startContainer(
  native: Native,
  { directory, opNames, args }: { directory: string; opNames: readonly string[]; args: readonly string[] },
): Promise<void> {
  const socket = native.connect(directory, START_SOCKET)
  try {
    await readable(native, socket)
    native.report(socket, opNames)
  } catch (err) {
    throw explain(err, args)
  } finally {
    closeSync(socket)
  }
}

/** Makes ENTERED, which has joined the container of SPEC whose first process is PID, execute PROCESS. */
export async function execProcess(
  native: Native,
  entered: Entered,
  process: BundleProcess,
  { spec, pid }: { readonly spec: BundleSpec; readonly pid: number },
  given: Given,
): Promise<void> {
  const timeFd = isForeign(pid, 'time') ? openNamespaceOf(pid, 'time') : undefined
  const rootFd = makesMounts(spec) ? undefined : openSync(`/proc/${pid}/root`, 'r')
  const filter = openFilter(native, spec.linux.seccomp, given.agentState)
  try {
    const plan = buildExecPlan(process, { ...given, ...filter, timeFd, rootFd })
    await perform(native, entered, plan, process.args, 'closed')
  } finally {
    filter.close()
    closeAll([timeFd, rootFd])
  }
}
