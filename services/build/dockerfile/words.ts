// Splits one logical line into keyword, flags and arguments, and the arguments into words, names and values,
// or a JSON array. Words keep their quotes and escapes, which expand.ts removes later, when variables have
// values.

export interface InstructionParts {
  /** Unchanged. */
  readonly keyword: string
  /** "--from=build", without quotes; "--" alone ends them. */
  readonly flags: readonly string[]
  readonly rest: string
}

export interface Pair {
  readonly name: string
  readonly value: string
}

const SPACES = /[\t\v\f\r ]+/

const isSpace = (character: string): boolean => /\s/.test(character)

/** The flag at AT of LINE without quotes and escapes, and its end. */
function readFlag(line: string, from: number, escape: string): { word: string; end: number } {
  let word = ''
  let quote = ''
  let at = from
  for (; at < line.length; at++) {
    const character = line[at]!
    if (quote === '' && isSpace(character)) break
    if (quote === '' && (character === '"' || character === "'")) quote = character
    else if (character === quote) quote = ''
    else if (character === escape) word += line[++at] ?? ''
    else word += character
  }
  return { word, end: at }
}

/** TEXT as keyword, flags and the rest. */
export function splitInstruction(text: string, escape: string): InstructionParts {
  const line = text.trim()
  const space = SPACES.exec(line)
  if (space === null) return { keyword: line, flags: [], rest: '' }
  const keyword = line.slice(0, space.index)
  const flags: string[] = []
  let at = space.index + space[0].length
  while (line.startsWith('--', at)) {
    const { word, end } = readFlag(line, at, escape)
    at = end
    while (at < line.length && isSpace(line[at]!)) at++
    if (word === '--') break
    flags.push(word)
  }
  return { keyword, flags, rest: line.slice(at).trim() }
}

/** TEXT split at spaces, ignoring quotes and escapes. */
export function splitFields(text: string): string[] {
  return text === '' ? [] : text.split(SPACES)
}

/** TEXT split at spaces that neither quotes nor the escape character protect; both stay in the words. */
export function splitWords(text: string, escape: string): string[] {
  const words: string[] = []
  let word = ''
  let quote = ''
  for (let at = 0; at < text.length; at++) {
    const character = text[at]!
    if (quote === '' && isSpace(character)) {
      if (word !== '') words.push(word)
      word = ''
      continue
    }
    if (character === escape && quote !== "'") {
      // At the end of the line it escapes nothing and is dropped.
      if (at + 1 < text.length) word += character + text[++at]!
      continue
    }
    if (quote === '' && (character === '"' || character === "'")) quote = character
    else if (character === quote) quote = ''
    word += character
  }
  if (word !== '') words.push(word)
  return words
}

/** A name alone has no value (ARG's form). */
export function splitPair(word: string): { name: string; value: string | undefined } {
  const equals = word.indexOf('=')
  return equals < 0
    ? { name: word, value: undefined }
    : { name: word.slice(0, equals), value: word.slice(equals + 1) }
}

/**
 * ENV's and LABEL's arguments: `name=value …`, or the old form `name the rest` if the first word has no "=".
 * A returned string is the problem.
 */
export function parsePairs(text: string, escape: string): { pairs: Pair[]; isOldForm: boolean } | string {
  const words = splitWords(text, escape)
  if (!(words[0] ?? '').includes('=')) {
    const space = SPACES.exec(text)
    if (space === null) return `"${text}" must be name=value`
    return {
      pairs: [{ name: text.slice(0, space.index), value: text.slice(space.index + space[0].length) }],
      isOldForm: true,
    }
  }
  const pairs: Pair[] = []
  for (const word of words) {
    const { name, value } = splitPair(word)
    if (value === undefined) return `"${word}" must be name=value; quote a value that contains spaces`
    pairs.push({ name, value })
  }
  return { pairs, isOldForm: false }
}

/** TEXT as an array of strings, "notStrings" for another array, undefined if it is not a JSON array. */
export function parseJsonArray(text: string): string[] | 'notStrings' | undefined {
  if (!text.trimStart().startsWith('[')) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined // a shell's "[ -f x ] && …"
  }
  if (!Array.isArray(value)) return undefined
  return value.every((item) => typeof item === 'string') ? value : 'notStrings'
}

/** Whether TEXT, which is not JSON, probably should be: ['a'] has the wrong quotes, and ["a",] a comma. */
export function looksLikeJson(text: string): boolean {
  return /^\[\s*'/.test(text) || /^\[\s*".*\]\s*$/.test(text)
}

/**
 * One line of CSV, as in `--mount`: a field with commas is in double quotes, in which "" is one quote.
 * Undefined if a quote is not closed.
 */
export function splitCommas(text: string): string[] | undefined {
  const fields: string[] = []
  let at = 0
  do {
    if (text[at] !== '"') {
      const comma = text.indexOf(',', at)
      const end = comma < 0 ? text.length : comma
      fields.push(text.slice(at, end))
      at = end
    } else {
      const match = /"((?:[^"]|"")*)"(?=,|$)/y
      match.lastIndex = at
      const found = match.exec(text)
      if (found === null) return undefined
      fields.push(found[1]!.replaceAll('""', '"'))
      at = match.lastIndex
    }
  } while (text[at++] === ',')
  return fields
}
