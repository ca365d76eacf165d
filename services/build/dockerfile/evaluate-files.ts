// COPY and ADD as a step: sources, destination, and changes to the files. Paths are text here; the files are
// selected later.

import { posix } from 'node:path'
import { defined } from '../../contract/defined.ts'
import { quoted } from './build-failure.ts'
import { resolveFrom } from './build-plan.ts'
import { parseChmod } from './chmod.ts'
import { absolute, lookUp, valueIn, type StageState } from './stage-state.ts'
import { expand } from './expand.ts'
import { heredocText } from './heredoc.ts'
import type { CopyInstruction } from './instructions.ts'
import { HEREDOC_BYTES_MAX } from './lines.ts'
import { ID_MAX } from './mounts.ts'
import type { AddStep, AddUrl, CopyStep, InlineFile } from './steps.ts'

type Own<T> = Omit<T, 'source' | 'location' | 'fault' | 'title' | 'config' | 'isTrigger'>

const isUrl = (source: string): boolean => /^https?:\/\//i.test(source)
const isGit = (source: string): boolean =>
  /^(?:git:\/\/|ssh:\/\/|git@[\w.-]+:)/i.test(source) || /^https?:\/\/[^?#]*\.git(?:[?#].*)?$/i.test(source)

/** "user", "1000:1000" …; an invalid number must not be taken for a name. */
function checkChown(instruction: CopyInstruction, chown: string): void {
  const parts = chown.split(':')
  const isOwner = (part: string): boolean =>
    /^\d+$/.test(part) ? Number(part) <= ID_MAX : /^[A-Za-z_][\w.-]{0,254}\$?$/.test(part)
  if (parts.length > 2 || !parts.every(isOwner))
    throw instruction.fault(`${quoted(chown)} is not a valid owner`, {
      mark: instruction.chown,
      hint: 'examples: user, user:group, 1000:1000',
    })
}

function filesOf(state: StageState, instruction: CopyInstruction): InlineFile[] {
  return instruction.heredocs.map((heredoc) => {
    const text = heredocText(heredoc)
    if (!heredoc.isExpanded) return { name: heredoc.name, content: text }
    const result = expand(text, {
      lookup: (name) => lookUp(state, name),
      escape: '\\',
      quotes: 'plain',
      charactersMax: HEREDOC_BYTES_MAX,
    })
    if ('problem' in result)
      throw instruction.fault(`the heredoc ${quoted(heredoc.name)} cannot be expanded: ${result.problem}`, {
        mark: heredoc.name,
        hint: `<<"${heredoc.name}" leaves "$" alone`,
      })
    state.plan.spend(instruction, result.text.length)
    return { name: heredoc.name, content: result.text }
  })
}

/** The name of the file at URL; "" if the URL has none. */
function urlName(instruction: CopyInstruction, url: string): string {
  if (!URL.canParse(url)) throw instruction.fault(`${quoted(url)} is not a valid URL`, { mark: url })
  const name = new URL(url).pathname.split('/').at(-1)!
  try {
    const decoded = decodeURIComponent(name)
    return decoded.includes('/') || decoded.includes('\0') || decoded === '.' || decoded === '..'
      ? ''
      : decoded
  } catch {
    return name // an invalid "%" escape
  }
}

function urlsOf(
  instruction: CopyInstruction,
  sources: readonly string[],
  isIntoDirectory: boolean,
): AddUrl[] {
  return sources.map((url) => {
    const name = urlName(instruction, url)
    if (name === '' && isIntoDirectory)
      throw instruction.fault(`${quoted(url)} has no file name`, {
        mark: url,
        hint: 'end the destination with the name of the file',
      })
    return { url, name }
  })
}

function checkSources(
  state: StageState,
  instruction: CopyInstruction,
  sources: readonly string[],
  isIntoDirectory: boolean,
): void {
  const name = instruction.kind.toUpperCase()
  const { source: file, location } = instruction
  for (const [i, source] of sources.entries()) {
    const mark = instruction.sources[i]!
    if (source === '')
      throw instruction.fault(`the source ${quoted(mark)} is empty`, {
        mark,
        hint: 'the root of the context is "."',
      })
    if (isGit(source))
      throw instruction.fault(`${name} does not support git repositories`, {
        mark,
        hint: 'clone it in a RUN',
      })
    if (isUrl(source) && instruction.kind === 'copy')
      throw instruction.fault('COPY does not support URLs', { mark, hint: 'use ADD' })
    if (instruction.from === undefined && posix.normalize(source).startsWith('..')) {
      state.plan.warn({
        source: file,
        location,
        rule: 'SourceAboveContext',
        text: `${quoted(source)} means ${quoted(cleanSource(source) || '.')}; nothing above the context can be copied`,
      })
    }
  }
  if (sources.length + instruction.heredocs.length > 1 && !isIntoDirectory && !instruction.keepsParents) {
    throw instruction.fault(`${name} has several sources, so its destination must be a directory`, {
      mark: instruction.destination,
      hint: `write "${instruction.destination}/"`,
    })
  }
}

function checksumOf(
  state: StageState,
  instruction: CopyInstruction,
  urls: number,
  others: number,
): string | undefined {
  if (instruction.checksum === undefined) return undefined
  const checksum = valueIn(state, instruction, instruction.checksum)
  if (!/^sha256:[0-9a-f]{64}$/.test(checksum))
    throw instruction.fault(`${quoted(checksum)} is not a valid checksum`, {
      mark: '--checksum',
      hint: 'it must be sha256: and 64 hexadecimal digits',
    })
  if (urls !== 1 || others > 0)
    throw instruction.fault('--checksum requires exactly one source, which must be a URL', {
      mark: '--checksum',
    })
  return checksum
}

/** The part of the step that is specific to COPY or ADD. */
export function filesStep(state: StageState, instruction: CopyInstruction): Own<CopyStep> | Own<AddStep> {
  const value = (text: string): string => valueIn(state, instruction, text)
  const sources = instruction.sources.map(value)
  const destination = value(instruction.destination) || '.'
  const isIntoDirectory = /(?:^|\/)\.{0,2}$/.test(destination)
  checkSources(state, instruction, sources, isIntoDirectory)
  const [chown, chmodText] = [instruction.chown, instruction.chmod].map((text) =>
    text === undefined ? undefined : value(text) || undefined,
  )
  if (chown !== undefined) checkChown(instruction, chown)
  const chmod = chmodText === undefined ? undefined : parseChmod(chmodText)
  if (chmodText !== undefined && chmod === undefined)
    throw instruction.fault(`${quoted(chmodText)} is not a valid mode`, {
      mark: instruction.chmod,
      hint: 'examples: 0644, u=rwX,go=rX',
    })
  const flags = [
    ...(instruction.keepsParents ? ['--parents'] : []),
    ...(chown === undefined ? [] : [`--chown=${chown}`]),
    ...(chmodText === undefined ? [] : [`--chmod=${chmodText}`]),
  ]
  const from =
    instruction.from === undefined
      ? { kind: 'context' as const }
      : resolveFrom(state.plan.stages, instruction.from, state.index, instruction)
  if (from.kind === 'scratch')
    throw instruction.fault('scratch has no files to copy', { mark: instruction.from })
  const shared = {
    files: filesOf(state, instruction),
    destination: absolute(state.config, destination),
    isIntoDirectory,
    isLinked: instruction.isLinked,
    excludes: instruction.excludes,
    ...defined({ chown, chmod }),
    createdBy: [
      instruction.kind.toUpperCase(),
      ...flags,
      ...sources,
      ...instruction.heredocs.map(({ name }) => `<<${name}`),
      destination,
    ].join(' '),
  }
  if (instruction.kind === 'copy')
    return {
      kind: 'copy',
      ...shared,
      sources: sources.map(cleanSource),
      from,
      keepsParents: instruction.keepsParents,
    }
  const [urls, local] = [sources.filter(isUrl), sources.filter((source) => !isUrl(source))]
  const checksum = checksumOf(state, instruction, urls.length, local.length + instruction.heredocs.length)
  return {
    kind: 'add',
    ...shared,
    sources: local.map(cleanSource),
    urls: urlsOf(instruction, urls, isIntoDirectory),
    ...defined({ checksum }),
    unpacksLocal: instruction.unpack ?? true,
    unpacksRemote: instruction.unpack ?? false,
  }
}

/**
 * SOURCE relative to its root, which ".." cannot leave, without slashes at its ends. "/./", the pivot of COPY
 * --parents, is kept.
 */
function cleanSource(source: string): string {
  const [head, ...tail] = source.split('/./').map((part) => posix.join('/', part).replace(/^\/|\/$/g, ''))
  return tail.length === 0 || head === undefined ? (head ?? '') : [head, posix.join(...tail)].join('/./')
}
