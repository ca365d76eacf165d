// `exec`: a further process in a container that runs.

import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { isAbsolute, resolve } from 'node:path'
import type { BundleProcess, BundleSpec } from '../contract/bundle-spec.ts'
import { execProcess, joinContainer } from '../runtime/bundle/bundle.ts'
import { isCapability } from '../runtime/capability.ts'
import { parseProcess } from './config/config.ts'
import { openConsole, ownSize } from './console.ts'
import type { Context } from './context.ts'
import { makesUsers, writePidFile } from './create.ts'
import { OciError } from './failure.ts'
import { grantable } from './grant.ts'
import { agentStateOf, reportOf, statusOf } from './store.ts'
import { forwardSignals, waitForProcess } from './wait.ts'

const ID = /^\d{1,10}$/

export interface ExecRequest {
  readonly id: string
  /** A file with a process of the spec; without one, ARGS and what follows change the container's own. */
  readonly processFile: string | undefined
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly cwd: string | undefined
  readonly user: string | undefined
  readonly additionalGids: readonly string[]
  readonly capabilities: readonly string[]
  readonly terminal: boolean
  readonly noNewPrivileges: boolean
  readonly pidFile: string | undefined
  readonly consoleSocket: string | undefined
  readonly preserveFds: number
  readonly detached: boolean
}

function parseId(what: string, text: string): number {
  if (!ID.test(text) || Number(text) > 0xfffffffe) throw new OciError(`"${text}" is not a ${what} number`)
  return Number(text)
}

/** The container's own process with what the command line changes in it. */
function changedProcess(own: BundleProcess, request: ExecRequest): BundleProcess {
  if (request.args.length === 0) throw new OciError('exec needs a command, or --process FILE')
  if (request.cwd !== undefined && !isAbsolute(request.cwd))
    throw new OciError(`--cwd ${request.cwd} is not an absolute path`)
  const variable = request.env.find((entry) => !/^[^=]+=/.test(entry))
  if (variable !== undefined) throw new OciError(`--env ${variable} is not NAME=value`)
  const unknown = request.capabilities.find((name) => !isCapability(name))
  if (unknown !== undefined) throw new OciError(`"${unknown}" is not a capability`)
  const [uid, gid] = (request.user ?? '').split(':')
  const add = (set: readonly string[]): readonly string[] => [...new Set([...set, ...request.capabilities])]
  const { bounding, permitted, inheritable, effective, ambient } = own.capabilities
  const { consoleSize: _, ...rest } = own
  return {
    ...rest,
    args: request.args,
    env: [...own.env, ...request.env],
    cwd: request.cwd ?? own.cwd,
    terminal: request.terminal,
    noNewPrivileges: request.noNewPrivileges || own.noNewPrivileges,
    user: {
      uid: request.user === undefined ? own.user.uid : parseId('user', uid!),
      gid: gid === undefined ? own.user.gid : parseId('group', gid),
      additionalGids: [
        ...own.user.additionalGids,
        ...request.additionalGids.map((text) => parseId('group', text)),
      ],
    },
    capabilities: {
      bounding: add(bounding),
      permitted: add(permitted),
      effective: add(effective),
      inheritable,
      ambient,
    },
  }
}

function processOf(context: Context, spec: BundleSpec, request: ExecRequest): BundleProcess {
  if (request.processFile === undefined) return changedProcess(spec.process, request)
  const { process, warnings } = parseProcess(
    readFileSync(resolve(context.world.cwd, request.processFile), 'utf8'),
  )
  for (const warning of warnings) context.log.warn(warning)
  return process
}

/** Resolves with the exit code, 0 when detached. */
export async function execInContainer(context: Context, request: ExecRequest): Promise<number> {
  const { store, world } = context
  const native = context.native()
  const record = store.load(request.id)
  const status = statusOf(store, record)
  if (status !== 'running' && status !== 'created')
    throw new OciError(`cannot exec in container "${request.id}": container not running, it is ${status}`)
  const spec = store.loadConfig(record)
  const asked = grantable(processOf(context, spec, request), makesUsers(spec), context.log.warn)
  const console = openConsole(native, {
    terminal: asked.terminal,
    socketPath: request.consoleSocket,
    detached: request.detached,
  })
  const size =
    asked.consoleSize ?? (asked.terminal && request.consoleSocket === undefined ? ownSize() : undefined)
  const process = size === undefined ? asked : { ...asked, consoleSize: size }
  const forwardTo = request.detached ? () => {} : forwardSignals(context.native, world.onSignal)
  let pidfd: number
  try {
    const entered = joinContainer({ native, nativeDir: world.nativeDir }, record.pid, {
      cgroup: record.cgroup,
      preserveFds: request.preserveFds,
      oomScoreAdj: process.oomScoreAdj ?? spec.process.oomScoreAdj,
    })
    pidfd = entered.pidfd
    try {
      execProcess(
        native,
        entered,
        process,
        { spec, pid: record.pid },
        {
          preserveFds: request.preserveFds,
          consoleFd: console.fd,
          keyring: undefined,
          agentState: agentStateOf(reportOf(store, record, status), entered.pid, spec.linux.seccomp),
        },
      )
      writePidFile(request.pidFile, entered.pid)
    } catch (err) {
      native.kill(pidfd, constants.signals.SIGKILL) // who is told of a failure expects no process
      throw err
    }
  } finally {
    console.release()
  }
  if (request.detached) return 0
  const detach = console.attach()
  try {
    forwardTo(pidfd)
    return await waitForProcess(native, pidfd)
  } finally {
    await detach()
  }
}
