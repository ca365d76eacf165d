// From the bytes of a Dockerfile to its logical lines: parser directives, comments and continuation, as in
// BuildKit (Dockerfile reference, "Format" and "Parser directives"). A heredoc's body is read unchanged once
// the caller has found its mark.

import { defined } from '../../contract/defined.ts'
import { InvalidRequest } from '../../contract/errors.ts'
import {
  dockerfileFault,
  quoted,
  type BuildWarning,
  type Location,
  type SourceFile,
} from './build-failure.ts'

export interface LogicalLine {
  readonly text: string
  readonly location: Location
}

export interface Directives {
  readonly escape: '\\' | '`'
  /** Name of a frontend; it is not loaded. */
  readonly syntax?: string
  /** "all", or the rules to skip. */
  readonly skippedRules: 'all' | readonly string[]
  /** `check=error=true`: a warning fails the build. */
  readonly warningsAreErrors: boolean
}

export interface LineReader {
  readonly source: SourceFile
  readonly directives: Directives
  readonly warnings: readonly BuildWarning[]
  /** The line of the next instruction with its continuation lines; undefined at the end. */
  next(): LogicalLine | undefined
  /** The unchanged lines up to TERMINATOR alone on a line (after tabs, if STRIPTABS), which is consumed. */
  takeHeredoc(terminator: string, stripTabs: boolean, opener: LogicalLine): string
  /** Number of the last line that was read, from 1. */
  readonly line: number
}

export const DOCKERFILE_BYTES_MAX = 1024 * 1024
export const LINES_MAX = 50_000
export const LINE_CHARACTERS_MAX = 64 * 1024
export const HEREDOC_BYTES_MAX = 512 * 1024

const DIRECTIVE = /^#\s*([a-z][a-z0-9]*)\s*=\s*(\S.*?)\s*$/i
const CONTINUATION = { '\\': /(^|[^\\])\\[ \t]*$/, '`': /(^|[^`])`[ \t]*$/ }

const isComment = (line: string): boolean => /^\s*#/.test(line)

function refuseFile(name: string, problem: string): never {
  throw new InvalidRequest([{ path: name, problem }], 'ERR_INVALID_DOCKERFILE')
}

/** The text of BYTES.  Rejects too large files, and files that a Windows editor saved as UTF-16. */
function decode(name: string, content: string | Uint8Array): string {
  const sizeBytes = typeof content === 'string' ? Buffer.byteLength(content) : content.length
  if (sizeBytes > DOCKERFILE_BYTES_MAX)
    refuseFile(name, `is ${sizeBytes} bytes long; the limit of a Dockerfile is ${DOCKERFILE_BYTES_MAX}`)
  if (typeof content === 'string') return content.replace(/^\uFEFF/, '')
  const [first, second] = content
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff))
    refuseFile(name, 'is UTF-16; save it as UTF-8')
  return new TextDecoder().decode(content)
}

function checkDirective(value: string): Pick<Directives, 'skippedRules' | 'warningsAreErrors'> {
  const options = new Map(
    value.split(';').map((option) => {
      const [key = '', text = ''] = option.split('=', 2)
      return [key.trim().toLowerCase(), text.trim()] as const
    }),
  )
  const skip = options.get('skip') ?? ''
  return {
    skippedRules:
      skip === 'all'
        ? 'all'
        : skip
            .split(',')
            .map((rule) => rule.trim())
            .filter((rule) => rule !== ''),
    warningsAreErrors: options.get('error') === 'true',
  }
}

/** The directives at the top: they end at the first other line, including an ordinary comment. */
function readDirectives(source: SourceFile): Directives {
  const found = new Map<string, string>()
  for (const [i, line] of source.lines.entries()) {
    const match = DIRECTIVE.exec(line.trim())
    const key = match?.[1]!.toLowerCase()
    if (match === null || key === undefined || !['syntax', 'escape', 'check'].includes(key)) break
    const location = { line: i + 1, endLine: i + 1 }
    if (found.has(key))
      throw dockerfileFault({ source, location }, `the directive "${key}" is repeated`, { mark: key })
    if (key === 'escape' && match[2] !== '\\' && match[2] !== '`') {
      throw dockerfileFault(
        { source, location },
        `the escape character must be \\ or \`, not ${quoted(match[2]!)}`,
        { mark: match[2]! },
      )
    }
    found.set(key, match[2]!)
  }
  const syntax = found.get('syntax')
  return {
    escape: found.get('escape') === '`' ? '`' : '\\',
    ...defined({ syntax }),
    ...checkDirective(found.get('check') ?? ''),
  }
}

/** Rejects the instruction at LOCATION if it is not text. */
function checkText(source: SourceFile, location: Location, text: string): void {
  if (text.includes('\0'))
    throw dockerfileFault({ source, location }, 'this line contains a NUL byte', {
      hint: 'is this a Dockerfile?',
    })
  if (text.includes('\uFFFD'))
    throw dockerfileFault({ source, location }, 'this line is not UTF-8', {
      mark: '\uFFFD',
      hint: 'save the file as UTF-8',
    })
}

/**
 * A reader of the lines of CONTENT, whose name in messages is NAME. Throws InvalidRequest
 * ERR_INVALID_DOCKERFILE, here and in `next`.
 */
export function createLineReader(name: string, content: string | Uint8Array): LineReader {
  const raw = decode(name, content).split(/(?<=\n)/)
  if (raw.length > LINES_MAX)
    refuseFile(name, `has ${raw.length} lines; the limit of a Dockerfile is ${LINES_MAX}`)
  const source: SourceFile = { name, lines: raw.map((line) => line.replace(/[\r\n]+$/, '')) }
  const tooLong = source.lines.findIndex((line) => line.length > LINE_CHARACTERS_MAX)
  if (tooLong >= 0)
    refuseFile(
      `${name}:${tooLong + 1}`,
      `the line has ${source.lines[tooLong]!.length} characters; the limit is ${LINE_CHARACTERS_MAX}`,
    )
  const directives = readDirectives(source)
  const continuation = CONTINUATION[directives.escape]
  const warnings: BuildWarning[] = []
  let at = 0

  /** The next line of a continued instruction, skipping comments and empty lines in between. */
  function nextContinued(warn: (line: number) => void): string {
    while (at < raw.length) {
      const line = source.lines[at++]!
      if (line.trim() === '') warn(at)
      else if (!isComment(line)) return line
    }
    return ''
  }

  function joinLines(first: string): string {
    const parts: string[] = []
    let emptyLine: number | undefined
    let line = first
    while (continuation.test(line)) {
      parts.push(line.replace(continuation, '$1'))
      line = nextContinued((empty) => {
        emptyLine ??= empty
      })
    }
    if (emptyLine !== undefined) {
      warnings.push({
        source,
        location: { line: emptyLine, endLine: emptyLine },
        rule: 'NoEmptyContinuation',
        text: 'an empty line inside a continued instruction is ignored',
      })
    }
    return [...parts, line].join('')
  }

  return {
    source,
    directives,
    warnings,
    get line() {
      return at
    },
    next() {
      while (at < raw.length) {
        const line = at + 1
        const first = source.lines[at++]!.trimStart()
        if (first === '' || isComment(first)) continue
        const text = joinLines(first)
        if (text.trim() === '') continue
        const location = { line, endLine: at }
        checkText(source, location, text)
        return { text, location }
      }
      return undefined
    },
    takeHeredoc(terminator, stripTabs, opener) {
      const from = at
      for (; at < raw.length; at++) {
        const line = source.lines[at]!
        if ((stripTabs ? line.replace(/^\t+/, '') : line) !== terminator) continue
        const content = raw.slice(from, at++).join('')
        const place = { source, location: { line: opener.location.line, endLine: at } }
        if (Buffer.byteLength(content) > HEREDOC_BYTES_MAX)
          throw dockerfileFault(
            place,
            `the heredoc ${quoted(terminator)} is longer than ${HEREDOC_BYTES_MAX} bytes`,
            { hint: 'put it in a file of the context' },
          )
        checkText(source, place.location, content)
        return content
      }
      const place = { source, location: opener.location }
      throw dockerfileFault(place, `the heredoc ${quoted(terminator)} has no end`, {
        mark: terminator,
        hint: `end it with ${quoted(terminator)} alone on a line, or quote "<<" if it is not a heredoc`,
      })
    },
  }
}
