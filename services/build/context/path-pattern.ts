// Path patterns: Go's filepath.Match ("*" and "?" stop at "/", sets like "[a-z]" and "[^a]" do not, "\*" is a
// star), and "**" as in .dockerignore. A pattern is a list of steps that are tracked simultaneously, so even
// a hostile one costs no more than its length times the path's.

/**
 * "one" matches one character, "loop" any number of them, "parts" any number of whole path components with
 * their "/".
 */
interface PatternStep {
  readonly kind: 'one' | 'loop' | 'parts'
  readonly takes: (character: string) => boolean
  /** The only character that it matches. */
  readonly literal?: string
}

export interface PathPattern {
  readonly text: string
  /** No character has a special meaning. */
  readonly isLiteral: boolean
  /** The literal start of every match. */
  readonly prefix: string
  matches(path: string): boolean
}

/** Longer patterns are rejected: no path is longer (PATH_MAX). */
export const PATTERN_CHARACTERS_MAX = 4096

const inPart = (character: string): boolean => character !== '/'
const anything = (): boolean => true

/** The set ("[a-z]") at AT of CHARACTERS, and its end; undefined if it is empty or not closed. */
function readSet(
  characters: readonly string[],
  from: number,
): { takes: (character: string) => boolean; end: number } | undefined {
  let at = from + 1
  const isNegated = characters[at] === '^'
  if (isNegated) at++
  const ranges: Array<readonly [string, string]> = []
  const readOne = (): string | undefined => {
    const character = characters[at]
    if (character === undefined || character === '-' || character === ']') return undefined
    at += character === '\\' ? 2 : 1
    return character === '\\' ? characters[at - 1] : character
  }
  while (characters[at] !== ']' || ranges.length === 0) {
    const low = readOne()
    if (low === undefined) return undefined
    let high: string | undefined = low
    if (characters[at] === '-') {
      at++
      high = readOne()
    }
    if (high === undefined) return undefined
    ranges.push([low.codePointAt(0)! <= high.codePointAt(0)! ? low : '', high])
  }
  const isIn = (character: string): boolean =>
    ranges.some(
      ([low, high]) =>
        low !== '' &&
        character.codePointAt(0)! >= low.codePointAt(0)! &&
        character.codePointAt(0)! <= high.codePointAt(0)!,
    )
  return { takes: (character) => isIn(character) !== isNegated, end: at + 1 }
}

/**
 * "**" matches everything at the end of the pattern, any text before a literal ("**.log"), and otherwise
 * whole components.
 */
function deepStep(characters: readonly string[], afterStars: number): { step: PatternStep; end: number } {
  const hasSlash = characters[afterStars] === '/'
  const end = hasSlash ? afterStars + 1 : afterStars
  const isSuffix =
    afterStars === 2 && !hasSlash && !characters.slice(end).some((character) => '*?[]\\'.includes(character))
  return { step: { kind: end === characters.length || isSuffix ? 'loop' : 'parts', takes: anything }, end }
}

function compile(text: string, hasDeep: boolean): PatternStep[] | undefined {
  const characters = [...text]
  const steps: PatternStep[] = []
  for (let at = 0; at < characters.length;) {
    const character = characters[at]!
    if (character === '*' && hasDeep && characters[at + 1] === '*') {
      const deep = deepStep(characters, at + 2)
      steps.push(deep.step)
      at = deep.end
    } else if (character === '[') {
      const set = readSet(characters, at)
      if (set === undefined) return undefined
      steps.push({ kind: 'one', takes: set.takes })
      at = set.end
    } else if (character === '*' || character === '?') {
      steps.push({ kind: character === '*' ? 'loop' : 'one', takes: inPart })
      at++
    } else {
      const literal = character === '\\' ? characters[++at] : character
      if (literal === undefined) return undefined
      steps.push({ kind: 'one', takes: (other) => other === literal, literal })
      at++
    }
  }
  return steps
}

/** State of a step before the next character. */
const [INSIDE, ENTERED] = [1, 2]

/** Step FROM can be next, and so can the following steps if those before them may be empty. */
function enter(steps: readonly PatternStep[], states: Uint8Array, from: number): void {
  for (let at = from; states[at] !== ENTERED; at++) {
    states[at] = ENTERED
    if (at === steps.length || steps[at]!.kind === 'one') return
  }
}

function isMatch(steps: readonly PatternStep[], path: string): boolean {
  let states = new Uint8Array(steps.length + 1)
  enter(steps, states, 0)
  for (const character of path) {
    const next = new Uint8Array(steps.length + 1)
    let isAlive = false
    for (const [at, step] of steps.entries()) {
      if (states[at] === 0 || !step.takes(character)) continue
      isAlive = true
      if (step.kind === 'one') enter(steps, next, at + 1)
      else if (step.kind === 'loop') enter(steps, next, at)
      else {
        if (next[at] === 0) next[at] = INSIDE
        if (character === '/') enter(steps, next, at + 1)
      }
    }
    if (!isAlive) return false
    states = next
  }
  return states[steps.length] === ENTERED
}

/**
 * TEXT as a pattern, or undefined if it is invalid ("[a", "a\"). With HASDEEP, "**" crosses "/", as in
 * .dockerignore and COPY --parents; otherwise it is two stars.
 */
export function parsePathPattern(text: string, hasDeep: boolean): PathPattern | undefined {
  const steps = text.length > PATTERN_CHARACTERS_MAX ? undefined : compile(text, hasDeep)
  if (steps === undefined) return undefined
  const [prefix = ''] = /^[^*?[\\]*/.exec(text) ?? []
  const isLiteral = prefix.length === text.length
  // Most paths fail here: "**/*.log" ends in ".log".
  const suffix = steps
    .slice(steps.findLastIndex(({ literal }) => literal === undefined) + 1)
    .map(({ literal }) => literal)
    .join('')
  return {
    text,
    isLiteral,
    prefix,
    matches: (path) =>
      isLiteral ? path === text : path.startsWith(prefix) && path.endsWith(suffix) && isMatch(steps, path),
  }
}
