// `exec`: an additional process in a running container, from options or from a file.

import { readFileSync } from 'node:fs'
import { isAbsolute, resolve } from 'node:path'
import { requireStatus } from '../containers/errors.ts'
import { ENTERABLE } from '../containers/exec.ts'
import type { BundleProcess, BundleSpec } from '../contract/bundle-spec.ts'
import { isCapability } from '../runtime/capability.ts'
import { parseProcess } from './config/config.ts'
import type { Context } from './context.ts'
import { OciError } from './failure.ts'
import { forwardSignals } from './signals.ts'
import { consoleFor, copyTerminal, withOwnSize } from './terminal.ts'

const ID = /^\d{1,10}$/

export interface ExecOptions {
  /**
   * A file with a process as in config.json. Without one, the options below change the container's process.
   */
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

/** OWN, the process of the container's config.json, with the changes of the command line. */
function changedProcess(own: BundleProcess, request: ExecOptions): BundleProcess {
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

function processOf(context: Context, spec: BundleSpec, options: ExecOptions): BundleProcess {
  if (options.processFile === undefined) return changedProcess(spec.process, options)
  const { process, warnings } = parseProcess(
    readFileSync(resolve(context.world.cwd, options.processFile), 'utf8'),
  )
  for (const warning of warnings) context.log.warn(warning)
  return process
}

/** Resolves with the exit code, 0 when detached. */
export async function execCommand(context: Context, id: string, options: ExecOptions): Promise<number> {
  const { containers } = context
  requireStatus(containers.state(id), ...ENTERABLE)
  const process = processOf(context, containers.config(id), options)
  const console = consoleFor(process.terminal, options)
  const forwardTo = options.detached ? () => {} : forwardSignals(context)
  const started = await containers.exec(id, {
    process: withOwnSize(process, console),
    console,
    pidFile: options.pidFile,
    preserveFds: options.preserveFds,
  })
  if (options.detached) return 0
  const detach = started.terminal === undefined ? async () => {} : copyTerminal(started.terminal)
  try {
    forwardTo(started)
    return await containers.wait(started)
  } finally {
    await detach()
  }
}
