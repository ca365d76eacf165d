// --chmod of COPY and ADD: octal, or symbolic as in chmod(1) ("u=rwX,go=rX", "+x", "g=u"). The umask does not
// apply: "+x" means all users.

export type Chmod =
  | { readonly kind: 'octal'; readonly mode: number }
  | { readonly kind: 'symbolic'; readonly changes: readonly Change[] }

interface Change {
  /** Of "ugo". */
  readonly who: string
  readonly operator: '+' | '-' | '='
  /** Of "rwxXst", or one of "ugo" to copy from. */
  readonly what: string
}

const CHANGES_MAX = 32
const SHIFT: Readonly<Record<string, number>> = { u: 6, g: 3, o: 0 }
const SPECIAL: Readonly<Record<string, number>> = { u: 0o4000, g: 0o2000, o: 0o1000 }

/** TEXT as a change of modes, or undefined if it is invalid. */
export function parseChmod(text: string): Chmod | undefined {
  if (/^[0-7]{1,5}$/.test(text)) {
    const mode = Number.parseInt(text, 8)
    return mode <= 0o7777 ? { kind: 'octal', mode } : undefined
  }
  const changes: Change[] = []
  for (const clause of text.split(',')) {
    const match = /^([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)$/.exec(clause)
    if (match === null) return undefined
    const who = match[1] === '' || match[1]!.includes('a') ? 'ugo' : match[1]!
    for (const [, operator, what] of match[2]!.matchAll(/([-+=])([rwxXst]*|[ugo])(?=[-+=]|$)/g)) {
      changes.push({ who, operator: operator as Change['operator'], what: what! })
    }
  }
  return changes.length > CHANGES_MAX ? undefined : { kind: 'symbolic', changes }
}

/** The bits of WHAT for CLASS ("u", "g" or "o") of a file that has MODE. */
function bitsFor(what: string, who: string, mode: number, isDirectory: boolean): number {
  const shift = SHIFT[who]!
  if (/^[ugo]$/.test(what)) return ((mode >> SHIFT[what]!) & 7) << shift
  let bits = 0
  if (what.includes('r')) bits |= 4 << shift
  if (what.includes('w')) bits |= 2 << shift
  if (what.includes('x') || (what.includes('X') && (isDirectory || (mode & 0o111) !== 0))) bits |= 1 << shift
  if (what.includes('s') && who !== 'o') bits |= SPECIAL[who]!
  if (what.includes('t') && who === 'o') bits |= SPECIAL[who]!
  return bits
}

/** MODE (12 bits) after CHMOD. */
export function applyChmod(chmod: Chmod, mode: number, isDirectory: boolean): number {
  if (chmod.kind === 'octal') return chmod.mode
  let now = mode & 0o7777
  for (const { who, operator, what } of chmod.changes) {
    const before = now
    for (const one of who) {
      const bits = bitsFor(what, one, before, isDirectory)
      // chmod(1) leaves a directory's set-id bits alone unless they are named.
      const cleared = (7 << SHIFT[one]!) | (isDirectory && one !== 'o' ? 0 : SPECIAL[one]!)
      if (operator === '+') now |= bits
      else if (operator === '-') now &= ~bits
      else now = (now & ~cleared) | bits
    }
  }
  return now
}
