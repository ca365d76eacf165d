// Workers as processes of their own (runtime-process.ts), to be put into cgroups, asked things and killed.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { sweepDead } from '../../services/runtime/janitor.ts'

const HELPER = fileURLToPath(new URL('runtime-process.ts', import.meta.url))

export interface Answer {
  readonly pids: number[]
  readonly outcome: string
  readonly text: string
  readonly usage: { readonly memoryPeakBytes: number; readonly oomKills: number }
}

export interface Worker {
  readonly child: ChildProcess
  readonly data: string
  /** Directories of its cgroups: one on v2, one per hierarchy on v1. */
  roots(): string[]
  ask(message: object): Promise<Answer>
  end(): Promise<void>
}

/** Run ARGV, in CGROUP from its first instruction when one is given. */
export function spawnIn(t: Test, cgroup: string | undefined, ...argv: string[]): ChildProcess {
  const enter = cgroup === undefined ? '' : 'echo 0 > "$0/cgroup.procs" && '
  const child = spawn('/bin/sh', ['-c', `${enter}exec "$@"`, cgroup ?? 'sh', ...argv], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null && child.kill('SIGKILL'))
      await once(child, 'exit')
  })
  return child
}

export function newFolder(t: Test): string {
  const data = mkdtempSync(join(tmpdir(), 'wherry-test-'))
  chmodSync(data, 0o711)
  t.teardown(async () => {
    await sweepDead(join(data, 'run')) // of workers that were killed and have no successor
    rmSync(data, { recursive: true, force: true })
  })
  return data
}

/** A worker in CGROUP on DATA; rejects with the worker's own words when it cannot start. */
export async function startWorker(t: Test, cgroup?: string, data = newFolder(t)): Promise<Worker> {
  const child = spawnIn(t, cgroup, process.execPath, HELPER, data)
  const next = async (): Promise<Answer> => {
    const [message] = (await once(child, 'message')) as [Answer | { failed: string }]
    if ('failed' in message) throw new Error(message.failed)
    return message
  }
  await next()
  return {
    child,
    data,
    roots: () =>
      readdirSync(join(data, 'run'))
        .filter((name) => name.startsWith('wherry-'))
        .flatMap(
          (name) => JSON.parse(readFileSync(join(data, 'run', name, 'cgroups.json'), 'utf8')) as string[],
        ),
    async ask(message) {
      child.send(message)
      return await next()
    },
    async end() {
      child.send({ close: true })
      await once(child, 'exit')
    },
  }
}
