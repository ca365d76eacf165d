// `create` and `run`: read a bundle and create a container from it; `run` also starts it, stays until it
// exits, and deletes it.

import { closeSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { ContainerProcess } from '../containers/context.ts'
import type { BundleProcess, BundleSpec } from '../contract/bundle-spec.ts'
import { InvalidRequest } from '../contract/errors.ts'
import { parseConfig } from './config/config.ts'
import type { Context } from './context.ts'
import { forwardSignals } from './signals.ts'
import { consoleFor, copyTerminal, withOwnSize } from './terminal.ts'

const CONFIG_MAX_BYTES = 16 << 20

export interface CreateOptions {
  readonly id: string
  readonly bundle: string
  readonly pidFile: string | undefined
  readonly consoleSocket: string | undefined
  readonly preserveFds: number
  /**
   * The first LISTENFDS of the preserved descriptors are sockets of systemd or its like (sd_listen_fds(3)).
   */
  readonly listenFds: number
  readonly newKeyring: boolean
  /** This command does not stay until the container exits. */
  readonly detached: boolean
}

interface Bundle {
  readonly config: string
  readonly spec: BundleSpec
  readonly warnings: readonly string[]
}

/** The config.json in DIRECTORY. Throws InvalidRequest. */
function readBundle(directory: string): Bundle {
  const file = join(directory, 'config.json')
  const stat = statSync(file, { throwIfNoEntry: false })
  if (!stat?.isFile()) throw new InvalidRequest([{ path: 'bundle', problem: `there is no file ${file}` }])
  if (stat.size > CONFIG_MAX_BYTES)
    throw new InvalidRequest([{ path: 'config.json', problem: `is larger than ${CONFIG_MAX_BYTES} bytes` }])
  const config = readFileSync(file, 'utf8')
  const { spec, warnings } = parseConfig(config, directory)
  if (!statSync(spec.root.path, { throwIfNoEntry: false })?.isDirectory())
    throw new InvalidRequest([{ path: 'root.path', problem: `"${spec.root.path}" is not a directory` }])
  return { config, warnings, spec: { ...spec, root: { ...spec.root, path: realpathSync(spec.root.path) } } }
}

/** PROGRAM, the first process of its container, with variables that announce COUNT sockets. */
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

/** `create`. */
export async function createFromBundle(context: Context, options: CreateOptions): Promise<ContainerProcess> {
  const bundle = resolve(context.world.cwd, options.bundle)
  const { config, spec, warnings } = readBundle(bundle)
  for (const warning of warnings) context.log.warn(warning)
  const console = consoleFor(spec.process.terminal, options)
  return context.containers.create({
    id: options.id,
    bundle,
    config,
    spec: { ...spec, process: withOwnSize(withSockets(spec.process, options.listenFds), console) },
    console,
    pidFile: options.pidFile,
    preserveFds: options.preserveFds,
    newKeyring: options.newKeyring,
  })
}

/** `run`. KEEP: do not delete the container. Resolves with its exit code, 0 when detached. */
export async function runContainer(context: Context, options: CreateOptions, keep: boolean): Promise<number> {
  const { containers } = context
  const forwardTo = options.detached ? () => {} : forwardSignals(context)
  const created = await createFromBundle(context, options)
  let runs = false
  try {
    const detach = created.terminal === undefined ? async () => {} : copyTerminal(created.terminal)
    try {
      await containers.start(options.id)
      runs = true
      if (options.detached) return 0
      forwardTo(created)
      return await containers.wait(created)
    } finally {
      await detach()
      closeSync(created.pidfd)
    }
  } finally {
    // A detached container that was started is deleted by the caller, even if it exits at once.
    if (!keep && !(options.detached && runs)) await containers.remove(options.id, true)
  }
}
