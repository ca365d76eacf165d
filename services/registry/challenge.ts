// The grammar of WWW-Authenticate (RFC 9110 §11.6.1): a list of challenges, each a scheme and its parameters,
// all separated by the same comma. Pure: a header in, values out. Refuses to know what is done about a
// challenge. The header is a stranger's text: it is cut at a length, and what is no challenge is left out.

export interface Challenge {
  readonly scheme: string
  readonly parameters: Readonly<Record<string, string>>
}

const HEADER_CHARACTERS_MAX = 8192
const CHALLENGES_MAX = 8

const SEPARATOR = /[\s,]*/y
const PARAMETER = /([A-Za-z_][\w-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=]+))(?=[\s,]|$)/y
const SCHEME = /([A-Za-z][\w-]*)(?=[\s,]|$)/y
/** A token68, or nothing that anybody knows. */
const OTHER = /[^\s,]+/y

/** HEADER as its challenges, schemes and keys in lower case, in the order they were written. */
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
