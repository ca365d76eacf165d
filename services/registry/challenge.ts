// The grammar of WWW-Authenticate (RFC 9110 §11.6.1): a list of challenges, each a scheme with parameters,
// where the same comma separates challenges and parameters.  The header is untrusted: it is cut at a length,
// and anything that is not a challenge is skipped.

export interface Challenge {
  readonly scheme: string
  readonly parameters: Readonly<Record<string, string>>
}

const HEADER_CHARACTERS_MAX = 8192
const CHALLENGES_MAX = 8

const SEPARATOR = /[\s,]*/y
const PARAMETER = /([A-Za-z_][\w-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=]+))(?=[\s,]|$)/y
const SCHEME = /([A-Za-z][\w-]*)(?=[\s,]|$)/y
/** A token68, or anything unknown. */
const OTHER = /[^\s,]+/y

/** The challenges of HEADER in their order, with schemes and keys in lower case. */
export function parseChallenges(header: string | undefined): readonly Challenge[] {
  const text = (header ?? '').slice(0, HEADER_CHARACTERS_MAX)
  const challenges: Challenge[] = []
  let parameters: Record<string, string> | undefined
  let at = 0
  const next = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at
    const match = pattern.exec(text)
    if (match) at = pattern.lastIndex
    return match
  }
  next(SEPARATOR)
  while (at < text.length) {
    const parameter = next(PARAMETER)
    const scheme = parameter ? null : next(SCHEME)
    if (parameter && parameters) {
      const [, key, quoted, plain] = parameter
      parameters[key!.toLowerCase()] = quoted === undefined ? plain! : quoted.replace(/\\(.)/g, '$1')
    } else if (scheme) {
      if (challenges.length === CHALLENGES_MAX) break
      parameters = Object.create(null) as Record<string, string>
      challenges.push({ scheme: scheme[1]!.toLowerCase(), parameters })
    } else if (!parameter) next(OTHER)
    next(SEPARATOR)
  }
  return challenges
}
