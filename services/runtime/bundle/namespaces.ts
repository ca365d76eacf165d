// The namespaces of running processes: opened by path, compared with our own.

import { closeSync, constants, existsSync, fstatSync, openSync, readlinkSync, statSync } from 'node:fs'
import type { BundleNamespaceType, BundleSpec } from '../../contract/bundle-spec.ts'
import { InvalidRequest, Unsupported } from '../../contract/errors.ts'

/** Their names in /proc/PID/ns. */
const NAMESPACE_FILES: Readonly<Record<BundleNamespaceType, string>> = {
  mount: 'mnt',
  pid: 'pid',
  ipc: 'ipc',
  uts: 'uts',
  network: 'net',
  user: 'user',
  cgroup: 'cgroup',
  time: 'time',
}

const NAMESPACE_TYPES = Object.keys(NAMESPACE_FILES) as BundleNamespaceType[]

/** Before 6.1 unshare(CLONE_NEWTIME) has no effect on a program that the same process executes. */
export function checkClocks(pid: number): void {
  if (readlinkSync(`/proc/${pid}/ns/time`) === readlinkSync('/proc/self/ns/time'))
    throw new Unsupported('linux.namespaces: a new time namespace needs Linux 6.1')
}

function identify(path: string): { dev: number; ino: number } | undefined {
  try {
    return statSync(path)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'EACCES') return undefined // we may not trace the process
    throw err
  }
}

/** A pivot changes the root of every process in the mount namespace, so it must not be the host's. */
export function checkMountNamespace({ linux: { namespaces } }: BundleSpec): void {
  const i = namespaces.findIndex(({ type, path }) => type === 'mount' && path !== undefined)
  if (i < 0) return
  const { dev, ino } = statSync(namespaces[i]!.path!)
  for (const owner of ['self', '1']) {
    const host = identify(`/proc/${owner}/ns/mnt`)
    if (host?.ino === ino && host.dev === dev)
      throw new InvalidRequest([
        {
          path: `linux.namespaces[${i}].path`,
          problem: 'is the host’s mount namespace; leave the entry out to stay in it',
        },
      ])
  }
}

/**
 * Opens the namespace of TYPE at PATH, entry I of linux.namespaces.  Throws InvalidRequest when it is none.
 */
export function openNamespace(type: BundleNamespaceType, path: string, i: number): number {
  const refuse = (problem: string): never => {
    throw new InvalidRequest([{ path: `linux.namespaces[${i}].path`, problem }])
  }
  let fd: number
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (err) {
    return refuse(`"${path}" cannot be opened (${(err as NodeJS.ErrnoException).code})`)
  }
  // "net:[4026531840]", or the path of a bind mount: its type is known to setns(2) only.
  const kind = /^(\w+):\[/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1] ?? NAMESPACE_FILES[type]
  if (kind === NAMESPACE_FILES[type] && fstatSync(fd).dev === statSync('/proc/self/ns/mnt').dev) return fd
  closeSync(fd)
  return refuse(`"${path}" is not a ${type} namespace`)
}

/** Whether PID is in another namespace of TYPE than we are. */
export function isForeign(pid: number, type: BundleNamespaceType): boolean {
  const file = `ns/${NAMESPACE_FILES[type]}`
  return (
    existsSync(`/proc/self/${file}`) &&
    readlinkSync(`/proc/${pid}/${file}`) !== readlinkSync(`/proc/self/${file}`)
  )
}

/** Opens the namespace of TYPE that PID is in. */
export const openNamespaceOf = (pid: number, type: BundleNamespaceType): number =>
  openSync(`/proc/${pid}/ns/${NAMESPACE_FILES[type]}`, 'r')

/**
 * The types in which PID differs from us and that a process may join while it shares memory: all but time.
 */
export const foreignTypes = (pid: number): readonly BundleNamespaceType[] =>
  NAMESPACE_TYPES.filter((type) => type !== 'time' && isForeign(pid, type))
