// A Redis for one test file: Debian's redis-server on a unix socket in a temporary folder. Tests can kill it
// and restart it on the same data.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { Redis } from 'ioredis'

export interface TestRedis {
  readonly url: string
  readonly socketPath: string
  /** A new client; `close` disconnects it. */
  client(): Redis
  /** SIGKILL, as in a crash. */
  kill(): Promise<void>
  /** Restart on the same data. */
  restart(): Promise<void>
  readonly pid: number
  close(): Promise<void>
}

const READY_MS = 60_000

function onPath(program: string): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** Reason to skip tests that need Redis, or false. */
export const skipWithoutRedis: false | string = onPath('redis-server')
  ? false
  : 'needs redis-server (apt-get install redis-server)'

async function accepts(path: string): Promise<boolean> {
  const socket = connect(path)
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

/** Start a redis-server. `durable`: with an append-only file that is synced on every write. */
export async function startRedis({
  durable = false,
  args = [],
}: { durable?: boolean; args?: readonly string[] } = {}): Promise<TestRedis> {
  const folder = mkdtempSync(join(tmpdir(), 'wherry-redis-'))
  const socketPath = join(folder, 'redis.sock')
  const clients = new Set<Redis>()
  let child: ChildProcess

  async function start(): Promise<void> {
    const persistence = durable ? ['--appendonly', 'yes', '--appendfsync', 'always'] : ['--appendonly', 'no']
    child = spawn(
      'setpriv',
      [
        '--pdeathsig',
        'SIGKILL',
        '--',
        'redis-server',
        '--port',
        '0',
        '--unixsocket',
        socketPath,
        '--dir',
        folder,
        '--save',
        '',
        '--hz',
        '100',
        ...persistence,
        ...args,
      ],
      { stdio: 'ignore' },
    )
    // Without a teardown, this removes process and folder. If the test is killed, --pdeathsig still kills the
    // process.
    const end = (): void => {
      child.kill('SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    }
    process.once('exit', end)
    child.once('exit', () => process.off('exit', end))
    await once(child, 'spawn')
    const deadline = Date.now() + READY_MS
    while (!(await accepts(socketPath))) {
      if (child.exitCode !== null || Date.now() > deadline) throw new Error('redis-server did not start')
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  async function end(signal: NodeJS.Signals): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
  }

  await start()
  return {
    url: `unix://${socketPath}`,
    socketPath,
    client() {
      const client = new Redis(socketPath, { maxRetriesPerRequest: null })
      client.on('error', () => undefined)
      clients.add(client)
      return client
    },
    kill: () => end('SIGKILL'),
    restart: start,
    get pid() {
      return child.pid ?? 0
    },
    async close() {
      for (const client of clients) client.disconnect()
      await end('SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
