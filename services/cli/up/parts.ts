// The four parts of `wherry up`: which program, which settings, and how to tell that it is ready.

import { fork, spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { connect } from 'node:net'
import { delimiter, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { ListenAddress } from '../../platform/config.ts'
import type { Context } from '../context.ts'
import { Failure } from '../failure.ts'
import type { PartSpec } from './child.ts'
import { formatAddress } from './ports.ts'
import { socketPath } from './state.ts'

export type Environment = Context['env']

const REDIS_CONFIG = fileURLToPath(new URL('../../../infra/redis/redis.conf', import.meta.url))
const REGISTRY_CONFIG = fileURLToPath(new URL('../../../infra/registry/config.yml', import.meta.url))
/** redis-server and docker-registry are in /usr/bin, but some installs keep daemons in sbin. */
const PATH_ALWAYS = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const POLL_MS = 5
const PROBE_TIMEOUT_MS = 1_000
/** A large append-only file takes a while to load. */
const REDIS_READY_TIMEOUT_MS = 120_000
const READY_TIMEOUT_MS = 30_000
const STOP_TIMEOUT_MS = 10_000
/** In addition to the stop timeout of gateway and worker (WHERRY_STOP_TIMEOUT). */
const STOP_MARGIN_MS = 5_000

/**
 * Outside of the terminal's process group: Ctrl-C reaches only the supervisor, which stops the parts in
 * order.
 */
const detached = true
const stdio = ['ignore', 'pipe', 'pipe'] satisfies StdioOptions

/** Path of PROGRAM; undefined if it is not installed. */
export function findProgram(program: string, env: Environment): string | undefined {
  const folders = [...(env.PATH ?? '').split(delimiter), ...PATH_ALWAYS.split(':')].filter((folder) =>
    folder.startsWith('/'),
  )
  return folders
    .map((folder) => join(folder, program))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK)
        return true
      } catch {
        return false // not in this folder
      }
    })
}

function program(part: string, name: string, env: Environment): string {
  const path = findProgram(name, env)
  if (path === undefined)
    throw new Failure(part, `${name} is not installed on this machine`, { remedy: 'run make setup' })
  return path
}

/** A third-party daemon: setpriv makes the kernel stop it when the supervisor dies, even by SIGKILL. */
function spawnDaemon(
  part: string,
  argv: readonly string[],
  env: Environment,
  own: Record<string, string>,
): ChildProcess {
  const base = { PATH: env.PATH ?? PATH_ALWAYS, HOME: env.HOME ?? '/', LANG: 'C.UTF-8' }
  return spawn(program(part, 'setpriv', env), ['--pdeathsig', 'SIGTERM', '--', ...argv], {
    stdio,
    detached,
    env: { ...base, ...own },
  })
}

/** Redis on a unix socket in DIR, with its append-only file there. */
export function redisPart(dir: string, env: Environment): PartSpec {
  const server = program('redis', 'redis-server', env)
  const socket = socketPath(dir)
  return {
    name: 'redis',
    readyTimeoutMs: REDIS_READY_TIMEOUT_MS,
    stopTimeoutMs: STOP_TIMEOUT_MS,
    spawn: () =>
      spawnDaemon(
        'redis',
        [server, REDIS_CONFIG, '--unixsocket', socket, '--dir', join(dir, 'redis')],
        env,
        {},
      ),
    async ready(_child, signal) {
      await until(() => pings(socket), signal)
      return `unix://${pathToFileURL(socket).pathname}`
    },
  }
}

/** Whether a Redis on SOCKET answers PING.  While it loads its file it answers -LOADING. */
function pings(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket, () => connection.write('PING\r\n'))
    connection.setTimeout(PROBE_TIMEOUT_MS, () => connection.destroy())
    connection.once('data', (answer) => {
      resolve(answer.toString('latin1').startsWith('+PONG'))
      connection.destroy()
    })
    connection
      .once('error', () => {
        resolve(false)
      })
      .once('close', () => {
        resolve(false)
      })
  })
}

/** The registry at ADDRESS (whose port is not 0), with its blobs in DIR. */
export function registryPart(dir: string, address: ListenAddress, env: Environment): PartSpec {
  const server = program('registry', 'docker-registry', env)
  const reachable = formatAddress(reachableAddress(address))
  return {
    name: 'registry',
    readyTimeoutMs: READY_TIMEOUT_MS,
    stopTimeoutMs: STOP_TIMEOUT_MS,
    spawn: () =>
      spawnDaemon('registry', [server, 'serve', REGISTRY_CONFIG], env, {
        REGISTRY_HTTP_ADDR: formatAddress(address),
        REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY: join(dir, 'registry'),
      }),
    async ready(_child, signal) {
      await until(async () => (await statusOf(`http://${reachable}/v2/`)) === 200, signal)
      return reachable
    },
  }
}

/** The address at which this machine reaches a server that listens on ADDRESS. */
function reachableAddress({ host, port }: ListenAddress): ListenAddress {
  return { host: host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host, port }
}

/** HTTP status of a GET of URL; undefined if there is no answer. */
export function statusOf(url: string): Promise<number | undefined> {
  return new Promise((resolve) => {
    const get = (url.startsWith('https:') ? httpsRequest : httpRequest)(
      url,
      { timeout: PROBE_TIMEOUT_MS },
      (reply) => {
        reply.resume()
        resolve(reply.statusCode)
      },
    )
    get
      .once('timeout', () => get.destroy())
      .once('error', () => {
        resolve(undefined)
      })
      .end()
  })
}

async function until(works: () => Promise<boolean>, signal: AbortSignal): Promise<void> {
  while (!(await works())) await delay(POLL_MS, undefined, { signal })
}

/** Wherry's process NAME, configured by ENV; it reports on its IPC channel when it is ready. */
export function ownPart(name: 'gateway' | 'worker', env: Environment, stopTimeoutMs: number): PartSpec {
  const main = fileURLToPath(new URL(`../../${name}/main.ts`, import.meta.url))
  return {
    name,
    readyTimeoutMs: READY_TIMEOUT_MS,
    stopTimeoutMs: stopTimeoutMs + STOP_MARGIN_MS,
    // It stops by itself when its channel closes because the supervisor died.
    spawn: () => fork(main, [], { stdio: [...stdio, 'ipc'], detached, execArgv: [], env }),
    ready: (child) =>
      new Promise((resolve) => {
        child.on('message', (message: unknown) => {
          if (isReady(message)) resolve(message.url)
        })
      }),
  }
}

function isReady(message: unknown): message is { ready: true; url: string } {
  return (
    typeof message === 'object' &&
    message !== null &&
    'ready' in message &&
    message.ready === true &&
    'url' in message &&
    typeof message.url === 'string'
  )
}
