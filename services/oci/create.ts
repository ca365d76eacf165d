// `create`, `start` and `run`: a bundle becomes a container (OCI runtime spec, runtime.md, Lifecycle).
// Whatever fails on the way takes back all that was made before it.

import {
  closeSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { constants } from 'node:os'
import { join, resolve } from 'node:path'
import { InvalidRequest } from '../contract/errors.ts'
import type { BundleProcess, BundleSpec } from '../contract/bundle-spec.ts'
import { startTimeOf } from '../platform/process-identity.ts'
import {
  enterContainer,
  prepareContainer,
  START_SOCKET,
  startContainer,
  type Entered,
} from '../runtime/bundle/bundle.ts'
import { makesMounts } from '../runtime/bundle/mounts.ts'
import {
  createCgroup,
  limitCgroup,
  locateCgroup,
  occupiedDirectory,
  removeCgroup,
  signalAll,
  type CgroupTree,
} from '../runtime/cgroup/tree.ts'
import { countMountsAt, detachMountsAt } from '../runtime/shared-root.ts'
import { parseConfig } from './config/config.ts'
import { openConsole, ownSize, type Console } from './console.ts'
import type { Context } from './context.ts'
import { OciError } from './failure.ts'
import { grantable } from './grant.ts'
import { runHooks } from './hooks.ts'
import { agentStateOf, reportOf, statusOf, type ContainerRecord } from './store.ts'
import { forwardSignals, waitForProcess } from './wait.ts'

/** apparmor(7) */
const APPARMOR_ENABLED = '/sys/module/apparmor/parameters/enabled'
/** sd_booted(3) */
const SYSTEMD_RUNS = '/run/systemd/system'
const CONFIG_MAX_BYTES = 16 << 20

export interface CreateRequest {
  readonly id: string
  readonly bundle: string
  readonly pidFile: string | undefined
  readonly consoleSocket: string | undefined
  /**
   * Of those the first LISTENFDS are sockets that systemd, or who acts like it, has opened
   * (sd_listen_fds(3)).
   */
  readonly preserveFds: number
  readonly listenFds: number
  readonly newKeyring: boolean
  /** Nobody of this command stays until the container ends. */
  readonly detached: boolean
}

/** Has it a user namespace of its own, new or joined? */
export const makesUsers = (spec: BundleSpec): boolean =>
  spec.linux.namespaces.some(({ type }) => type === 'user')

/** TEXT of the bundle's config.json, and what it says.  Throws InvalidRequest. */
function readBundle(directory: string): { text: string; spec: BundleSpec; warnings: readonly string[] } {
  const file = join(directory, 'config.json')
  const stat = statSync(file, { throwIfNoEntry: false })
  if (!stat?.isFile()) throw new InvalidRequest([{ path: 'bundle', problem: `there is no file ${file}` }])
  if (stat.size > CONFIG_MAX_BYTES)
    throw new InvalidRequest([{ path: 'config.json', problem: `is larger than ${CONFIG_MAX_BYTES} bytes` }])
  const text = readFileSync(file, 'utf8')
  const { spec, warnings } = parseConfig(text, directory)
  if (!statSync(spec.root.path, { throwIfNoEntry: false })?.isDirectory())
    throw new InvalidRequest([{ path: 'root.path', problem: `"${spec.root.path}" is not a directory` }])
  return { text, warnings, spec: { ...spec, root: { ...spec.root, path: realpathSync(spec.root.path) } } }
}

/** Engines read the number as soon as the file is there, so it appears whole. */
export function writePidFile(path: string | undefined, pid: number): void {
  if (path === undefined) return
  const temporary = join(resolve(path, '..'), `.${pid}.pid`)
  rmSync(temporary, { force: true })
  writeFileSync(temporary, String(pid))
  renameSync(temporary, path)
}

/** What is right in a config.json and cannot be on this host. */
function checkHost(context: Context, spec: BundleSpec, cgroup: CgroupTree): void {
  if (
    spec.process.apparmorProfile !== undefined &&
    !(existsSync(APPARMOR_ENABLED) && readFileSync(APPARMOR_ENABLED, 'utf8').startsWith('Y'))
  ) {
    throw new InvalidRequest([
      { path: 'process.apparmorProfile', problem: 'cannot be applied: this kernel runs without AppArmor' },
    ])
  }
  if (context.systemdCgroup && !existsSync(SYSTEMD_RUNS))
    throw new OciError(
      'systemd cgroup flag passed, but systemd support for managing cgroups is not available: systemd does not run here',
    )
  // Everybody in a container's cgroup is killed with the container.
  const occupied = occupiedDirectory(cgroup)
  if (occupied !== undefined)
    throw new InvalidRequest([
      {
        path: 'linux.cgroupsPath',
        problem: `the cgroup ${occupied} is there and has processes that are not the container’s`,
      },
    ])
}

/** The folder of the new container ID, on a host that can have it. */
function reserve(context: Context, id: string, spec: BundleSpec, cgroup: CgroupTree): string {
  const directory = context.store.reserve(id)
  try {
    checkHost(context, spec, cgroup)
    return directory
  } catch (err) {
    context.store.forget(id)
    throw err
  }
}

/** PROGRAM is told of COUNT sockets; it is the first of its container. */
function withSockets(program: BundleProcess, count: number): BundleProcess {
  if (count === 0) return program
  return {
    ...program,
    env: [
      ...program.env.filter((entry) => !/^LISTEN_(?:FDS|PID)=/.test(entry)),
      `LISTEN_FDS=${count}`,
      'LISTEN_PID=1',
    ],
  }
}

export interface Created {
  readonly record: ContainerRecord
  readonly pidfd: number
  readonly console: Console
}

/** Bring the container to "created".  On failure nothing is left of it. */
export async function createContainer(context: Context, request: CreateRequest): Promise<Created> {
  const { store, log } = context
  const bundle = resolve(context.world.cwd, request.bundle)
  const { text, spec: asked, warnings } = readBundle(bundle)
  for (const warning of warnings) log.warn(warning)
  const spec = {
    ...asked,
    process: withSockets(grantable(asked.process, makesUsers(asked), log.warn), request.listenFds),
  }
  const cgroup = locateCgroup(spec.linux.cgroupsPath, request.id, context.systemdCgroup)
  const console = openConsole(context.native(), {
    terminal: spec.process.terminal,
    socketPath: request.consoleSocket,
    detached: request.detached,
  })
  const directory = reserve(context, request.id, spec, cgroup)
  const base: ContainerRecord = {
    id: request.id,
    bundle,
    rootfs: spec.root.path,
    createdAt: new Date().toISOString(),
    annotations: spec.annotations,
    cgroup,
    pid: 0,
    pidStartTime: '',
    ready: false,
    opNames: [],
    ...(!makesMounts(spec) && { mountsBefore: countMountsAt(spec.root.path) }),
  }
  let entered: Entered | undefined
  try {
    store.saveConfig(request.id, text)
    store.save(base)
    createCgroup(cgroup)
    entered = enterContainer({ native: context.native(), nativeDir: context.world.nativeDir }, spec, {
      cgroup,
      preserveFds: request.preserveFds,
    })
    // Not before: until it was executed wherry-init shared this process's memory, and whoever is killed for
    // want of memory dies with all that share it.
    limitCgroup(context.native(), cgroup, spec.linux.resources)
    const record = prepare(
      context,
      { ...base, pid: entered.pid, pidStartTime: startTimeOf(entered.pid) ?? '' },
      spec,
      { request, entered, console, directory },
    )
    writePidFile(request.pidFile, record.pid)
    return { record, pidfd: entered.pidfd, console }
  } catch (err) {
    await takeBack(context, base, entered)
    throw err
  } finally {
    console.release()
  }
}

interface Parts {
  readonly request: CreateRequest
  readonly entered: Entered
  readonly console: Console
  readonly directory: string
}

/** From "the namespaces are there" to "created". */
function prepare(
  context: Context,
  entering: ContainerRecord,
  spec: BundleSpec,
  { request, entered, console, directory }: Parts,
): ContainerRecord {
  const { store } = context
  store.save(entering)
  const state = {
    creating: JSON.stringify(reportOf(store, entering, 'creating')),
    created: JSON.stringify(reportOf(store, entering, 'created')),
  }
  for (const name of ['prestart', 'createRuntime'] as const)
    runHooks(name, spec.hooks[name], { state: state.creating, environment: context.world.environment })
  const stageDir = join(directory, 'stage')
  mkdirSync(stageDir, { mode: 0o711 })
  const size =
    spec.process.consoleSize ??
    (request.consoleSocket === undefined && spec.process.terminal ? ownSize() : undefined)
  const opNames = prepareContainer(
    context.native(),
    entered,
    size === undefined ? spec : { ...spec, process: { ...spec.process, consoleSize: size } },
    {
      cgroup: entering.cgroup,
      directory,
      stageDir,
      state,
      preserveFds: request.preserveFds,
      consoleFd: console.fd,
      keyring: request.newKeyring ? `_ses.${request.id}` : undefined,
      agentState: agentStateOf(reportOf(store, entering, 'created'), entering.pid, spec.linux.seccomp),
    },
  )
  const record = { ...entering, ready: true, opNames }
  store.save(record)
  return record
}

async function takeBack(
  context: Context,
  { id, cgroup, rootfs, mountsBefore }: ContainerRecord,
  entered: Entered | undefined,
): Promise<void> {
  if (entered) {
    context.native().kill(entered.pidfd, constants.signals.SIGKILL)
    await waitForProcess(context.native(), entered.pidfd)
  }
  await signalAll(cgroup, constants.signals.SIGKILL)
  await removeCgroup(cgroup)
  if (mountsBefore !== undefined) detachMountsAt(rootfs, mountsBefore)
  context.store.forget(id)
}

/** `start`: the container's program runs when this returns. */
export async function startCreated(context: Context, id: string): Promise<void> {
  const { store, log } = context
  const record = store.load(id)
  const status = statusOf(store, record)
  if (status !== 'created') throw new OciError(`cannot start container "${id}": it is ${status}, not created`)
  const directory = store.directoryOf(id)
  const spec = store.loadConfig(record)
  startContainer(context.native(), { directory, opNames: record.opNames, args: spec.process.args })
  rmSync(join(directory, START_SOCKET))
  const input = {
    state: JSON.stringify(reportOf(store, record, 'running')),
    environment: context.world.environment,
  }
  if (!spec.poststartStops)
    return runHooks('poststart', spec.hooks.poststart, input, (failure) => {
      log.warn(failure.message)
    })
  try {
    runHooks('poststart', spec.hooks.poststart, input)
  } catch (err) {
    await signalAll(record.cgroup, constants.signals.SIGKILL) // runtime.md, Lifecycle: an error, and the container is stopped
    throw err
  }
}

/** `run`: create, start, and unless DETACHED stay until it ends.  Resolves with the exit code. */
export async function runContainer(
  context: Context,
  request: CreateRequest,
  deleteContainer: (id: string) => Promise<void>,
): Promise<number> {
  const forwardTo = request.detached ? () => {} : forwardSignals(context.native, context.world.onSignal)
  const { record, pidfd, console } = await createContainer(context, request)
  let runs = false
  try {
    const detach = request.detached ? async () => {} : console.attach()
    try {
      await startCreated(context, record.id)
      runs = true
      if (request.detached) return 0
      forwardTo(pidfd)
      return await waitForProcess(context.native(), pidfd)
    } finally {
      await detach()
      closeSync(pidfd)
    }
  } finally {
    // A detached one that ran is its caller's to delete, however soon it ended.
    if (!request.detached || !runs) await deleteContainer(record.id)
  }
}
