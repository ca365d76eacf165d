// Counts what containers can leave behind: mounts in a folder, our cgroups, network namespaces, open
// descriptors, zombies. Tests take a census before and after, and compare them.

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'

export interface Census {
  mounts: number
  cgroups: number
  netns: number
  fds: number
  zombies: number
  children: number
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // the process has ended meanwhile
  }
}

function folders(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
  } catch {
    return [] // removed meanwhile
  }
}

function countCgroups(directory: string, prefix: string): number {
  let count = 0
  for (const name of folders(directory)) {
    const path = join(directory, name)
    count += name.startsWith(prefix) ? 1 + folders(path).length : countCgroups(path, prefix)
  }
  return count
}

function link(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

/**
 * Count the resources of this process and its children, and the mounts in FOLDER. Nothing else is counted,
 * because other tests run at the same time.
 */
export function takeCensus(folder: string): Census {
  const { pid } = process
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  const stats = pids.map((id) => ({ id, stat: read(`/proc/${id}/stat`) })).filter(({ stat }) => stat !== '')
  const own = stats
    .map(({ id, stat }) => ({ id, fields: stat.slice(stat.lastIndexOf(')') + 2).split(' ') }))
    .filter(({ fields }) => fields[1] === String(pid))
  return {
    mounts: read('/proc/self/mountinfo')
      .split('\n')
      .filter((line) => line.includes(` ${folder}/`)).length,
    cgroups: countCgroups('/sys/fs/cgroup', `wherry-${pid}-`),
    netns: new Set(
      [String(pid), ...own.map(({ id }) => id)].map((id) => link(`/proc/${id}/ns/net`)).filter(Boolean),
    ).size,
    fds: readdirSync(`/proc/${pid}/fd`).length,
    zombies: own.filter(({ fields }) => fields[0] === 'Z').length,
    children: own.length,
  }
}
