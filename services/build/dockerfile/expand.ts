// Expands variables, quotes and escapes of one argument, as in the Dockerfile reference ("Environment
// replacement") and BuildKit's shell lexer: $x ${x} ${x:-w} ${x-w} ${x:+w} ${x+w} ${x:?e} ${x?e} ${x#p}
// ${x##p} ${x%p} ${x%%p} ${x/p/r} ${x//p/r}. An invalid expression is returned as a `problem`.

import { parsePattern, replace, trimEnd, trimStart } from './shell-pattern.ts'

export interface ExpandOptions {
  /** The value of a variable; undefined if it is not set. */
  readonly lookup: (name: string) => string | undefined
  readonly escape: string
  /**
   * "remove" is for arguments, "keep" leaves quotes in the text, and "plain" treats them as ordinary
   * characters (heredocs).
   */
  readonly quotes?: 'remove' | 'keep' | 'plain'
  readonly keepEscapes?: boolean
  /** Keeps `$name` if there is no such variable, for text that is only displayed. */
  readonly keepUnset?: boolean
  /** Limit for the length of the result; by default VALUE_CHARACTERS_MAX. */
  readonly charactersMax?: number
}

export interface Expanded {
  readonly text: string
  /** The text split at unquoted spaces, including those from variables. */
  readonly words: readonly string[]
  /** Unset variables for which the expression has no default. */
  readonly missing: readonly string[]
  /** Characters compared with patterns, for the caller's limit. */
  readonly work: number
}

/** Limit for a value; the kernel accepts no longer argument or variable (execve(2), MAX_ARG_STRLEN). */
export const VALUE_CHARACTERS_MAX = 128 * 1024
/** Limit of characters compared with patterns in one text: many expressions can search one long value. */
const WORK_MAX = 8 * 1024 * 1024
/** Limit for the nesting of ${a:-${b:-…}}. */
const NESTED_MAX = 50
const MISSING_MAX = 100

class ExpansionProblem extends Error {}

function refuse(problem: string): never {
  throw new ExpansionProblem(problem)
}

/** Collects text and the words in it. */
function createOutput(charactersMax: number) {
  let text = ''
  let word = ''
  const words: string[] = []
  const endWord = (): void => {
    if (word !== '') words.push(word)
    word = ''
  }
  const add = (piece: string): void => {
    text += piece
    if (text.length > charactersMax) refuse(`the result is longer than ${charactersMax} characters`)
  }
  return {
    text: () => text,
    words: () => {
      endWord()
      return words
    },
    /** Protected by quotes or an escape. */
    raw(piece: string) {
      add(piece)
      word += piece
    },
    split(piece: string) {
      add(piece)
      for (const character of piece) {
        if (/\s/.test(character)) endWord()
        else word += character
      }
    },
  }
}

const NAME = /[\p{L}_][\p{L}\p{Nd}_]*|\p{Nd}+|[@*#?\-$!]/uy

/** Reads SOURCE from left to right; created per call of `expand`. */
function createLexer(source: string, options: ExpandOptions) {
  const {
    lookup,
    escape,
    quotes = 'remove',
    keepUnset = false,
    charactersMax = VALUE_CHARACTERS_MAX,
  } = options
  const missing = new Set<string>()
  let at = 0
  let depth = 0
  let work = 0

  function readName(): string {
    NAME.lastIndex = at
    const name = NAME.exec(source)?.[0] ?? ''
    at += name.length
    return name
  }

  function valueOf(name: string): string | undefined {
    const value = lookup(name)
    if (value === undefined && missing.size < MISSING_MAX) missing.add(name)
    return value
  }

  function singleQuoted(): string {
    const end = source.indexOf("'", at + 1)
    if (end < 0) refuse("a ' is not closed")
    const inner = source.slice(at + 1, end)
    at = end + 1
    return quotes === 'keep' ? `'${inner}'` : inner
  }

  function doubleQuoted(keepEscapes: boolean): string {
    let text = ''
    for (at++; source[at] !== '"';) {
      const character = source[at]
      if (character === undefined) refuse('a " is not closed')
      if (text.length > charactersMax) refuse(`the result is longer than ${charactersMax} characters`)
      if (character === '$') {
        text += dollar()
        continue
      }
      at++
      const next = source[at]
      if (character === escape && next === undefined) refuse('a " is not closed')
      if (character === escape && (next === '"' || next === '$' || next === escape)) {
        text += keepEscapes ? character + next : next
        at++
      } else text += character
    }
    at++
    return quotes === 'keep' ? `"${text}"` : text
  }

  /** Reads up to and including STOP, or to the end without one. */
  function until(stop: string | undefined, keepEscapes: boolean): ReturnType<typeof createOutput> {
    const output = createOutput(charactersMax)
    if (++depth > NESTED_MAX) refuse(`variables are nested more than ${NESTED_MAX} deep`)
    for (;;) {
      const character = source[at]
      if (character === stop) break
      if (character === undefined)
        refuse(stop === '/' ? '"/" is missing between pattern and text' : 'the "}" is missing')
      if (character === '$') output.split(dollar())
      else if (character === "'" && quotes !== 'plain') output.raw(singleQuoted())
      else if (character === '"' && quotes !== 'plain') output.raw(doubleQuoted(keepEscapes))
      else if (character === '<' && source[at + 1] === '<') {
        const mark = /<<[\t\r ]*/y
        mark.lastIndex = at
        output.raw(mark.exec(source)![0]) // "<< EOF" is one word: a heredoc's mark
        at = mark.lastIndex
      } else if (character === escape) {
        if (keepEscapes) output.raw(character)
        output.raw(source[at + 1] ?? '')
        at += 2
      } else {
        output.split(character)
        at++
      }
    }
    at++
    depth--
    return output
  }

  /** TEXT as a pattern for VALUE. */
  function patternOf(text: string, value: string): Exclude<ReturnType<typeof parsePattern>, string> {
    work += text.length + value.length
    if (work > WORK_MAX) refuse('its patterns are compared with too much text')
    const pattern = parsePattern(text)
    return typeof pattern === 'string' ? refuse(pattern) : pattern
  }

  /** ${NAME/pattern/text}, after the first "/". */
  function substitute(name: string): string {
    const isEach = source[at] === '/'
    if (isEach) at++
    const pattern = until('/', true).text()
    const replacement = until('}', true).text()
    const value = valueOf(name)
    if (value === undefined && keepUnset) return `\${${name}/${isEach ? '/' : ''}${pattern}/${replacement}}`
    return replace(value ?? '', patternOf(pattern, value ?? ''), replacement, isEach)
  }

  /** ${NAME#pattern}, ${NAME##pattern}, ${NAME%pattern} and ${NAME%%pattern}, after the first sign. */
  function trim(name: string, sign: string): string {
    const isLongest = source[at] === sign
    if (isLongest) at++
    const word = until('}', true).text()
    const value = valueOf(name)
    if (value === undefined && keepUnset) return `\${${name}${sign}${isLongest ? sign : ''}${word}}`
    return (sign === '#' ? trimStart : trimEnd)(value ?? '', patternOf(word, value ?? ''), isLongest)
  }

  /** ${NAME-word}, ${NAME+word} and ${NAME?word}. After ":" an empty value counts as unset. */
  function choose(name: string, sign: string, isEmptyUnset: boolean): string {
    const word = until('}', false).text()
    const value = lookup(name)
    const isSet = value !== undefined && !(isEmptyUnset && value === '')
    if (value === undefined && keepUnset) return `\${${name}${isEmptyUnset ? ':' : ''}${sign}${word}}`
    if (sign === '-') return isSet ? value : word
    if (sign === '+') return isSet ? word : ''
    return isSet ? value : refuse(`${name}: ${word || (value === undefined ? 'is not set' : 'is empty')}`)
  }

  function dollar(): string {
    at++
    if (source[at] !== '{') {
      const name = readName()
      return name === '' ? '$' : (valueOf(name) ?? (keepUnset ? `$${name}` : ''))
    }
    const from = at - 1
    at++
    const name = readName()
    const sign = source[at++]
    if (sign === undefined) refuse('the "}" is missing')
    if (name === '') refuse(`"${source.slice(from, at)}" is not a variable`)
    if (sign === '}') return valueOf(name) ?? (keepUnset ? `\${${name}}` : '')
    if (sign === '/') return substitute(name)
    if (sign === '#' || sign === '%') return trim(name, sign)
    const isEmptyUnset = sign === ':'
    const kind = isEmptyUnset ? source[at++] : sign
    if (kind === '-' || kind === '+' || kind === '?') return choose(name, kind, isEmptyUnset)
    return refuse(
      `"${source.slice(from, at)}" is not a supported expansion; those are :- - :+ + :? ? # ## % %% / //`,
    )
  }

  return { until, missing, work: () => work }
}

/** SOURCE with its variables, quotes and escapes resolved, or the problem with it. */
export function expand(source: string, options: ExpandOptions): Expanded | { readonly problem: string } {
  const lexer = createLexer(source, options)
  try {
    const output = lexer.until(undefined, options.keepEscapes ?? false)
    return { text: output.text(), words: output.words(), missing: [...lexer.missing], work: lexer.work() }
  } catch (err) {
    if (err instanceof ExpansionProblem) return { problem: err.message }
    throw err
  }
}
