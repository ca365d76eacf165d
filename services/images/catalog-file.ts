// The SQLite file behind the catalog: opening it, its schema, its write lock, and what happens when it is
// damaged or gone.  A transaction that has begun with BEGIN IMMEDIATE is the store's lock: the kernel takes
// it back when its holder is killed.  The file lives in a folder of its own with SQLite's -wal and -shm, so
// that one rename replaces all three.  Knows SQLite; refuses to know what the rows mean.

import { randomBytes } from 'node:crypto'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { AppError, Overloaded, SyscallError } from '../contract/errors.ts'

const FILE = 'index.db'
/**
 * Given up when the disk is full: without room for a few pages nothing could be taken out of the store any
 * more.
 */
const BALLAST = 'ballast'
const BALLAST_BYTES = 1024 ** 2
/** What SQLite maps at least, and what a folder or two take beside it. */
const SHM_BYTES = 128 * 1024
const SCHEMA_VERSION = 1
/** How long a process waits for another's transaction; they are milliseconds long. */
const BUSY_TIMEOUT_MS = 5000
const SQLITE_BUSY = 5
const SQLITE_IOERR = 10
const SQLITE_CORRUPT = 11
const SQLITE_FULL = 13
const SQLITE_NOTADB = 26

const SCHEMA = `
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE images (
  digest TEXT PRIMARY KEY, manifest_digest TEXT NOT NULL, config_digest TEXT NOT NULL, source TEXT,
  pulled_at_ms INTEGER NOT NULL, used_at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE image_layers (
  image TEXT NOT NULL REFERENCES images (digest) ON DELETE CASCADE, position INTEGER NOT NULL,
  diff_id TEXT NOT NULL, digest TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (image, position)
) STRICT;
CREATE INDEX image_layers_by_diff_id ON image_layers (diff_id);
CREATE INDEX image_layers_by_digest ON image_layers (digest);
CREATE TABLE layer_sizes (diff_id TEXT PRIMARY KEY, disk_bytes INTEGER NOT NULL) STRICT;
CREATE TABLE names (name TEXT PRIMARY KEY, digest TEXT NOT NULL) STRICT;
CREATE TABLE pins (digest TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (digest, owner)) STRICT;
CREATE TABLE claims (diff_id TEXT PRIMARY KEY, owner TEXT NOT NULL) STRICT;
CREATE TABLE deployed (digest TEXT PRIMARY KEY) STRICT;
PRAGMA user_version = ${SCHEMA_VERSION};
`

export type CatalogFile = ReturnType<typeof openCatalogFile>

export interface CatalogFileOptions {
  /** The store's folder. */
  readonly dir: string
  /** The store's tmp/: what is built there is swept when its process is dead. */
  readonly temporaryName: () => string
  /** Fill an empty database from what is on the disk.  OLD is the damaged one, as far as it can be read. */
  readonly fill: (db: DatabaseSync, old: DatabaseSync | undefined) => void
  readonly onNote: (text: string) => void
}

function errcodeOf(error: unknown): number | undefined {
  return error instanceof Error && 'errcode' in error && typeof error.errcode === 'number'
    ? error.errcode & 0xff
    : undefined
}

function isDamage(error: unknown): boolean {
  const code = errcodeOf(error)
  return code === SQLITE_CORRUPT || code === SQLITE_NOTADB
}

/** ERROR of the database or the disk of the store in DIR, in words that a person can do something about. */
function explain(error: unknown, dir: string): unknown {
  const code = errcodeOf(error)
  const errno = isFull(error, dir)
    ? 'ENOSPC'
    : errnoOf(() => accessSync(dir, constants.R_OK | constants.W_OK))
  if (errno !== undefined) {
    const why =
      errno === 'ENOSPC'
        ? 'no space is left on the disk of the image store; free some (wherry image prune) or move the data folder'
        : `the image store ${dir} cannot be written to (${errno})`
    return new SyscallError(why, { errno, syscall: 'write', op: 'catalog' })
  }
  if (code === SQLITE_BUSY)
    return new Overloaded(
      `another process holds the catalog of the image store ${dir} for longer than ${BUSY_TIMEOUT_MS} ms; try again`,
      'ERR_STORE_BUSY',
      error,
    )
  return code === undefined
    ? error
    : new Error(`the catalog of the image store ${dir} cannot be used: ${(error as Error).message}`, {
        cause: error,
      })
}

/** The errno that ATTEMPT fails with, if it does. */
function errnoOf(attempt: () => void): string | undefined {
  try {
    attempt()
    return undefined
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : undefined
  }
}

function inodeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.ino
}

/** Not a page more: SQLite says so of its files, but not of the memory that it maps (-shm). */
function isFull(error: unknown, dir: string): boolean {
  const code = errcodeOf(error)
  if (code === SQLITE_FULL || (error instanceof Error && 'code' in error && error.code === 'ENOSPC'))
    return true
  if (code !== SQLITE_IOERR) return false
  const { bavail, bsize } = statfsSync(dir)
  return bavail * bsize < SHM_BYTES
}

/** Keep room aside next to FILE, as much as there is. */
function loadBallast(file: string): void {
  const path = join(dirname(file), BALLAST)
  try {
    if (statSync(path, { throwIfNoEntry: false })?.size === BALLAST_BYTES) return
    writeFileSync(path, Buffer.alloc(BALLAST_BYTES), { mode: 0o600 })
  } catch {
    // no room for all of it now: what was written is better than nothing, and the next process tries again
  }
}

function connect(file: string): DatabaseSync {
  const db = new DatabaseSync(file, { timeout: BUSY_TIMEOUT_MS })
  try {
    db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON')
    return db
  } catch (error) {
    db.close()
    throw error
  }
}

/** After an error; SQLite has rolled back by itself after some of them. */
function rollBack(db: DatabaseSync): void {
  try {
    if (db.isTransaction) db.exec('ROLLBACK')
  } catch {
    // only a damaged database cannot; the first error says so
  }
}

/** The database below DIR, opened on first use and again when another process has replaced it. */
export function openCatalogFile({ dir, temporaryName, fill, onNote }: CatalogFileOptions) {
  const folder = join(dir, 'catalog')
  const file = join(folder, FILE)
  let db: DatabaseSync | undefined
  let inode: number | undefined
  let closed = false
  let restore: ((db: DatabaseSync) => void) | undefined

  function connectDamaged(): DatabaseSync | undefined {
    if (!existsSync(file)) return undefined
    try {
      return connect(file)
    } catch {
      return undefined // nothing of it can be read
    }
  }

  /**
   * Make a whole new database aside, then put it in the place of the one with the inode SEEN: others see the
   * old one or the new one.
   */
  function rebuild(seen: number | undefined): void {
    const draft = join(dir, 'tmp', temporaryName())
    mkdirSync(draft, { recursive: true, mode: 0o700 })
    const fresh = connect(join(draft, FILE))
    const old = connectDamaged()
    try {
      fresh.exec(SCHEMA)
      fresh.exec('BEGIN')
      fill(fresh, old)
      fresh.exec('COMMIT')
    } finally {
      fresh.close()
      old?.close()
    }
    const away = join(dir, 'tmp', temporaryName())
    if (existsSync(folder) && inodeOf(file) === seen) renameSync(folder, away)
    try {
      renameSync(draft, folder)
    } catch (error) {
      // Another process was first (rename(2)); its database says the same.
      if (!(
        error instanceof Error &&
        'code' in error &&
        (error.code === 'ENOTEMPTY' || error.code === 'EEXIST')
      ))
        throw error
      rmSync(draft, { recursive: true, force: true })
    }
    rmSync(away, { recursive: true, force: true })
  }

  function open(): DatabaseSync {
    if (closed) throw new Error('the catalog of the image store was closed')
    const seen = inodeOf(file)
    if (db && seen !== undefined && seen === inode) return db
    disconnect()
    if (seen === undefined) rebuild(undefined)
    const isReplaced = inode !== undefined
    inode = inodeOf(file)
    db = connect(file)
    loadBallast(file)
    if (isReplaced) restore?.(db)
    const version = db.prepare('PRAGMA user_version').get()?.['user_version']
    if (version === SCHEMA_VERSION) return db
    onNote(
      `the catalog of the image store ${dir} has format ${version}, not ${SCHEMA_VERSION}: it is made anew from what is on the disk`,
    )
    return replace()
  }

  /** In the place of the one that `inode` says. */
  function replace(): DatabaseSync {
    disconnect()
    rebuild(inode)
    inode = inodeOf(file)
    db = connect(file)
    restore?.(db)
    return db
  }

  function disconnect(): void {
    try {
      db?.close()
    } catch {
      // a damaged one cannot be closed in order; it is replaced as a whole
    }
    db = undefined
  }

  function attempt<T>(work: (db: DatabaseSync) => T, mayUseBallast: boolean): T {
    try {
      return work(open())
    } catch (error) {
      if (mayUseBallast && isFull(error, dir) && existsSync(join(folder, BALLAST))) {
        rmSync(join(folder, BALLAST))
        return attempt(work, mayUseBallast)
      }
      if (!isDamage(error)) throw error instanceof AppError ? error : explain(error, dir)
      onNote(
        `the catalog of the image store ${dir} is damaged (${(error as Error).message}): it is made anew from what is on the disk`,
      )
      return work(replace())
    }
  }

  const inTransaction =
    <T>(work: (db: DatabaseSync) => T) =>
    (db: DatabaseSync): T => {
      db.exec('BEGIN IMMEDIATE')
      try {
        const result = work(db)
        db.exec('COMMIT')
        return result
      } catch (error) {
        rollBack(db)
        throw error
      }
    }

  return {
    /** Run WORK on the database; once more on a new one when this one turns out to be damaged. */
    read: <T>(work: (db: DatabaseSync) => T): T => attempt(work, true),

    /** Run WORK as one transaction that no other process's writes can come between. */
    write: <T>(work: (db: DatabaseSync) => T): T => attempt(inTransaction(work), false),

    /** The same for WORK that gives something back: it has what is kept aside for a full disk. */
    free: <T>(work: (db: DatabaseSync) => T): T => attempt(inTransaction(work), true),

    /** LISTENER puts back what this process alone knows whenever the database has become another one. */
    onReplaced(listener: (db: DatabaseSync) => void): void {
      restore = listener
    },

    close(): void {
      disconnect()
      closed = true
    },
  }
}

/** The beginning of names that are one process's own, and a random end. */
export function ownName(prefix: string): string {
  return `${prefix}${randomBytes(8).toString('hex')}`
}
