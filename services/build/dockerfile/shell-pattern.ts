// The patterns of ${name#pattern}, ${name%pattern} and ${name/pattern/text}: only "*", "?" and escapes
// (Dockerfile reference, "Environment replacement"). A pattern is the pieces between its stars, each searched
// from left to right without backtracking, so a hostile pattern costs no more than its length times the
// value's.

export type Pattern = readonly Piece[]

/** The piece between two stars: characters, or undefined for "?". */
type Piece = ReadonlyArray<string | undefined>

export const PATTERN_CHARACTERS_MAX = 1024

/** TEXT as a pattern, or the problem with it. "\*", "\?", "\\", "\}" and "\/" are literal. */
export function parsePattern(text: string): Pattern | string {
  if (text.length > PATTERN_CHARACTERS_MAX)
    return `the pattern is longer than ${PATTERN_CHARACTERS_MAX} characters`
  const pieces: Array<Array<string | undefined>> = [[]]
  const characters = [...text]
  for (let at = 0; at < characters.length; at++) {
    const character = characters[at]!
    const piece = pieces.at(-1)!
    if (character === '*') pieces.push([])
    else if (character === '?') piece.push(undefined)
    else if (character !== '\\') piece.push(character)
    else {
      const escaped = characters[++at]
      if (escaped === undefined || !'*?\\}/'.includes(escaped))
        return `"\\${escaped ?? ''}" is not a valid escape in a pattern`
      piece.push(escaped)
    }
  }
  return pieces
}

function isAt(value: readonly string[], piece: Piece, at: number): boolean {
  return (
    at + piece.length <= value.length &&
    piece.every((character, i) => character === undefined || character === value[at + i])
  )
}

function find(value: readonly string[], piece: Piece, from: number): number {
  for (let at = from; at + piece.length <= value.length; at++) if (isAt(value, piece, at)) return at
  return -1
}

function findLast(value: readonly string[], piece: Piece, from: number): number {
  for (let at = value.length - piece.length; at >= from; at--) if (isAt(value, piece, at)) return at
  return -1
}

/** The end of the shortest or longest match that starts at FROM; -1 if there is none. */
function matchEnd(value: readonly string[], pattern: Pattern, from: number, isLongest: boolean): number {
  const [first = [], ...others] = pattern
  if (!isAt(value, first, from)) return -1
  let end = from + first.length
  for (const [i, piece] of others.entries()) {
    const at = isLongest && i === others.length - 1 ? findLast(value, piece, end) : find(value, piece, end)
    if (at < 0) return -1
    end = at + piece.length
  }
  return end
}

/** VALUE without the match of PATTERN at its start. */
export function trimStart(value: string, pattern: Pattern, isLongest: boolean): string {
  const characters = [...value]
  const end = matchEnd(characters, pattern, 0, isLongest)
  return end < 0 ? value : characters.slice(end).join('')
}

/** VALUE without the match of PATTERN at its end. */
export function trimEnd(value: string, pattern: Pattern, isLongest: boolean): string {
  const backwards = pattern.map((piece) => piece.toReversed()).toReversed()
  const characters = [...value].reverse()
  const end = matchEnd(characters, backwards, 0, isLongest)
  return end < 0 ? value : characters.slice(end).reverse().join('')
}

/** VALUE with the first (or each) longest match of PATTERN replaced. */
export function replace(value: string, pattern: Pattern, replacement: string, isEach: boolean): string {
  const characters = [...value]
  const [first = [], ...others] = pattern
  const out: string[] = []
  let at = 0
  for (;;) {
    const start = find(characters, first, at)
    const end = start < 0 ? -1 : matchEnd(characters, pattern, start, true)
    // If the pieces after a star are not found from here, they are not found from any later place.
    if (end < 0) break
    out.push(...characters.slice(at, start), replacement)
    at = end
    if (end === start) {
      if (at === characters.length) break
      out.push(characters[at++]!)
    } else if (others.length > 0 && at === characters.length) break
    if (!isEach) break
  }
  return out.join('') + characters.slice(at).join('')
}
