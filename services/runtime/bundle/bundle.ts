// A bundle's container, step by step: a wherry-init in its namespaces and cgroup, the plan sent to it, the
// word to start.  The steps are apart because engines ask for them one by one, from processes of their own;
// what has to be kept in between is the caller's business (services/containers/records.ts).

import { closeSync, constants, existsSync, fstatSync, openSync, readlinkSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { InvalidRequest, StartError, SyscallError, Unsupported } from '../../contract/errors.ts'
import type {
  BundleMount,
  BundleNamespaceType,
  BundleProcess,
  BundleSpec,
  IdMapping,
  Seccomp,
} from '../../contract/bundle-spec.ts'
import { buildContainerPlan, buildEntryPlan, buildExecPlan, type ProcessFacts } from './plan.ts'
import { idmapOf, makesMounts } from './mounts.ts'
import { joinCgroup, topOfCgroups, type CgroupTree } from '../cgroup/tree.ts'
import type { Native } from '../native.ts'
import { describeOp, type Plan } from '../ops.ts'
import { compileProfile, usesListener } from './seccomp.ts'

/** Name of the socket in a container's folder that it waits on; gone once it has started. */
export const START_SOCKET = 'start.sock'
const NAMESPACE_FILES: Readonly<Record<BundleNamespaceType, string>> = {
  mount: 'mnt',
  pid: 'pid',
  ipc: 'ipc',
  uts: 'uts',
  network: 'net',
  user: 'user',
  cgroup: 'cgroup',
  time: 'time',
}

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
  readonly joined: ReadonlyArray<{ readonly fd: number; readonly types: readonly BundleNamespaceType[] }>
  readonly created: readonly BundleNamespaceType[]
  readonly uidMap: string
  readonly gidMap: string
  readonly oomScoreAdj: number | undefined
  readonly timeOffsets?: string
}

/** Lines of uid_map (user_namespaces(7)). */
const mapText = (mappings: readonly IdMapping[]): string =>
  mappings.map((m) => `${m.containerID} ${m.hostID} ${m.size}\n`).join('')

/** Before 6.1 a program that is executed stays where it was. */
function checkClocks(pid: number): void {
  if (readlinkSync(`/proc/${pid}/ns/time`) === readlinkSync('/proc/self/ns/time'))
    throw new Unsupported('linux.namespaces: a new time namespace needs Linux 6.1')
}

function enter({ native, nativeDir }: InitDeps, request: EntryRequest): Entered {
  const initFd = native.sealedCopy(join(nativeDir, 'wherry-init'))
  const [ours, theirs] = native.socketPair()
  const procFd = openSync('/proc', 'r')
  try {
    const clocks =
      request.timeOffsets === undefined ? {} : { clocks: { procFd, offsets: request.timeOffsets } }
    const started = joinCgroup(request.cgroup, (cgroup) =>
      native.start(buildEntryPlan({ ...request, ...cgroup, ...clocks, initFd, socketFd: theirs }), false),
    )
    if (request.created.includes('time')) checkClocks(started.pid)
    // From outside: inside it would need a /proc, and the right to lower it.
    if (request.oomScoreAdj !== undefined) native.oomScore(started.pid, request.oomScoreAdj)
    return { pid: started.pid, pidfd: started.pidfd, socket: ours }
  } catch (err) {
    closeSync(ours)
    throw err
  } finally {
    closeSync(initFd)
    closeSync(theirs)
    closeSync(procFd)
  }
}

function identify(path: string): { dev: number; ino: number } | undefined {
  try {
    return statSync(path)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'EACCES') return undefined // of another user's process, as we may not trace it
    throw err
  }
}

/** The roots of whoever is in a mount namespace change when it is pivoted, so it must not be the host's. */
function checkMountNamespace({ linux: { namespaces } }: BundleSpec): void {
  const i = namespaces.findIndex(({ type, path }) => type === 'mount' && path !== undefined)
  if (i < 0) return
  const { dev, ino } = statSync(namespaces[i]!.path!)
  for (const owner of ['self', '1']) {
    const host = identify(`/proc/${owner}/ns/mnt`)
    if (host?.ino === ino && host.dev === dev)
      throw new InvalidRequest([
        {
          path: `linux.namespaces[${i}].path`,
          problem: 'is the host’s mount namespace; leave the entry out to stay in it',
        },
      ])
  }
}

/** The namespace of TYPE at PATH, entry I of linux.namespaces.  Throws InvalidRequest when it is none. */
function openNamespace(type: BundleNamespaceType, path: string, i: number): number {
  const refuse = (problem: string): never => {
    throw new InvalidRequest([{ path: `linux.namespaces[${i}].path`, problem }])
  }
  let fd: number
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (err) {
    return refuse(`"${path}" cannot be opened (${(err as NodeJS.ErrnoException).code})`)
  }
  // "net:[4026531840]", or a path where it is mounted: what it is then is known to setns(2) only.
  const kind = /^(\w+):\[/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1] ?? NAMESPACE_FILES[type]
  if (kind === NAMESPACE_FILES[type] && fstatSync(fd).dev === statSync('/proc/self/ns/mnt').dev) return fd
  closeSync(fd)
  return refuse(`"${path}" is not a ${type} namespace`)
}

/** A wherry-init in new namespaces and in those that SPEC names by path.  Throws SyscallError. */
export function enterContainer(
  deps: InitDeps,
  spec: BundleSpec,
  { cgroup, preserveFds }: { cgroup: CgroupTree; preserveFds: number },
): Entered {
  const { namespaces, uidMappings, gidMappings, timeOffsets } = spec.linux
  checkMountNamespace(spec)
  const joined: Array<{ fd: number; types: [BundleNamespaceType] }> = []
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
      ...(timeOffsets !== undefined && { timeOffsets }),
    })
  } finally {
    for (const { fd } of joined) closeSync(fd)
  }
}

/** Is PID in another namespace of TYPE than we are? */
function isForeign(pid: number, type: BundleNamespaceType): boolean {
  const file = `ns/${NAMESPACE_FILES[type]}`
  return (
    existsSync(`/proc/self/${file}`) &&
    readlinkSync(`/proc/${pid}/${file}`) !== readlinkSync(`/proc/self/${file}`)
  )
}

/** A wherry-init in all namespaces of the process PID that are not our own. */
export function joinContainer(
  deps: InitDeps,
  pid: number,
  request: { cgroup: CgroupTree; preserveFds: number; oomScoreAdj: number | undefined },
): Entered {
  const types = (Object.keys(NAMESPACE_FILES) as BundleNamespaceType[]).filter((type) => {
    return type !== 'time' && isForeign(pid, type)
  })
  const joined = types.map((type) => ({
    fd: openSync(`/proc/${pid}/ns/${NAMESPACE_FILES[type]}`, 'r'),
    types: [type],
  }))
  try {
    return enter(deps, { ...request, joined, created: [], uidMap: '', gidMap: '' })
  } finally {
    for (const { fd } of joined) closeSync(fd)
  }
}

/** `describeOp` of the operation that chooses the profile. */
const APPARMOR_OP = 'write self/attr/apparmor/exec'

/**
 * What in a failed start is the command's own fault, in the words that engines look for to choose exit code
 * 126 or 127.
 */
function explain(err: unknown, args: readonly string[]): unknown {
  if (err instanceof SyscallError && err.op === APPARMOR_OP && err.errno === 'ENOENT')
    return new InvalidRequest([
      { path: 'process.apparmorProfile', problem: 'is not loaded in this kernel (apparmor_parser(8))' },
    ])
  if (!(err instanceof SyscallError) || !/^(?:exec|checkProgram)\b/.test(err.op)) return err
  const command = JSON.stringify(args[0])
  const isPath = args[0]!.includes('/')
  // What is in PATH and cannot be executed is passed over by those who look for a command.
  if (!isPath && err.errno === 'EACCES' && err.op.startsWith('checkProgram')) return notFound()
  switch (err.errno) {
    case 'ENOENT':
    case 'ENOTDIR':
      return notFound()
    case 'EACCES':
    case 'EPERM':
      return new StartError(`exec: ${command}: permission denied`, 'ERR_COMMAND_NOT_EXECUTABLE', err)
    case 'ENOEXEC':
      return new StartError(`exec: ${command}: exec format error`, 'ERR_COMMAND_NOT_EXECUTABLE', err)
    default:
      return err
  }
  function notFound(): StartError {
    return new StartError(
      `exec: ${command}: ${isPath ? 'no such file or directory' : 'executable file not found in $PATH'}`,
      'ERR_COMMAND_NOT_FOUND',
      err,
    )
  }
}

const killed = (cause?: unknown): StartError =>
  new StartError(
    'wherry-init was killed before the container was ready; a memory limit may be too low for a start',
    'ERR_START',
    cause,
  )

/** Resolves when FD is readable or its other end is closed. */
const readable = (native: Native, fd: number): Promise<void> =>
  new Promise((resolve) => {
    const stop = native.onReadable(fd, () => {
      stop()
      resolve()
    })
  })

/** Send PLAN and wait until wherry-init has done it as far as WANTED. */
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
    // Nobody is there to take the plan in.
    throw err instanceof SyscallError && err.syscall === 'send' && err.errno === 'EPIPE'
      ? killed(err)
      : explain(err, args)
  }
}

interface Given extends Omit<ProcessFacts, 'seccomp' | 'timeFd' | 'listener'> {
  /** What a seccomp agent is told, JSON (config-linux.md, The Container Process State). */
  readonly agentState: string
}

interface Filter extends Pick<ProcessFacts, 'seccomp' | 'listener'> {
  close(): void
}

/**
 * PROFILE compiled, and connected to who decides on some of its calls. Throws InvalidRequest when nobody
 * listens.
 */
function openFilter(native: Native, profile: Seccomp | undefined, agentState: string): Filter {
  const seccomp = profile && compileProfile(profile)
  const path = profile && usesListener(profile) ? profile.listener?.path : undefined
  if (path === undefined) return { seccomp, listener: undefined, close() {} }
  try {
    const fd = native.connect(dirname(path), basename(path))
    return {
      seccomp,
      listener: { fd, path, state: agentState },
      close() {
        closeSync(fd)
      },
    }
  } catch (err) {
    throw new InvalidRequest([
      {
        path: 'linux.seccomp.listenerPath',
        problem: `nobody listens at "${path}" (${err instanceof SyscallError ? err.errno : String(err)})`,
      },
    ])
  }
}

export interface PrepareRequest extends Given {
  readonly cgroup: CgroupTree
  /** The container's own folder; the socket is made in it. */
  readonly directory: string
  readonly stageDir: string
  readonly state: { readonly creating: string; readonly created: string }
}

/**
 * Make the container ready: after this it is "created" and waits on START_SOCKET. Returns names of its
 * operations for `startContainer`.
 */
export async function prepareContainer(
  native: Native,
  entered: Entered,
  spec: BundleSpec,
  request: PrepareRequest,
): Promise<readonly string[]> {
  const files = new Set(
    spec.mounts
      .filter(
        (mount) =>
          mount.type === 'bind' && statSync(mount.source, { throwIfNoEntry: false })?.isDirectory() === false,
      )
      .map((mount) => mount.source),
  )
  const startFd = native.listen(request.directory, START_SOCKET)
  const timePath = spec.linux.namespaces.find(({ type }) => type === 'time')?.path
  const timeFd =
    timePath === undefined
      ? undefined
      : openNamespace(
          'time',
          timePath,
          spec.linux.namespaces.findIndex(({ type }) => type === 'time'),
        )
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
      files,
      startFd,
      timeFd,
      idmaps,
      cgroupNamespace: spec.linux.namespaces.some(({ type }) => type === 'cgroup'),
      cgroupTop: topOfCgroups(request.cgroup),
    })
    await perform(native, entered, plan, spec.process.args, 'waiting')
    return plan.ops.map(describeOp)
  } finally {
    for (const fd of [startFd, ...(timeFd === undefined ? [] : [timeFd]), ...idmaps.values()]) closeSync(fd)
    filter.close()
  }
}

/** Let the container in DIRECTORY execute its program.  Resolves when it has; rejects when it could not. */
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

/** Make ENTERED, which has joined the container of SPEC whose first process is PID, execute PROCESS. */
export async function execProcess(
  native: Native,
  entered: Entered,
  process: BundleProcess,
  container: { readonly spec: BundleSpec; readonly pid: number },
  given: Given,
): Promise<void> {
  const {
    spec: {
      linux: { seccomp },
    },
    spec,
    pid,
  } = container
  const timeFd = isForeign(pid, 'time') ? openSync(`/proc/${pid}/ns/time`, 'r') : undefined
  const rootFd = makesMounts(spec) ? undefined : openSync(`/proc/${pid}/root`, 'r')
  const filter = openFilter(native, seccomp, given.agentState)
  try {
    await perform(
      native,
      entered,
      buildExecPlan(process, { ...given, ...filter, timeFd, rootFd }),
      process.args,
      'closed',
    )
  } finally {
    filter.close()
    for (const fd of [timeFd, rootFd]) if (fd !== undefined) closeSync(fd)
  }
}
