// The product as a user runs it: the `wherry` command as a child process, and a complete `wherry up` on free
// ports with a temporary data folder.

import { spawn, type ChildProcess } from 'node:child_process'
import { accessSync, mkdtempSync, rmSync } from 'node:fs'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { listLinks, subjectOf, type Subject } from '../../infra/demo/census.ts'
import type { Addresses } from '../../services/cli/up/state.ts'
import { findProgram } from '../../services/cli/up/parts.ts'

export const COMMAND = fileURLToPath(new URL('../../services/cli/wherry', import.meta.url))
export const FREE_PORTS = ['--gateway', '127.0.0.1:0', '--registry', '127.0.0.1:0', '--worker', '127.0.0.1:0']

/** Reason why `wherry up` cannot run here, or false. */
export const cannotRun: string | false = reason()

function reason(): string | false {
  if (process.getuid?.() !== 0) return 'needs root'
  const missing = ['redis-server', 'docker-registry', 'setpriv'].find(
    (program) => findProgram(program, process.env) === undefined,
  )
  if (missing !== undefined) return `needs ${missing} (make setup)`
  try {
    accessSync(fileURLToPath(new URL('../../build/native/libwherry.so', import.meta.url)))
    return false
  } catch {
    return 'needs the native library (make native)'
  }
}

/** The environment without variables of tap and of the caller's shell that would change the result. */
function cleanEnvironment(more: Record<string, string>): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined && !/^(?:WHERRY_|NODE_OPTIONS$|TAP)/.test(entry[0]),
  )
  return { ...Object.fromEntries(kept), ...more }
}

export interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Run `wherry ARGS` until it exits. Stdin is INPUT or /dev/null. */
export async function runWherry(
  args: readonly string[],
  {
    input,
    env = {},
    through = [],
  }: { input?: string | Uint8Array; env?: Record<string, string>; through?: readonly string[] } = {},
): Promise<Finished> {
  const [command, ...rest] = [...through, COMMAND, ...args]
  const child = spawn(command!, rest, {
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    env: cleanEnvironment(env),
  })
  child.stdin
    ?.on('error', () => {
      /* it may exit without reading all of its input */
    })
    .end(input)
  const texts = [child.stdout, child.stderr].map(async (stream) =>
    Buffer.concat((await stream!.toArray()) as Buffer[]).toString('utf8'),
  )
  const [code] = (await once(child, 'close')) as [number | null]
  const [stdout = '', stderr = ''] = await Promise.all(texts)
  return { code, stdout, stderr }
}

export interface RunningWherry {
  readonly addresses: Addresses
  readonly data: string
  readonly child: ChildProcess
  /** Lines of its stderr so far. */
  readonly progress: readonly string[]
  readonly subject: Subject
  /** Run a command against this gateway. */
  run(
    args: readonly string[],
    options?: { input?: string | Uint8Array; env?: Record<string, string> },
  ): Promise<Finished>
  /** Send SIGTERM and return the exit code. */
  stop(): Promise<number | null>
}

/** A temporary folder with a path short enough for unix sockets; removed when the test ends. */
export function shortFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'wherry-test-'))
  t.teardown(() => {
    rmSync(folder, { recursive: true, force: true })
  })
  return folder
}

/** Start `wherry up --json` on free ports; it stops when the test ends, even if the test process dies. */
export async function startWherry(
  t: Test,
  {
    data = shortFolder(t),
    args = [],
    env = {},
  }: { data?: string; args?: readonly string[]; env?: Record<string, string> } = {},
): Promise<RunningWherry> {
  const links = listLinks()
  const command = [
    '--pdeathsig',
    'SIGTERM',
    '--',
    COMMAND,
    'up',
    '--json',
    '--data',
    data,
    ...FREE_PORTS,
    ...args,
  ]
  const child = spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'pipe'], env: cleanEnvironment(env) })
  const exited = once(child, 'exit').then(([code]) => code as number | null)
  const progress: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => progress.push(line))
  const stop = async (): Promise<number | null> => {
    child.kill('SIGTERM')
    return await exited
  }
  t.teardown(stop)
  const line = await Promise.race([
    once(createInterface({ input: child.stdout }), 'line').then(([text]) => text as string),
    exited.then((code) => {
      throw new Error(`wherry up exited with ${code}:\n${progress.join('\n')}`)
    }),
  ])
  const addresses = JSON.parse(line) as Addresses
  return {
    addresses,
    data,
    child,
    progress,
    stop,
    subject: subjectOf(data, links),
    run: (args, options = {}) =>
      runWherry(args, { ...options, env: { WHERRY_GATEWAY_URL: addresses.gateway, ...options.env } }),
  }
}
