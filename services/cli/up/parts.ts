// The four parts of `wherry up`: which program, which settings, and how to see that it serves.
// Knows command lines of redis-server and docker-registry and the environment of our own processes;
// refuses to know when they are started and stopped.

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
/** A large append-only file takes a while to read. */
const REDIS_READY_TIMEOUT_MS = 120_000
const READY_TIMEOUT_MS = 30_000
const STOP_TIMEOUT_MS = 10_000
/** On top of what gateway and worker give themselves (WHERRY_STOP_TIMEOUT). */
const STOP_MARGIN_MS = 5_000

/**
 * In no process group of the terminal: Ctrl-C reaches the supervisor alone, which stops the parts in order.
 */
const detached = true
const stdio = ['ignore', 'pipe', 'pipe'] satisfies StdioOptions

/** Path of PROGRAM; undefined when the machine does not have it. */
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

/** A daemon that is not ours: setpriv makes the kernel end it when the supervisor dies, even of SIGKILL. */
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

/** Redis on a unix socket below DIR, with an append-only file there. */
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

/** Does a Redis behind SOCKET answer PING?  While it reads its file it answers -LOADING. */
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

/** The registry at ADDRESS (its port is not 0), with its blobs below DIR. */
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

/** Where something that listens on ADDRESS is reached from this machine. */
function reachableAddress({ host, port }: ListenAddress): ListenAddress {
  return { host: host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host, port }
}

/** HTTP status of a GET of URL; undefined when nothing answers. */
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

/** Our own process NAME, told about itself by ENV; it says on its channel when it serves. */
export function ownPart(name: 'gateway' | 'worker', env: Environment, stopTimeoutMs: number): PartSpec {
  const main = fileURLToPath(new URL(`../../${name}/main.ts`, import.meta.url))
  return {
    name,
    readyTimeoutMs: READY_TIMEOUT_MS,
    stopTimeoutMs: stopTimeoutMs + STOP_MARGIN_MS,
    // It stops by itself when its channel closes, that is when the supervisor dies.
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
