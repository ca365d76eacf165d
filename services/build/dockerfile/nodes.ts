// The generic half of the syntax tree: one node per instruction, with its flags, the text of its arguments
// and its heredocs. Checks only keywords and flags.

import { didYouMean, dockerfileFault, quoted, type FaultFacts, type Place } from './build-failure.ts'
import { findHeredocs, HEREDOCS_MAX, type Heredoc, type HeredocMark } from './heredoc.ts'
import type { LineReader, LogicalLine } from './lines.ts'
import { parseJsonArray, splitInstruction } from './words.ts'

/** "text" has one value, "switch" is true or false, "list" may be repeated. */
type FlagKind = 'text' | 'switch' | 'list'

const COPY_FLAGS: Readonly<Record<string, FlagKind>> = {
  chown: 'text',
  chmod: 'text',
  link: 'switch',
  exclude: 'list',
}

/** Every instruction, and its flags (Dockerfile reference, "Overview"). */
const INSTRUCTIONS = {
  FROM: { platform: 'text' },
  RUN: { mount: 'list', network: 'text', security: 'text' },
  COPY: { ...COPY_FLAGS, from: 'text', parents: 'switch' },
  ADD: { ...COPY_FLAGS, 'keep-git-dir': 'switch', checksum: 'text', unpack: 'switch' },
  HEALTHCHECK: {
    interval: 'text',
    timeout: 'text',
    'start-period': 'text',
    'start-interval': 'text',
    retries: 'text',
  },
  ARG: {},
  CMD: {},
  ENTRYPOINT: {},
  ENV: {},
  EXPOSE: {},
  LABEL: {},
  MAINTAINER: {},
  ONBUILD: {},
  SHELL: {},
  STOPSIGNAL: {},
  USER: {},
  VOLUME: {},
  WORKDIR: {},
} satisfies Record<string, Readonly<Record<string, FlagKind>>>

export type Keyword = keyof typeof INSTRUCTIONS

export interface Flags {
  text(name: string): string | undefined
  isOn(name: string): boolean | undefined
  list(name: string): readonly string[]
}

export interface Node extends Place {
  readonly keyword: Keyword
  /** Unchanged, for style warnings. */
  readonly written: string
  readonly flags: Flags
  readonly rest: string
  readonly heredocs: readonly Heredoc[]
  /** The whole logical line. */
  readonly text: string
  readonly escape: string
  /** Creates a fault at this instruction. */
  fault(problem: string, facts?: FaultFacts): Error
}

/** Words of other tools for instructions. */
const FOREIGN: Readonly<Record<string, string>> = {
  IMPORT: 'FROM',
  EXEC: 'RUN',
  EXECUTE: 'RUN',
  CP: 'COPY',
  WORKINGDIR: 'WORKDIR',
  CD: 'WORKDIR',
  EXPORT: 'ENV',
  PORT: 'EXPOSE',
  COMMAND: 'CMD',
  'APT-GET': 'RUN',
  APT: 'RUN',
  PIP: 'RUN',
  NPM: 'RUN',
  MKDIR: 'RUN',
}

function keywordOf(place: Place, written: string): Keyword {
  const name = written.toUpperCase()
  if (Object.hasOwn(INSTRUCTIONS, name)) return name as Keyword
  const foreign = Object.hasOwn(FOREIGN, name) ? `did you mean ${FOREIGN[name]}?` : undefined
  throw dockerfileFault(place, `there is no instruction ${quoted(written)}`, {
    mark: written,
    hint:
      foreign ?? didYouMean(name, Object.keys(INSTRUCTIONS)) ?? 'to continue the line above, end it with \\',
  })
}

function readFlags(place: Place, keyword: Keyword, written: readonly string[]): Flags {
  const known: Readonly<Record<string, FlagKind>> = INSTRUCTIONS[keyword]
  const values = new Map<string, string[]>()
  for (const flag of written) {
    const equals = flag.indexOf('=')
    const name = (equals < 0 ? flag : flag.slice(0, equals)).slice(2)
    const value = equals < 0 ? undefined : flag.slice(equals + 1)
    const refuse = (problem: string, hint?: string): never => {
      throw dockerfileFault(place, problem, { mark: `--${name}`, hint })
    }
    const kind = Object.hasOwn(known, name) ? known[name] : undefined
    if (kind === undefined) {
      const names = Object.keys(known).map((other) => `--${other}`)
      return refuse(
        `${keyword} has no flag ${quoted(`--${name}`)}`,
        didYouMean(`--${name}`, names) ??
          (names.length === 0 ? 'it has no flags at all' : `it has ${names.join(' ')}`),
      )
    }
    const before = values.get(name)
    if (before !== undefined && kind !== 'list') refuse(`--${name} is repeated`)
    if (kind === 'switch' ? value === '' : value === undefined)
      refuse(`--${name} has no value`, `write --${name}=…`)
    if (kind === 'switch' && !['true', 'false'].includes((value ?? 'true').toLowerCase()))
      refuse(`--${name} must be true or false, not ${quoted(value!)}`)
    values.set(name, [...(before ?? []), value ?? 'true'])
  }
  return {
    text: (name) => values.get(name)?.[0],
    isOn: (name) => values.get(name)?.[0]?.toLowerCase() === 'true' || (values.has(name) ? false : undefined),
    list: (name) => values.get(name) ?? [],
  }
}

/** The heredocs that LINE opens.  ONBUILD has those of its inner instruction; a JSON form has none. */
function heredocMarks(keyword: Keyword, rest: string, line: string, escape: string): HeredocMark[] {
  if (keyword === 'ONBUILD') {
    const inner = splitInstruction(rest, escape)
    const name = inner.keyword.toUpperCase()
    return name === 'RUN' || name === 'COPY' || name === 'ADD'
      ? heredocMarks(name, inner.rest, line, escape)
      : []
  }
  if (keyword !== 'RUN' && keyword !== 'COPY' && keyword !== 'ADD') return []
  return Array.isArray(parseJsonArray(rest)) ? [] : findHeredocs(line)
}

/** LINE as a node; the bodies of its heredocs are GIVEN, or read from READER. */
export function parseNode(
  reader: LineReader,
  line: LogicalLine,
  given?: { readonly place: Place; readonly heredocs: readonly Heredoc[] },
): Node {
  const { escape } = reader.directives
  const parts = splitInstruction(line.text, escape)
  const opening = given?.place ?? { source: reader.source, location: line.location }
  const keyword = keywordOf(opening, parts.keyword)
  const marks = given === undefined ? heredocMarks(keyword, parts.rest, line.text, escape) : []
  if (marks.length > HEREDOCS_MAX)
    throw dockerfileFault(
      opening,
      `there are ${marks.length} heredocs in one instruction; the limit is ${HEREDOCS_MAX}`,
    )
  const heredocs =
    given?.heredocs ??
    marks.map((mark) => ({ ...mark, content: reader.takeHeredoc(mark.name, mark.stripTabs, line) }))
  const place = given?.place ?? {
    source: reader.source,
    location: { line: line.location.line, endLine: reader.line },
  }
  return {
    ...place,
    keyword,
    written: parts.keyword,
    flags: readFlags(place, keyword, parts.flags),
    rest: parts.rest,
    heredocs,
    text: line.text.trim(),
    escape,
    fault: (problem, facts) => dockerfileFault(place, problem, facts),
  }
}
