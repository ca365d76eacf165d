// Selects the sources of COPY and ADD in a context: wildcards, contents of folders, links in paths, --exclude
// and --parents (Dockerfile reference, "COPY", "Source"). Works on the context's tree, not on the disk.

import { posix } from 'node:path'
import { didYouMean, quoted, type FaultFacts } from '../dockerfile/build-failure.ts'
import type { BuildContext, ContextEntry } from './context.ts'
import { excludeRules, type IgnoreRules, type Verdict } from './dockerignore.ts'
import { parsePathPattern } from './path-pattern.ts'

export interface CopyRequest {
  /** Patterns of a step: "src", "*.js", "a/./b/*.txt". */
  readonly sources: readonly string[]
  readonly excludes: readonly string[]
  readonly keepsParents: boolean
  readonly isIntoDirectory: boolean
  /** Creates a fault at the place of the instruction. */
  fault(problem: string, facts?: FaultFacts): Error
}

export interface CopyItem {
  readonly entry: ContextEntry
  /** Relative to the destination; folders come before their contents. */
  readonly name: string
  /** Named by the instruction or its wildcard; only these are unpacked by ADD. */
  readonly isDirect: boolean
}

export interface CopySelection {
  readonly items: readonly CopyItem[]
  /** "file": one file, which gets the destination's name unless that is an existing folder. */
  readonly layout: 'file' | 'directory'
  /** Optional patterns without a match. */
  readonly unmatched: readonly string[]
}

const SELECTION_BYTES_MAX = 16 * 1024 ** 3
const LINKS_MAX = 40

/** "below": not the folder itself, but possibly something in it. */
type Wanted = (name: string) => 'yes' | 'below' | 'no'

const hasWildcard = (part: string): boolean => /[*?[\\]/.test(part)

function selector(context: BuildContext, request: CopyRequest, excludes: IgnoreRules) {
  const items = new Map<string, CopyItem>()
  let totalBytes = 0

  function take(entry: ContextEntry, name: string, isDirect = false): void {
    if (entry.kind === 'special') {
      if (entry.what === 'a socket') return // as Docker does
      throw request.fault(`${quoted(entry.path)} cannot be copied: ${entry.what}`, {
        hint: 'add it to .dockerignore',
      })
    }
    const other = items.get(name)?.entry
    if (
      other !== undefined &&
      other.path !== entry.path &&
      (other.kind === 'directory') !== (entry.kind === 'directory')
    ) {
      throw request.fault(
        `${quoted(name)} would be both a file (${quoted(entry.kind === 'directory' ? other.path : entry.path)}) and a folder`,
      )
    }
    if (entry.kind === 'file') totalBytes += entry.sizeBytes
    if (totalBytes > SELECTION_BYTES_MAX)
      throw request.fault(`more than ${SELECTION_BYTES_MAX} bytes would be copied`, {
        hint: 'add what the image does not need to .dockerignore',
      })
    items.delete(name)
    items.set(name, { entry, name, isDirect })
  }

  async function missing(folder: ContextEntry, name: string, source: string): Promise<never> {
    const { entries, ignored } = await context.read(folder)
    const path = posix.join(folder.path, name)
    const line = ignored.get(name)
    if (line !== undefined)
      throw request.fault(
        `${quoted(path)} is excluded from ${context.name} by ${context.ignoreName}:${line}`,
        {
          mark: source,
        },
      )
    throw request.fault(`there is no ${quoted(path)} in ${context.name}`, {
      mark: source,
      hint: didYouMean(
        name,
        entries.map((entry) => posix.basename(entry.path)),
      ),
    })
  }

  async function find(folder: ContextEntry, name: string): Promise<ContextEntry | undefined> {
    const path = posix.join(folder.path, name)
    return (await context.read(folder)).entries.find((entry) => entry.path === path)
  }

  /** The entry at PATH. Links are followed inside the context, whose root is "/"; ".." cannot leave it. */
  async function resolve(path: string, source: string): Promise<ContextEntry> {
    let rest = path.split('/').filter((part) => part !== '')
    let trail = [context.root]
    let links = 0
    while (rest.length > 0) {
      const [part = '', ...others] = rest
      rest = others
      if (part === '.') continue
      if (part === '..') {
        trail = trail.length > 1 ? trail.slice(0, -1) : trail
        continue
      }
      const folder = trail.at(-1)!
      if (folder.kind !== 'directory')
        throw request.fault(`${quoted(folder.path)} is not a folder`, { mark: source })
      const entry = (await find(folder, part)) ?? (await missing(folder, part, source))
      if (entry.kind !== 'link') {
        trail = [...trail, entry]
        continue
      }
      if (++links > LINKS_MAX)
        throw request.fault(`${quoted(path)} has more than ${LINKS_MAX} links`, { mark: source })
      if (entry.linkTarget!.startsWith('/')) trail = [context.root]
      rest = [...entry.linkTarget!.split('/').filter((target) => target !== ''), ...rest]
    }
    return trail.at(-1)!
  }

  /**
   * The paths that SOURCE refers to: itself, or the matches of its wildcards. No link is followed after the
   * first wildcard.
   */
  async function matches(source: string): Promise<string[]> {
    const parts = source.split('/').filter((part) => part !== '')
    const wild = parts.findIndex(hasWildcard)
    if (wild < 0) return [parts.join('/')]
    const from = await resolve(parts.slice(0, wild).join('/'), source)
    let found = from.kind === 'directory' ? [from] : []
    for (const part of parts.slice(wild)) {
      const pattern = parsePathPattern(part, false)
      if (pattern === undefined)
        throw request.fault(`${quoted(source)} is not a valid pattern`, {
          mark: source,
          hint: 'close each "[" with "]"; [[] matches the character itself',
        })
      const next: ContextEntry[] = []
      for (const folder of found.filter(({ kind }) => kind === 'directory')) {
        next.push(
          ...(await context.read(folder)).entries.filter((entry) =>
            pattern.matches(posix.basename(entry.path)),
          ),
        )
      }
      found = next
    }
    return found.map((entry) => entry.path)
  }

  /**
   * Selects the contents of FOLDER according to WANTED. A folder that is not selected itself is one of ABOVE
   * for its contents: it is added with the first of them.
   */
  async function takeContents(
    folder: ContextEntry,
    prefix: string,
    verdict: Verdict,
    wanted: Wanted,
    above: readonly ContextEntry[] = [],
  ): Promise<void> {
    for (const entry of (await context.read(folder)).entries) {
      const name = prefix + posix.basename(entry.path)
      const excluded = excludes.judge(name, verdict)
      const answer = wanted(name)
      const isTaken = answer === 'yes' && !entry.isHidden && !excluded.isIgnored
      if (isTaken) {
        const names = name.split('/')
        for (const [i, other] of above.entries()) {
          const otherName = names.slice(0, names.length - above.length + i).join('/')
          if (!items.has(otherName)) take(other, otherName)
        }
        take(entry, name)
      }
      if (
        entry.kind !== 'directory' ||
        answer === 'no' ||
        (excluded.isIgnored && !excludes.mayHoldExceptions(name))
      )
        continue
      await takeContents(entry, `${name}/`, excluded, wanted, isTaken ? [] : [...above, entry])
    }
  }

  async function takePlain(source: string): Promise<number> {
    const paths = await matches(source)
    for (const path of paths) {
      const entry = await resolve(path, source)
      const name = posix.basename(path)
      if (entry.kind === 'directory') await takeContents(entry, '', excludes.root, () => 'yes')
      else if (!excludes.judge(name, excludes.root).isIgnored) take(entry, name, true)
    }
    return paths.length
  }

  /** COPY --parents: "a/./b/*.txt" keeps b; "**" crosses folders. */
  async function takeParents(source: string): Promise<number> {
    const pivot = source.indexOf('/./')
    const text = (pivot < 0 ? source : source.slice(pivot + 3)).replace(/^\.\//, '')
    const pattern = parsePathPattern(posix.normalize(text), true)
    if (pattern === undefined)
      throw request.fault(`${quoted(source)} is not a valid pattern`, { mark: source })
    const before = items.size
    const bases = pivot < 0 ? [''] : await matches(source.slice(0, pivot))
    for (const path of bases) {
      const base = await resolve(path, source)
      if (base.kind !== 'directory')
        throw request.fault(`${quoted(base.path)} is not a folder`, { mark: source })
      if (pattern.isLiteral && pattern.text !== '.')
        await resolve(posix.join(base.path, pattern.text), source)
      await takeContents(base, '', excludes.root, (name) => {
        // A matching folder includes its contents.
        const isMatch =
          pattern.text === '.' ||
          name.split('/').some((_, i, parts) => pattern.matches(parts.slice(0, i + 1).join('/')))
        return isMatch
          ? 'yes'
          : `${name}/`.startsWith(pattern.prefix) || pattern.prefix.startsWith(`${name}/`)
            ? 'below'
            : 'no'
      })
    }
    return items.size - before
  }

  return { items, take: request.keepsParents ? takeParents : takePlain }
}

/**
 * The files of CONTEXT that REQUEST selects. Throws faults of REQUEST, and InvalidRequest for files that
 * cannot be read.
 */
export async function selectFiles(context: BuildContext, request: CopyRequest): Promise<CopySelection> {
  const excludes = excludeRules(request.excludes)
  if (typeof excludes === 'string')
    throw request.fault(`--exclude=${excludes} is not a valid pattern`, { mark: excludes })
  const { items, take } = selector(context, request, excludes)
  const unmatched: string[] = []
  let taken = 0
  for (const source of request.sources) {
    const count = await take(source)
    if (count === 0) unmatched.push(source)
    taken += count
  }
  if (taken > 1 && !request.isIntoDirectory && !request.keepsParents) {
    throw request.fault(`${taken} files match, so the destination must be a directory`, {
      mark: request.sources[0],
      hint: 'end it with "/"',
    })
  }
  const all = [...items.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
  const isFile =
    !request.isIntoDirectory && !request.keepsParents && taken === 1 && all.length === 1 && all[0]!.isDirect
  return { items: all, layout: isFile ? 'file' : 'directory', unmatched }
}
