// The build context: a tree that is read on demand, without what its ignore rules exclude. A path is resolved
// through an O_PATH descriptor, which opens no file (open(2)), and used only if it is still what was listed.
// So a link that replaces a folder meanwhile is not followed.

import { createHash } from 'node:crypto'
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  realpathSync,
  type BigIntStats,
} from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { defined } from '../../contract/defined.ts'
import { AppError, InvalidRequest } from '../../contract/errors.ts'
import type { IgnoreRules, Verdict } from './dockerignore.ts'

export interface ContextEntry {
  /** "src/a.ts"; "" is the context itself. */
  readonly path: string
  /** "special" cannot be copied; `what` says what it is. */
  readonly kind: 'file' | 'directory' | 'link' | 'special'
  /** 12 bits. */
  readonly mode: number
  readonly sizeBytes: number
  readonly mtimeMs: number
  /** Target of a link, unchanged. */
  readonly linkTarget?: string
  readonly what?: string
  /** Identifies the file when it is opened. */
  readonly identity: string
  /** An ignored folder that is listed only because something below it is excepted. */
  readonly isHidden: boolean
}

export interface Folder {
  /** Sorted by name. */
  readonly entries: readonly ContextEntry[]
  /** Names that a rule excludes, with the line of the rule. */
  readonly ignored: ReadonlyMap<string, number>
}

export interface BuildContext {
  /** For messages: "the context". */
  readonly name: string
  /** Name of its ignore file for messages; "" if there is none. */
  readonly ignoreName: string
  readonly root: ContextEntry
  /** The contents of the folder ENTRY. */
  read(entry: ContextEntry): Promise<Folder>
  /**
   * A descriptor for reading the file ENTRY, which the caller closes. Throws InvalidRequest if it is no
   * longer the same file.
   */
  open(entry: ContextEntry): number
  /** sha256 of the file ENTRY's content, in hexadecimal; read once. */
  digest(entry: ContextEntry): Promise<string>
}

/** Limit for the whole context, including ignored files. */
const CONTEXT_ENTRIES_MAX = 1_000_000
const PATH_BYTES_MAX = 4096
const DEPTH_MAX = 256
const CHUNK_BYTES = 256 * 1024
/** Other tasks get a turn after this many bytes or files. */
const TURN_BYTES = 4 * 1024 * 1024
const TURN_ENTRIES = 2000

/** O_PATH of open(2): a handle of the place without opening the file; Node has no name for it. */
const O_PATH = 0o10000000
const PLACE_FLAGS = O_PATH | constants.O_NOFOLLOW

function errnoOf(err: unknown): string {
  return err instanceof Error && 'code' in err ? String(err.code) : ''
}

function refuse(path: string, problem: string): never {
  throw new InvalidRequest([{ path: path === '' ? 'the context' : path, problem }])
}

/** ERR, from a system call on PATH, as a message. */
function failed(path: string, err: unknown): never {
  if (err instanceof AppError) throw err
  const code = errnoOf(err)
  if (code === 'EACCES' || code === 'EPERM')
    refuse(path, 'permission denied; change its mode, or add it to .dockerignore')
  if (['ENOENT', 'ELOOP', 'ENOTDIR', 'EISDIR', 'ENXIO'].includes(code))
    refuse(path, 'changed while it was read; build again')
  throw err
}

const identityOf = ({ dev, ino }: BigIntStats): string => `${dev}:${ino}`

function whatOf(stats: BigIntStats): string | undefined {
  if (stats.isFIFO()) return 'a pipe'
  if (stats.isSocket()) return 'a socket'
  return stats.isBlockDevice() || stats.isCharacterDevice() ? 'a device' : undefined
}

function entryOf(
  path: string,
  stats: BigIntStats,
  facts: { isHidden: boolean; linkTarget?: string; what?: string | undefined },
): ContextEntry {
  const { isHidden, linkTarget, what } = facts
  return {
    path,
    kind:
      what !== undefined
        ? 'special'
        : stats.isDirectory()
          ? 'directory'
          : stats.isSymbolicLink()
            ? 'link'
            : 'file',
    mode: Number(stats.mode) & 0o7777,
    sizeBytes: Number(stats.size),
    mtimeMs: Number(stats.mtimeNs / 1_000_000n),
    identity: identityOf(stats),
    isHidden,
    ...defined({ linkTarget, what }),
  }
}

/** Calls ACT with the place PATH, as "/proc/self/fd/N", and its status. */
function atPlace<T>(path: string, act: (at: string, stats: BigIntStats) => T): T {
  const fd = openSync(path, PLACE_FLAGS)
  try {
    return act(`/proc/self/fd/${fd}`, fstatSync(fd, { bigint: true }))
  } finally {
    closeSync(fd)
  }
}

/**
 * The context DIR without what RULES exclude. Throws InvalidRequest if it is not a folder, now or when
 * something in it cannot be read.
 */
export function createContext({ dir, rules }: { dir: string; rules: IgnoreRules }): BuildContext {
  const folders = new Map<string, Folder>()
  const verdicts = new Map<string, Verdict>([['', rules.root]])
  const digests = new Map<string, string>()
  let entriesRead = 0
  let sinceTurn = 0
  let root: ContextEntry
  let real: string
  try {
    real = realpathSync(dir)
    root = entryOf(
      '',
      atPlace(real, (_, stats) => stats),
      { isHidden: false },
    )
  } catch (err) {
    const why: Readonly<Record<string, string>> = {
      ENOENT: 'no such folder',
      ENOTDIR: 'no such folder',
      EACCES: 'permission denied',
    }
    throw new InvalidRequest([{ path: 'context', problem: `${dir}: ${why[errnoOf(err)] ?? String(err)}` }])
  }
  if (root.kind !== 'directory')
    throw new InvalidRequest([{ path: 'context', problem: `${dir}: not a folder` }])

  function child(
    at: string,
    nameBytes: Buffer,
    parent: ContextEntry,
    ignored: Map<string, number>,
  ): ContextEntry | undefined {
    const name = nameBytes.toString()
    const path = parent.path === '' ? name : `${parent.path}/${name}`
    const verdict = rules.judge(path, verdicts.get(parent.path)!)
    const isText = Buffer.from(name).equals(nameBytes)
    const stats = lstatSync(isText ? `${at}/${name}` : Buffer.concat([Buffer.from(`${at}/`), nameBytes]), {
      bigint: true,
      throwIfNoEntry: false,
    })
    if (stats === undefined) return undefined // removed since the folder was listed
    const isHidden = verdict.isIgnored && stats.isDirectory() && rules.mayHoldExceptions(path)
    if (verdict.isIgnored) ignored.set(name, verdict.rule!.line)
    if (verdict.isIgnored && !isHidden) return undefined
    if (!isText) return entryOf(path, stats, { isHidden, what: 'a name that is not UTF-8' })
    if (Buffer.byteLength(path) > PATH_BYTES_MAX || path.split('/').length > DEPTH_MAX)
      refuse(path, `the path is longer than ${PATH_BYTES_MAX} bytes or ${DEPTH_MAX} folders deep`)
    if (stats.isDirectory()) verdicts.set(path, verdict)
    return entryOf(path, stats, {
      isHidden,
      what: whatOf(stats),
      ...(stats.isSymbolicLink() && { linkTarget: readlinkSync(`${at}/${name}`) }),
    })
  }

  function list(entry: ContextEntry): Folder {
    const ignored = new Map<string, number>()
    const entries = atPlace(join(real, entry.path), (at, stats) => {
      if (identityOf(stats) !== entry.identity) refuse(entry.path, 'changed while it was read; build again')
      const names = readdirSync(at, { encoding: 'buffer' })
      entriesRead += names.length
      sinceTurn += names.length
      if (entriesRead > CONTEXT_ENTRIES_MAX)
        refuse(
          '',
          `has more than ${CONTEXT_ENTRIES_MAX} files; add what the build does not need to .dockerignore`,
        )
      return names.sort(Buffer.compare).flatMap((name) => child(at, name, entry, ignored) ?? [])
    })
    return { entries, ignored }
  }

  function open(entry: ContextEntry): number {
    try {
      return atPlace(join(real, entry.path), (at, stats) => {
        const isSame =
          stats.isFile() && identityOf(stats) === entry.identity && Number(stats.size) === entry.sizeBytes
        return isSame
          ? openSync(at, constants.O_RDONLY)
          : refuse(entry.path, 'changed while it was read; build again')
      })
    } catch (err) {
      return failed(entry.path, err)
    }
  }

  async function hashFile(entry: ContextEntry): Promise<string> {
    const hash = createHash('sha256')
    const fd = open(entry)
    try {
      const buffer = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, entry.sizeBytes + 1))
      let total = 0
      for (let length = buffer.length; length === buffer.length;) {
        length = readSync(fd, buffer)
        total += length
        hash.update(buffer.subarray(0, length))
        await takeTurns(length)
      }
      if (total !== entry.sizeBytes) refuse(entry.path, 'changed while it was read; build again')
    } finally {
      closeSync(fd)
    }
    return hash.digest('hex')
  }

  let bytesSinceTurn = 0
  async function takeTurns(lengthBytes: number): Promise<void> {
    bytesSinceTurn += lengthBytes
    if (bytesSinceTurn < TURN_BYTES && sinceTurn < TURN_ENTRIES) return
    bytesSinceTurn = 0
    sinceTurn = 0
    await setImmediate()
  }

  return {
    name: 'the context',
    root,
    ignoreName: rules.name,
    open,
    async read(entry) {
      const known = folders.get(entry.path)
      if (known !== undefined) return known
      await takeTurns(0)
      try {
        const folder = list(entry)
        folders.set(entry.path, folder)
        return folder
      } catch (err) {
        return failed(entry.path, err)
      }
    },
    async digest(entry) {
      const known = digests.get(entry.path)
      if (known !== undefined) return known
      sinceTurn++
      await takeTurns(0)
      const digest = await hashFile(entry)
      digests.set(entry.path, digest)
      return digest
    },
  }
}
