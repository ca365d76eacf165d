// The SQLite file behind the catalog: how it is opened, locked, and rebuilt when it is damaged or missing.
// A transaction begun with BEGIN IMMEDIATE is the store's lock; the kernel releases it when its holder is
// killed.  The file has its own folder with SQLite's -wal and -shm, so one rename replaces all three.

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
 * Removed when the disk is full: without room for a few pages of SQLite, nothing could be removed from the
 * store.
 */
const BALLAST = 'ballast'
const BALLAST_BYTES = 1024 ** 2
/** The least that SQLite maps, plus some room for folders. */
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
  /** A name in the store's tmp/, which is swept when this process is dead. */
  readonly temporaryName: () => string
  /** Fill an empty database from the disk.  OLD is the damaged one, as far as it can be read. */
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

/** ERROR of the database or the disk of the store in DIR, as an error that says what to do. */
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
      `another process has locked the catalog of the image store ${dir} for more than ${BUSY_TIMEOUT_MS} ms; try again`,
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

/** Whether the disk is full.  SQLite reports that for its files, but not for the memory it maps (-shm). */
function isFull(error: unknown, dir: string): boolean {
  const code = errcodeOf(error)
  if (code === SQLITE_FULL || (error instanceof Error && 'code' in error && error.code === 'ENOSPC'))
    return true
  if (code !== SQLITE_IOERR) return false
  const { bavail, bsize } = statfsSync(dir)
  return bavail * bsize < SHM_BYTES
}

/** Reserve room next to FILE, as much as there is. */
function loadBallast(file: string): void {
  const path = join(dirname(file), BALLAST)
  try {
    if (statSync(path, { throwIfNoEntry: false })?.size === BALLAST_BYTES) return
    writeFileSync(path, Buffer.alloc(BALLAST_BYTES), { mode: 0o600 })
  } catch {
    // no room for all of it now: a part is better than nothing, and the next process tries again
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

/** Roll back after an error, unless SQLite already has. */
function rollBack(db: DatabaseSync): void {
  try {
    if (db.isTransaction) db.exec('ROLLBACK')
  } catch {
    // only a damaged database fails here, and the first error says so
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
      return undefined // nothing in it can be read
    }
  }

  /**
   * Build a new database in tmp/, then replace the one with the inode SEEN: other processes see the old one
   * or the new one.
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
      // Another process was first; its database has the same content.
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
      `the catalog of the image store ${dir} has format ${version}, not ${SCHEMA_VERSION}: it is rebuilt from the disk`,
    )
    return replace()
  }

  /** Replace the database that has `inode`. */
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
      // a damaged database cannot be closed cleanly; it is replaced
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
        `the catalog of the image store ${dir} is damaged (${(error as Error).message}): it is rebuilt from the disk`,
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
    /** Run WORK on the database, and again on a rebuilt one if it proves damaged. */
    read: <T>(work: (db: DatabaseSync) => T): T => attempt(work, true),

    /** Run WORK as one transaction that excludes writes of other processes. */
    write: <T>(work: (db: DatabaseSync) => T): T => attempt(inTransaction(work), false),

    /** The same for WORK that frees something: on a full disk it may use the reserved room. */
    free: <T>(work: (db: DatabaseSync) => T): T => attempt(inTransaction(work), true),

    /** LISTENER restores what only this process knows whenever the database has been replaced. */
    onReplaced(listener: (db: DatabaseSync) => void): void {
      restore = listener
    },

    close(): void {
      disconnect()
      closed = true
    },
  }
}

/** A unique name that begins with PREFIX, which identifies the process. */
export function ownName(prefix: string): string {
  return `${prefix}${randomBytes(8).toString('hex')}`
}
