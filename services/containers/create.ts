// `create` (OCI runtime spec, runtime.md, Operations and Lifecycle steps 1 to 5): a bundle becomes a
// container that waits for `start`. If a step fails, everything that the steps before it created is removed.

import { closeSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import type { BundleSpec } from '../contract/bundle-spec.ts'
import { defined } from '../contract/defined.ts'
import { InvalidRequest } from '../contract/errors.ts'
import { startTimeOf } from '../platform/process-identity.ts'
import { enterContainer, prepareContainer, type Entered } from '../runtime/bundle/bundle.ts'
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
import { grantable } from './capabilities.ts'
import { openConsole, type Console, type ConsoleTarget } from './console.ts'
import type { ContainerProcess, Context } from './context.ts'
import { ContainerError } from './errors.ts'
import { runHooks } from './hooks.ts'
import { writePidFile } from './pid-file.ts'
import type { ContainerRecord } from './records.ts'
import { agentStateOf, reportOf } from './status.ts'
import { waitForProcess } from './wait.ts'

/** apparmor(7) */
const APPARMOR_ENABLED = '/sys/module/apparmor/parameters/enabled'
/** sd_booted(3) */
const SYSTEMD_RUNS = '/run/systemd/system'

export interface CreateRequest {
  readonly id: string
  /** Absolute path. */
  readonly bundle: string
  /** The bundle's config.json, kept for later operations. */
  readonly config: string
  /** CONFIG parsed, with the real path of its root and the caller's changes. */
  readonly spec: BundleSpec
  readonly console: ConsoleTarget
  readonly pidFile: string | undefined
  /** How many descriptors from 3 upwards the container's first process inherits. */
  readonly preserveFds: number
  readonly newKeyring: boolean
}

/** Whether SPEC has its own user namespace, new or joined. */
export const makesUsers = (spec: BundleSpec): boolean =>
  spec.linux.namespaces.some(({ type }) => type === 'user')

/** Reject what is valid in a config.json and impossible on this host. */
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
    throw new ContainerError(
      'host',
      'systemd cgroup flag passed, but systemd support for managing cgroups is not available: systemd does not run here',
    )
  // Killing a container kills every process in its cgroup.
  const occupied = occupiedDirectory(cgroup)
  if (occupied !== undefined)
    throw new InvalidRequest([
      {
        path: 'linux.cgroupsPath',
        problem: `the cgroup ${occupied} has processes that are not the container’s`,
      },
    ])
}

/** Create the folder of the new container ID, if the host supports SPEC. */
function reserve(context: Context, id: string, spec: BundleSpec, cgroup: CgroupTree): string {
  const directory = context.records.reserve(id)
  try {
    checkHost(context, spec, cgroup)
    return directory
  } catch (err) {
    context.records.forget(id)
    throw err
  }
}

/** Bring the container to "created". After a failure nothing of it is left. */
export async function createContainer(context: Context, request: CreateRequest): Promise<ContainerProcess> {
  const { id, bundle } = request
  const { records } = context
  const spec = {
    ...request.spec,
    process: grantable(request.spec.process, makesUsers(request.spec), context.warn),
  }
  const cgroup = locateCgroup(spec.linux.cgroupsPath, id, context.systemdCgroup)
  const console = openConsole(context.native(), request.console)
  try {
    const directory = reserve(context, id, spec, cgroup)
    const base: ContainerRecord = {
      id,
      bundle,
      rootfs: spec.root.path,
      createdAt: new Date().toISOString(),
      annotations: spec.annotations,
      cgroup,
      pid: 0,
      pidStartTime: '',
      ready: false,
      opNames: [],
      ...defined({ mountsBefore: makesMounts(spec) ? undefined : countMountsAt(spec.root.path) }),
    }
    let entered: Entered | undefined
    try {
      records.saveConfig(id, request.config)
      records.save(base)
      createCgroup(cgroup)
      entered = enterContainer({ native: context.native(), nativeDir: context.nativeDir }, spec, {
        cgroup,
        preserveFds: request.preserveFds,
      })
      // Not earlier: until it was executed, wherry-init shared this process's memory, and the kernel's OOM
      // killer ends all processes that share the memory of its victim.
      limitCgroup(context.native(), cgroup, spec.linux.resources)
      const started = { ...base, pid: entered.pid, pidStartTime: startTimeOf(entered.pid) ?? '' }
      await prepare(context, started, spec, { request, entered, console, directory })
      writePidFile(request.pidFile, entered.pid)
      return { pid: entered.pid, pidfd: entered.pidfd, terminal: console.take() }
    } catch (err) {
      await takeBack(context, base, entered)
      throw err
    } finally {
      if (entered) closeSync(entered.socket)
    }
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

/** From existing namespaces to "created": runs hooks and waits for wherry-init. */
async function prepare(
  context: Context,
  entering: ContainerRecord,
  spec: BundleSpec,
  { request, entered, console, directory }: Parts,
): Promise<void> {
  const { records } = context
  records.save(entering)
  const created = reportOf(records, entering, 'created')
  const state = {
    creating: JSON.stringify(reportOf(records, entering, 'creating')),
    created: JSON.stringify(created),
  }
  for (const name of ['prestart', 'createRuntime'] as const)
    await runHooks(name, spec.hooks[name], { state: state.creating, environment: context.environment })
  const stageDir = join(directory, 'stage')
  mkdirSync(stageDir, { mode: 0o711 })
  const opNames = await prepareContainer(context.native(), entered, spec, {
    cgroup: entering.cgroup,
    directory,
    stageDir,
    state,
    preserveFds: request.preserveFds,
    consoleFd: console.fd,
    keyring: request.newKeyring ? `_ses.${request.id}` : undefined,
    agentState: agentStateOf(created, entering.pid, spec.linux.seccomp),
  })
  records.save({ ...entering, ready: true, opNames })
}

async function takeBack(
  context: Context,
  { id, cgroup, rootfs, mountsBefore }: ContainerRecord,
  entered: Entered | undefined,
): Promise<void> {
  if (entered) {
    context.native().kill(entered.pidfd, constants.signals.SIGKILL)
    await waitForProcess(context.native(), entered.pidfd)
    closeSync(entered.pidfd)
  }
  await signalAll(cgroup, constants.signals.SIGKILL)
  await removeCgroup(cgroup)
  if (mountsBefore !== undefined) await detachMountsAt(rootfs, mountsBefore)
  context.records.forget(id)
}
