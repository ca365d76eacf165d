// Child processes with a container runtime (runtime-process.ts) that tests put into cgroups and kill.

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
  /** Its cgroup directories: one on v2, one per hierarchy on v1. */
  roots(): string[]
  ask(message: object): Promise<Answer>
  end(): Promise<void>
}

/** Run ARGV; if CGROUP is given, in that cgroup from the start. */
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
    await sweepDead(join(data, 'run')) // cgroups of killed workers that have no successor
    rmSync(data, { recursive: true, force: true })
  })
  return data
}

/** Start a worker in CGROUP on DATA; rejects with the worker's message if it cannot start. */
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
