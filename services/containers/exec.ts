// An additional process in a container. The OCI runtime spec has no such operation; the process has the form
// of config.md, Process, and joins the namespaces and cgroup of the container.

import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import type { BundleProcess } from '../contract/bundle-spec.ts'
import { execProcess, joinContainer } from '../runtime/bundle/bundle.ts'
import { grantable } from './capabilities.ts'
import { openConsole, type ConsoleTarget } from './console.ts'
import type { ContainerProcess, Context } from './context.ts'
import { makesUsers } from './create.ts'
import { requireStatus, type Operation } from './errors.ts'
import { writePidFile } from './pid-file.ts'
import { agentStateOf, reportOf, type Status } from './status.ts'

/** Statuses in which a container has its namespaces and is not frozen. */
export const ENTERABLE: readonly [Operation, readonly Status[]] = ['exec', ['running', 'created']]

export interface ExecRequest {
  readonly process: BundleProcess
  readonly console: ConsoleTarget
  readonly pidFile: string | undefined
  readonly preserveFds: number
}

/** Resolves when the program of REQUEST runs in the container ID. */
export async function execInContainer(
  context: Context,
  id: string,
  request: ExecRequest,
): Promise<ContainerProcess> {
  const { records } = context
  const native = context.native()
  const record = records.load(id)
  const state = reportOf(records, record)
  requireStatus(state, ...ENTERABLE)
  const spec = records.loadConfig(record)
  const process = grantable(request.process, makesUsers(spec), context.warn)
  const console = openConsole(native, request.console)
  try {
    const entered = joinContainer({ native, nativeDir: context.nativeDir }, record.pid, {
      cgroup: record.cgroup,
      preserveFds: request.preserveFds,
      oomScoreAdj: process.oomScoreAdj ?? spec.process.oomScoreAdj,
    })
    try {
      await execProcess(
        native,
        entered,
        process,
        { spec, pid: record.pid },
        {
          preserveFds: request.preserveFds,
          consoleFd: console.fd,
          keyring: undefined,
          agentState: agentStateOf(state, entered.pid, spec.linux.seccomp),
        },
      )
      writePidFile(request.pidFile, entered.pid)
      return { pid: entered.pid, pidfd: entered.pidfd, terminal: console.take() }
    } catch (err) {
      native.kill(entered.pidfd, constants.signals.SIGKILL) // after an error there must be no process
      closeSync(entered.pidfd)
      throw err
    } finally {
      closeSync(entered.socket)
    }
  } finally {
    console.release()
  }
}
