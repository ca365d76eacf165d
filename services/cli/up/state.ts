// Files of a running `wherry up` in its data folder: up.pid (which process holds the folder) and state.json
// (addresses and processes). A pid with its start time tells a live holder from a stale file.

import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { Failure } from '../failure.ts'
import { identityOf, isAlive, type ProcessIdentity } from '../../platform/process-identity.ts'

export interface Addresses {
  /** "http://127.0.0.1:8080" */
  readonly gateway: string
  /** "127.0.0.1:5000", as references are written */
  readonly registry: string
  /** "unix:///…" or "redis://…" */
  readonly redis: string
  readonly data: string
  /** "http://127.0.0.1:8081" */
  readonly worker: string
}

export interface UpState extends Addresses {
  readonly supervisor: ProcessIdentity
  readonly parts: readonly (ProcessIdentity & { readonly name: string })[]
}

const OWNER_ONLY = 0o600
const OTHERS_MAY_WRITE = 0o022
const LOCK_ATTEMPTS_MAX = 3
/** sun_path of a unix socket (unix(7)) without its NUL. */
const SOCKET_PATH_MAX = 107

export const socketPath = (dir: string): string => join(dir, 'redis', 'redis.sock')
const pidPath = (dir: string): string => join(dir, 'up.pid')
const statePath = (dir: string): string => join(dir, 'state.json')

/** Creates the data folder DIR and the parts' folders in it.  Throws Failure if it is unsafe or unusable. */
export function prepareDataDir(dir: string): void {
  if (Buffer.byteLength(socketPath(dir)) > SOCKET_PATH_MAX) {
    throw new Failure('up', `the path of the data folder ${dir} is too long for a unix socket in it`, {
      remedy: 'choose a shorter --data',
    })
  }
  try {
    makeFolder(dir)
    const { uid, mode } = statSync(dir)
    if (uid !== process.getuid?.() || (mode & OTHERS_MAY_WRITE) !== 0) {
      throw new Failure('up', `other users may write to the data folder ${dir}`, {
        remedy: 'choose another folder with --data, or chown root and chmod 700 it',
      })
    }
    for (const part of ['redis', 'registry', 'log']) makeFolder(join(dir, part))
  } catch (err) {
    if (err instanceof Failure) throw err
    throw new Failure('up', `the data folder ${dir} cannot be used (${(err as Error).message})`, {
      remedy: 'choose another with --data',
      cause: err,
    })
  }
}

/** mkdir -p with mode 0700. Node's own loops forever on a file system that returns ENOENT, such as /proc. */
function makeFolder(dir: string): void {
  if (existsSync(dir)) return
  makeFolder(dirname(dir))
  try {
    mkdirSync(dir, { mode: 0o700 })
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err // another process created it just now
  }
}

/**
 * Locks DIR for this process. Throws Failure if a live `up` holds it. link(2) makes the pid file appear with
 * its contents, so it is never read half-written.
 */
export function lockDataDir(dir: string): { release: () => void } {
  const own = identityOf(process.pid)!
  const text = `${own.pid} ${own.startTime}\n`
  const mine = `${pidPath(dir)}.${own.pid}`
  writeFileSync(mine, text, { mode: OWNER_ONLY })
  try {
    for (let attempt = 0; !tryLink(mine, pidPath(dir)); attempt++) {
      refuseHeldDir(dir)
      if (attempt === LOCK_ATTEMPTS_MAX)
        throw new Failure('up', `several wherry up are starting on ${dir} at once`, { remedy: 'try again' })
      removeStale(dir, mine)
    }
  } finally {
    rmSync(mine, { force: true })
  }
  return {
    release() {
      rmSync(statePath(dir), { force: true })
      rmSync(pidPath(dir), { force: true })
    },
  }
}

/** Throws Failure if a live `up` holds DIR. */
export function refuseHeldDir(dir: string): void {
  const holder = readHolder(dir)
  if (holder === undefined) return
  throw new Failure('up', `${dir} is in use by another wherry up (pid ${holder.pid})`, {
    remedy: `stop it with wherry down --data ${dir}, or choose another folder with --data`,
  })
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw err
  }
}

/** Removes a dead holder's pid file.  If a live holder's has replaced it meanwhile, that is put back. */
function removeStale(dir: string, mine: string): void {
  const aside = `${mine}.stale`
  try {
    renameSync(pidPath(dir), aside)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return // another process was quicker
    throw err
  }
  const moved = parseHolder(readFileSync(aside, 'utf8'))
  if (moved !== undefined && isAlive(moved)) tryLink(aside, pidPath(dir))
  rmSync(aside, { force: true })
}

function parseHolder(text: string): ProcessIdentity | undefined {
  const match = /^(\d{1,10}) (\d{1,20})\n$/.exec(text)
  return match ? { pid: Number(match[1]), startTime: match[2]! } : undefined
}

/** The live `up` that holds DIR. */
export function readHolder(dir: string): ProcessIdentity | undefined {
  const text = readOwn(pidPath(dir))
  const holder = text === undefined ? undefined : parseHolder(text)
  return holder !== undefined && isAlive(holder) ? holder : undefined
}

/** Contents of a file that this user or root owns; undefined if it does not exist or has another owner. */
function readOwn(path: string): string | undefined {
  try {
    const { uid } = lstatSync(path)
    return uid === 0 || uid === process.getuid?.() ? readFileSync(path, 'utf8') : undefined
  } catch (err) {
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes((err as NodeJS.ErrnoException).code ?? '')) return undefined
    throw err
  }
}

export function writeState(dir: string, state: UpState): void {
  const draft = `${statePath(dir)}.${process.pid}`
  writeFileSync(draft, `${JSON.stringify(state, null, 2)}\n`, { mode: OWNER_ONLY })
  renameSync(draft, statePath(dir))
}

/** The state that an `up` on DIR wrote, live or dead. */
export function readState(dir: string): UpState | undefined {
  const text = readOwn(statePath(dir))
  if (text === undefined) return undefined
  try {
    const state = JSON.parse(text) as UpState // our own file, 0600
    return typeof state.gateway === 'string' && Array.isArray(state.parts) ? state : undefined
  } catch {
    return undefined // truncated by a power failure; treated as missing
  }
}
