// The two files that say what a build is: the Dockerfile and its ignore file. Knows where they are looked for
// (Dockerfile reference, ".dockerignore file"); refuses to know what is in them. A link that leads out of the
// context is refused: its lines would be shown in messages.

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

/** The content of FILE, which has to be in one of ROOTS; undefined if there is none. */
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
    if (code === 'EACCES') refuse(file, 'may not be read')
    throw err
  }
  try {
    const stats = fstatSync(fd)
    if (!stats.isFile()) refuse(file, 'is no file')
    if (stats.size > bytesMax) refuse(file, `is ${stats.size} bytes long, it may have ${bytesMax}`)
    return readFileSync(fd)
  } finally {
    closeSync(fd)
  }
}

/**
 * What to build in CONTEXTDIR: CONTENT (from stdin), FILE (a path as it is, -f), or Dockerfile in the
 * context; the rules are those of FILE.dockerignore beside it, or of .dockerignore in the context. Throws
 * InvalidRequest ERR_INVALID_DOCKERFILE when there is none, or when it is no file.
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
    return refuse(contextDir, 'there is no such folder')
  }
  if (!statSync(root).isDirectory()) refuse(contextDir, 'is no folder; a Dockerfile is named with -f')
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
    file === undefined ? 'is missing; write one, or name it with -f' : 'there is no such file',
  )
}

function realpathOr(dir: string): string {
  try {
    return realpathSync(dir)
  } catch {
    return dir // the file in it is missing then, too
  }
}

function readRules(root: string, dockerfile: string, roots: readonly string[]): IgnoreRules {
  for (const path of [`${dockerfile}.dockerignore`, join(root, '.dockerignore')]) {
    const content = readIfThere(path, roots, DOCKERIGNORE_BYTES_MAX)
    if (content !== undefined) return parseDockerignore(basename(path), Buffer.from(content).toString())
  }
  return NO_RULES
}
