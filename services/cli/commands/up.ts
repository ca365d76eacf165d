// wherry up: starts all parts under a supervisor, in the foreground or detached.

import { spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { InvalidArgumentError, type Command } from 'commander'
import { defined } from '../../contract/defined.ts'
import type { Fault } from '../../contract/errors.ts'
import type { ListenAddress } from '../../platform/config.ts'
import { DATA_DEFAULT } from '../connect.ts'
import type { Context } from '../context.ts'
import { Failure, failureOf, usageFailure } from '../failure.ts'
import type { Addresses } from '../up/state.ts'
import type { Up, UpOptions } from '../up/supervise.ts'

interface Flags {
  readonly data?: string
  readonly gateway?: string
  readonly worker?: string
  readonly registry?: string
  readonly redis?: string
  readonly slots?: string
  readonly detach?: boolean
  readonly json?: boolean
}

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url))

export function addUp(program: Command, context: Context): void {
  program
    .command('up')
    .summary('start Redis, a registry, a gateway and a worker on this machine')
    .description(
      'Starts Redis, a registry, a gateway and a worker on this machine and keeps them running until Ctrl-C or wherry down.  Needs root.',
    )
    .option('--data <dir>', `folder for all data (or WHERRY_DATA; default ${DATA_DEFAULT})`)
    .option(
      '--gateway <host:port>',
      'address of the gateway (or WHERRY_GATEWAY_LISTEN; default 127.0.0.1:8080; port 0 is any free port)',
    )
    .option(
      '--registry <host:port|url>',
      'address of the registry (default 127.0.0.1:5000), or the URL of an existing one',
    )
    .option(
      '--redis <url>',
      'existing Redis to use (or WHERRY_REDIS_URL); by default one is started on a unix socket in the data folder',
    )
    .option(
      '--worker <host:port>',
      'address of the worker’s /healthz and /metrics (or WHERRY_WORKER_LISTEN; default 127.0.0.1:8081)',
    )
    .option(
      '--slots <n>',
      'maximum number of containers at once (or WHERRY_WORKER_SLOTS; default 4 per CPU)',
      wholeNumber,
    )
    .option(
      '--detach',
      'return once everything is ready and keep it running; the log is log/up.log in the data folder',
    )
    .option('--json', 'print one line of JSON with all addresses on stdout once everything is ready')
    .addHelpText(
      'after',
      `
Examples:
  wherry up                                      # everything at its default address, until Ctrl-C
  wherry up --data /tmp/w --gateway 127.0.0.1:0 --registry 127.0.0.1:0 --worker 127.0.0.1:0
  wherry up --detach && wherry list && wherry down
  wherry up --redis redis://10.0.0.5:6379 --registry https://registry.example.com

Exit codes: 0 stopped, 1 a part failed to start or kept crashing, 2 wrong options.`,
    )
    .action(async (flags: Flags) => {
      await (flags.detach ? upDetached(flags, context) : upHere(flags, context))
    })
}

function wholeNumber(text: string): string {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new InvalidArgumentError('It must be a positive integer.')
  return text
}

/**
 * FLAGS and the environment as options of supervise.ts. Imports at run time: other commands need neither zod
 * nor pino.
 */
async function parseFlags(flags: Flags, env: Context['env']): Promise<UpOptions> {
  const { listenAddress, sharedSettings, duration, url } = await import('../../platform/config.ts')
  const address = (option: string, written: string): ListenAddress => {
    const parsed = listenAddress.parse(written)
    if (parsed === undefined)
      throw usageFailure('up', `${option} "${written}" must be ${listenAddress.expected}`)
    return parsed
  }
  const redis = flags.redis ?? (env.WHERRY_REDIS_URL || undefined)
  if (redis !== undefined && sharedSettings.redisUrl.parse(redis) === undefined)
    throw usageFailure('up', `--redis must be ${sharedSettings.redisUrl.expected}`)
  const registry = flags.registry ?? '127.0.0.1:5000'
  if (registry.includes('://') && url(['http:', 'https:']).parse(registry) === undefined)
    throw usageFailure('up', `--registry "${registry}" must be host:port or an http or https URL`)
  const slots = flags.slots ?? (env.WHERRY_WORKER_SLOTS || undefined)
  const stopTimeoutMs =
    duration({ min: 0, max: Infinity }).parse(env.WHERRY_STOP_TIMEOUT ?? '') ??
    sharedSettings.stopTimeoutMs.default
  return {
    data: resolve(flags.data ?? (env.WHERRY_DATA || DATA_DEFAULT)),
    gateway: address('--gateway', flags.gateway ?? (env.WHERRY_GATEWAY_LISTEN || '127.0.0.1:8080')),
    worker: address('--worker', flags.worker ?? (env.WHERRY_WORKER_LISTEN || '127.0.0.1:8081')),
    registry: registry.includes('://') ? new URL(registry) : address('--registry', registry),
    stopTimeoutMs,
    ...defined({ redis, slots: slots === undefined ? undefined : Number(slots) }),
  }
}

async function upHere(flags: Flags, { env, stdout, stderr, tellParent, onSignal }: Context): Promise<void> {
  const options = await parseFlags(flags, env)
  const { startUp } = await import('../up/supervise.ts')
  const { formatChildLine, formatReady } = await import('../up/output.ts')
  const say = (line: string): void => {
    stderr.write(`${line}\n`)
    tellParent({ progress: line })
  }
  const asked = new AbortController()
  let running: Up | undefined
  onSignal((signal) => {
    if (asked.signal.aborted) running?.kill() // a second signal ends the waiting
    asked.abort(signal)
  })

  try {
    const up = await startUp(options, env, asked.signal, {
      onReady: (name, address, tookMs) => {
        say(formatReady(name, address, tookMs))
      },
      onNote: (text) => {
        say(`! ${text}`)
      },
      onLine: (name, line) => {
        stderr.write(`${formatChildLine(name, line)}\n`)
      },
    })
    running = up
    if (flags.json) stdout.write(`${JSON.stringify(up.addresses)}\n`)
    else stderr.write(`ready; stop with Ctrl-C or: wherry down --data ${options.data}\n`)
    tellParent({ ready: true, url: up.addresses.gateway, addresses: up.addresses })
    try {
      await Promise.race([aborted(asked.signal), up.failed])
    } finally {
      stderr.write('stopping\n')
      await up.stop()
    }
    stderr.write('stopped\n')
  } catch (err) {
    const { what, message, remedy, faults, exitCode } = failureOf('up', err)
    tellParent({ failed: { what, message, remedy, faults, exitCode } })
    throw err
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else
      signal.addEventListener(
        'abort',
        () => {
          resolve()
        },
        { once: true },
      )
  })
}

/** A message of the detached process on its IPC channel. */
interface Report {
  readonly progress?: string
  readonly failed?: { what: string; message: string; remedy?: string; faults: Fault[]; exitCode: number }
  readonly addresses?: Addresses
}

/**
 * Runs `wherry up` in a process that outlives this one. A Redis URL may contain a password, so the
 * environment carries it.
 */
async function upDetached(flags: Flags, { env, stdout, stderr, onSignal }: Context): Promise<void> {
  const { data, redis } = await parseFlags(flags, env) // invalid options fail here, visibly
  const { prepareDataDir, refuseHeldDir } = await import('../up/state.ts')
  prepareDataDir(data)
  refuseHeldDir(data)
  const logPath = join(data, 'log', 'up.log')
  const log = openSync(logPath, 'w', 0o600)
  const passed = (['gateway', 'worker', 'registry', 'slots'] as const).flatMap((name) =>
    flags[name] === undefined ? [] : [`--${name}`, flags[name]],
  )
  const child = spawn(process.execPath, [MAIN, 'up', '--data', data, ...passed], {
    detached: true,
    cwd: '/',
    stdio: ['ignore', log, log, 'ipc'],
    env: { ...env, ...defined({ WHERRY_REDIS_URL: redis }) },
  })
  closeSync(log)
  onSignal(() => {
    child.kill('SIGTERM')
  })

  const addresses = await new Promise<Addresses>((resolve, reject) => {
    let failure = new Failure('up', 'it exited before everything was ready', { remedy: `see ${logPath}` })
    child.on('message', (report: Report) => {
      if (report.progress !== undefined) stderr.write(`${report.progress}\n`)
      if (report.failed !== undefined)
        failure = new Failure(report.failed.what, report.failed.message, report.failed)
      if (report.addresses !== undefined) resolve(report.addresses)
    })
    child.once('error', reject)
    child.once('exit', () => {
      reject(failure)
    })
  })
  child.removeAllListeners()
  child.disconnect()
  child.unref()
  if (flags.json) stdout.write(`${JSON.stringify(addresses)}\n`)
  else stderr.write(`running (pid ${child.pid}), log in ${logPath}; stop with: wherry down --data ${data}\n`)
}
