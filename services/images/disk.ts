// Small operations on the folders of the store: durable renames, removal of large trees, and disk errors that
// say what to do.

import { execFile } from 'node:child_process'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { hexOf, isDigest } from '../contract/digest.ts'
import { SyscallError } from '../contract/errors.ts'

const run = promisify(execFile)
const PATHS_PER_RM = 256

const DISK_ADVICE: Readonly<Record<string, string>> = {
  ENOSPC:
    'no space is left on the disk of the image store; free some (wherry image prune) or move the data folder',
  EDQUOT: 'the disk quota of the image store is used up',
  EROFS: 'the disk of the image store is read-only',
}

/** Where FOLDER keeps DIGEST.  Throws TypeError for anything else than a digest: it might be a path. */
export function pathOf(folder: string, digest: string): string {
  if (!isDigest(digest)) throw new TypeError(`not a digest: ${digest}`)
  return join(folder, hexOf(digest))
}

/** The errno of a system error, else ''. */
export function errnoOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

export function isMissing(error: unknown): boolean {
  return errnoOf(error) === 'ENOENT'
}

/** A rename found its target occupied (rename(2) allows both): another process was first. */
export function isOccupied(error: unknown): boolean {
  return ['ENOTEMPTY', 'EEXIST'].includes(errnoOf(error))
}

/** A layer's tree may be deep and wide: rm(1) walks it by descriptors and outside of this process. */
export async function removeTrees(paths: readonly string[]): Promise<void> {
  for (let i = 0; i < paths.length; i += PATHS_PER_RM)
    await run('rm', ['-rf', '--one-file-system', '--', ...paths.slice(i, i + PATHS_PER_RM)])
}

/** Make renames into the folder PATH durable. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** ERROR of writing WHAT as a SyscallError that says what to do; any unexpected error unchanged. */
export function diskError(what: string, error: unknown): unknown {
  const errno = errnoOf(error)
  const advice = DISK_ADVICE[errno]
  if (advice === undefined) return error
  return new SyscallError(`${what} cannot be stored: ${advice} (${errno})`, {
    errno,
    syscall: 'write',
    op: 'store',
  })
}
