// How an error in a Dockerfile is shown: file and line, the problem, a suggestion, and the lines around with
// carets under the word. Everything shown is truncated and cleaned first, because a Dockerfile is untrusted.

import { InvalidRequest } from '../../contract/errors.ts'
import { widthOf } from '../../platform/text-width.ts'

/** A source text by lines, and its name for messages ("Dockerfile", "ONBUILD of node:22"). */
export interface SourceFile {
  readonly name: string
  readonly lines: readonly string[]
}

/** Lines count from 1, both inclusive. */
export interface Location {
  readonly line: number
  readonly endLine: number
}

/** A place in a source text. */
export interface Place {
  readonly source: SourceFile
  readonly location: Location
}

export interface FaultFacts {
  /** The wrong word, which gets the carets. */
  readonly mark?: string | undefined
  /** What to do, or a suggestion, without a full stop. */
  readonly hint?: string | undefined
}

/** Something that works but is probably a mistake; RULE is Docker's name for it, if there is one. */
export interface BuildWarning extends Place {
  readonly rule: string
  readonly text: string
}

/** Lines shown before and after the place. */
const CONTEXT_LINES = 2
/** Limit of lines shown of a long instruction. */
const SHOWN_LINES_MAX = 12
const SHOWN_CHARACTERS_MAX = 160
const QUOTED_CHARACTERS_MAX = 80

/**
 * One untrusted line for a terminal: without control characters, truncated, and with spaces for tabs so that
 * carets line up.
 */
function shownLine(line: string): string {
  const clean = line.replaceAll('\t', ' ').replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '?')
  return clean.length > SHOWN_CHARACTERS_MAX ? `${clean.slice(0, SHOWN_CHARACTERS_MAX)}…` : clean
}

/** TEXT in quotes for a message, truncated and cleaned. */
export function quoted(text: string): string {
  const clean = text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '?')
  return `"${clean.length > QUOTED_CHARACTERS_MAX ? `${clean.slice(0, QUOTED_CHARACTERS_MAX)}…` : clean}"`
}

/** Carets under the first MARK in LINE, or nothing. */
function caretsOf(line: string, mark: string): string | undefined {
  const shown = shownLine(line)
  const at = mark === '' ? -1 : shown.indexOf(shownLine(mark))
  return at < 0
    ? undefined
    : `${' '.repeat(widthOf(shown.slice(0, at)))}${'^'.repeat(widthOf(shownLine(mark)))}`
}

/** The numbered lines of PLACE and some around it, with ">" at the place and carets under MARK. */
export function excerpt({ source, location }: Place, mark = ''): string {
  const from = Math.max(1, location.line - CONTEXT_LINES)
  const last = Math.min(location.endLine, location.line + SHOWN_LINES_MAX - 1)
  const to = Math.min(source.lines.length, last + CONTEXT_LINES)
  const width = Math.max(4, String(to).length)
  const shown: string[] = []
  let isMarked = false
  for (let number = from; number <= to; number++) {
    const line = source.lines[number - 1] ?? ''
    const isPlace = number >= location.line && number <= last
    shown.push(`${isPlace ? '>' : ' '} ${String(number).padStart(width)} | ${shownLine(line)}`.trimEnd())
    const carets: string | undefined = isPlace && !isMarked ? caretsOf(line, mark) : undefined
    if (carets !== undefined) shown.push(`  ${' '.repeat(width)} | ${carets}`)
    if (carets !== undefined) isMarked = true
    if (number === last && last < location.endLine) shown.push(`> ${' '.repeat(width)} | …`)
  }
  return shown.join('\n')
}

/** The fault at PLACE as an InvalidRequest ERR_INVALID_DOCKERFILE: `path` is "Dockerfile:3". */
export function dockerfileFault(
  place: Place,
  problem: string,
  { mark, hint }: FaultFacts = {},
): InvalidRequest {
  const { source, location } = place
  return new InvalidRequest(
    [
      {
        path: `${source.name}:${location.line}`,
        problem: hint === undefined ? problem : `${problem}; ${hint}`,
        excerpt: excerpt(place, mark),
      },
    ],
    'ERR_INVALID_DOCKERFILE',
  )
}

/** A warning as one line: "Dockerfile:3: text (Rule)". */
export function formatWarning({ source, location, rule, text }: BuildWarning): string {
  return `${source.name}:${location.line}: ${text} (${rule})`
}

/** The Damerau-Levenshtein distance of A and B: changes, insertions, deletions and swaps of letters. */
function distance(a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, i) => i)]
  for (let i = 1; i <= a.length; i++) {
    const above = rows[i - 1]!
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const steps = Math.min(above[j]! + 1, row[j - 1]! + 1, above[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      row.push(isSwap ? Math.min(steps, rows[i - 2]![j - 2]! + 1) : steps)
    }
    rows.push(row)
  }
  return rows[a.length]![b.length]!
}

const COMPARED_CHARACTERS_MAX = 64
const COMPARED_WORDS_MAX = 1000

/** The one of KNOWN that WORD probably misspells: at most a third of its letters differ. */
export function closest(word: string, known: Iterable<string>): string | undefined {
  if (word === '' || word.length > COMPARED_CHARACTERS_MAX) return undefined
  let best: { name: string; steps: number } | undefined
  let left = COMPARED_WORDS_MAX
  for (const name of known) {
    if (left-- === 0) break
    if (Math.abs(name.length - word.length) > 3 || name === word) continue
    const steps = distance(word.toLowerCase(), name.toLowerCase())
    if (steps <= Math.max(1, Math.floor(word.length / 3)) && steps < (best?.steps ?? Infinity))
      best = { name, steps }
  }
  return best?.name
}

/** "did you mean X?" for a hint, or nothing. */
export function didYouMean(word: string, known: Iterable<string>): string | undefined {
  const name = closest(word, known)
  return name === undefined ? undefined : `did you mean ${name}?`
}
