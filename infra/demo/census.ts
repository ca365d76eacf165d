// Lists what a `wherry up` on one data folder leaves on the machine: processes, mounts, cgroups, network
// links. Namespaces need no check of their own, because only a process, a descriptor or a mount keeps one
// alive.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { startTimeOf } from '../../services/platform/process-identity.ts'
import { readState } from '../../services/cli/up/state.ts'

/** Identifies a running Wherry, so that a later census can find its traces. */
export interface Subject {
  readonly data: string
  readonly pids: readonly number[]
  /** Network links that existed before. */
  readonly links: readonly string[]
}

/** The kernel frees cgroups and reaps processes with a short delay. */
const SETTLE_MS = 30_000
const POLL_MS = 50

export function listLinks(): string[] {
  return readdirSync('/sys/class/net')
}

/** The running `wherry up` on DATA, as the subject of a later census. */
export function subjectOf(data: string, linksBefore: readonly string[]): Subject {
  const state = readState(data)
  if (state === undefined) throw new Error(`no wherry up has written its state to ${data}`)
  return { data, pids: [state.supervisor, ...state.parts].map((p) => p.pid), links: linksBefore }
}

/** What remains of SUBJECT, one line each, after a short wait for the kernel. Empty if all is clean. */
export async function findLeftovers(subject: Subject): Promise<string[]> {
  const giveUpAt = performance.now() + SETTLE_MS
  let found = look(subject)
  while (found.length > 0 && performance.now() < giveUpAt) {
    await delay(POLL_MS)
    found = look(subject)
  }
  return found
}

function look(subject: Subject): string[] {
  return [...processes(subject), ...mounts(subject), ...cgroups(subject), ...links(subject)]
}

function processes({ data, pids }: Subject): string[] {
  const own = new Set([process.pid, process.ppid])
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && !own.has(Number(name)))
    .flatMap((name) => {
      const isPart = pids.includes(Number(name)) && startTimeOf(Number(name)) !== undefined
      const environment = readProc(`/proc/${name}/environ`).split('\0')
      const isOurs =
        isPart ||
        environment.includes(`WHERRY_DATA=${data}`) ||
        readProc(`/proc/${name}/cmdline`).includes(`${data}/redis/redis.sock`)
      return isOurs && startTimeOf(Number(name)) !== undefined
        ? [`process ${name} (${readProc(`/proc/${name}/comm`).trim()})`]
        : []
    })
}

function mounts({ data }: Subject): string[] {
  return readProc('/proc/self/mountinfo')
    .split('\n')
    .filter((line) => line.includes(` ${data}/`) || line.includes(`=${data}/`))
    .map((line) => `mount ${line}`)
}

/** Cgroups have the name of the worker's process: wherry-PID-STARTTIME. */
function cgroups({ pids }: Subject): string[] {
  const isOurs = (name: string): boolean => pids.some((pid) => name.startsWith(`wherry-${pid}-`))
  const walk = (folder: string): string[] =>
    listFolders(folder).flatMap((name) =>
      isOurs(name) ? [`cgroup ${join(folder, name)}`] : walk(join(folder, name)),
    )
  return walk('/sys/fs/cgroup')
}

function links({ links: before }: Subject): string[] {
  return listLinks()
    .filter((link) => !before.includes(link))
    .map((link) => `network link ${link}`)
}

function listFolders(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
  } catch {
    return [] // removed meanwhile
  }
}

function readProc(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // the process has exited meanwhile
  }
}
