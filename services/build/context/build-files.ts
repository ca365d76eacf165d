// Finds and reads the two files that define a build: the Dockerfile and its ignore file (Dockerfile
// reference, ".dockerignore file"). A link that leads out of the context is rejected, because messages would
// show lines of its target.

import { closeSync, constants, fstatSync, openSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join, sep } from 'node:path'
import { InvalidRequest } from '../../contract/errors.ts'
import { DOCKERIGNORE_BYTES_MAX, NO_RULES, parseDockerignore, type IgnoreRules } from './dockerignore.ts'
import { DOCKERFILE_BYTES_MAX } from '../dockerfile/lines.ts'

export interface BuildFiles {
  readonly dockerfile: { readonly name: string; readonly content: Uint8Array }
  readonly rules: IgnoreRules
}

function refuse(path: string, problem: string): never {
  throw new InvalidRequest([{ path, problem }], 'ERR_INVALID_DOCKERFILE')
}

/** The content of FILE, which must be in one of ROOTS; undefined if it does not exist. */
function readIfThere(file: string, roots: readonly string[], bytesMax: number): Uint8Array | undefined {
  let fd: number
  try {
    const real = realpathSync(file)
    if (!roots.some((root) => real.startsWith(root.endsWith(sep) ? root : root + sep)))
      refuse(file, 'is a link that leads out of the context')
    fd = openSync(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch (err) {
    const code = err instanceof Error && 'code' in err ? err.code : ''
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    if (code === 'EACCES') refuse(file, 'permission denied')
    throw err
  }
  try {
    const stats = fstatSync(fd)
    if (!stats.isFile()) refuse(file, 'is not a file')
    if (stats.size > bytesMax) refuse(file, `is ${stats.size} bytes long; the limit is ${bytesMax}`)
    return readFileSync(fd)
  } finally {
    closeSync(fd)
  }
}

/**
 * The Dockerfile for CONTEXTDIR: CONTENT (from stdin), FILE (the path of -f, used as it is), or Dockerfile in
 * the context. The rules come from FILE.dockerignore next to it, or from .dockerignore in the context. Throws
 * InvalidRequest ERR_INVALID_DOCKERFILE if there is no Dockerfile or it is not a file.
 */
export function readBuildFiles({
  contextDir,
  file,
  content,
}: {
  contextDir: string
  file?: string
  content?: Uint8Array
}): BuildFiles {
  let root: string
  try {
    root = realpathSync(contextDir)
  } catch {
    return refuse(contextDir, 'no such folder')
  }
  if (!statSync(root).isDirectory()) refuse(contextDir, 'is not a folder; name a Dockerfile with -f')
  if (content !== undefined)
    return {
      dockerfile: { name: 'Dockerfile', content },
      rules: readRules(root, join(root, 'Dockerfile'), [root]),
    }
  const candidates = file === undefined ? [join(root, 'Dockerfile'), join(root, 'dockerfile')] : [file]
  const roots = file === undefined ? [root] : [root, realpathOr(dirname(file))]
  for (const path of candidates) {
    const content = readIfThere(path, roots, DOCKERFILE_BYTES_MAX)
    if (content === undefined) continue
    return { dockerfile: { name: file ?? basename(path), content }, rules: readRules(root, path, roots) }
  }
  return refuse(
    file ?? join(contextDir, 'Dockerfile'),
    file === undefined ? 'does not exist; create one, or name it with -f' : 'no such file',
  )
}

function realpathOr(dir: string): string {
  try {
    return realpathSync(dir)
  } catch {
    return dir // then the file in it does not exist, either
  }
}

function readRules(root: string, dockerfile: string, roots: readonly string[]): IgnoreRules {
  for (const path of [`${dockerfile}.dockerignore`, join(root, '.dockerignore')]) {
    const content = readIfThere(path, roots, DOCKERIGNORE_BYTES_MAX)
    if (content !== undefined) return parseDockerignore(basename(path), Buffer.from(content).toString())
  }
  return NO_RULES
}
