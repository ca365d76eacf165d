// .dockerignore and COPY --exclude: which paths of a context are excluded (Dockerfile reference,
// ".dockerignore file"). The last pattern that matches a path, or a folder above it, decides.

import { posix } from 'node:path'
import { InvalidRequest } from '../../contract/errors.ts'
import { dockerfileFault, quoted, type SourceFile } from '../dockerfile/build-failure.ts'
import { parsePathPattern, type PathPattern } from './path-pattern.ts'

interface Rule extends PathPattern {
  /** "!": its matches are included after all. */
  readonly isException: boolean
  /** Its line, from 1; for --exclude its position. */
  readonly line: number
}

/** Which rules match one folder or file, or a folder above it. */
export interface Verdict {
  readonly isIgnored: boolean
  /** The deciding rule; undefined if there is none. */
  readonly rule?: Rule
  readonly matched: readonly boolean[]
}

export interface IgnoreRules {
  /** The verdict for PATH ("src/a.ts"); PARENT is the verdict for its folder. */
  judge(path: string, parent: Verdict): Verdict
  /** Whether something below the ignored folder PATH may be included after all. */
  mayHoldExceptions(path: string): boolean
  /** The verdict for the context itself. */
  readonly root: Verdict
  /** For messages; "" without a file. */
  readonly name: string
}

export const DOCKERIGNORE_BYTES_MAX = 1024 * 1024
const RULES_MAX = 10_000

/** Go's filepath.Clean. */
function clean(path: string): string {
  const normal = posix.normalize(path)
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal
}

function ruleOf(text: string, line: number): Rule | undefined {
  const isException = text.startsWith('!')
  const path = clean((isException ? text.slice(1) : text).trim())
  const pattern = parsePathPattern(path.length > 1 && path.startsWith('/') ? path.slice(1) : path, true)
  return pattern === undefined ? undefined : { ...pattern, isException, line }
}

function createRules(name: string, rules: readonly Rule[]): IgnoreRules {
  const exceptions = rules.filter((rule) => rule.isException)
  return {
    name,
    root: { isIgnored: false, matched: rules.map(() => false) },
    judge(path, parent) {
      const matched = rules.map((rule, i) => parent.matched[i]! || rule.matches(path))
      const last = matched.lastIndexOf(true)
      return last < 0
        ? { isIgnored: false, matched }
        : { isIgnored: !rules[last]!.isException, rule: rules[last]!, matched }
    },
    mayHoldExceptions(path) {
      const inside = `${path}/`
      return exceptions.some(
        ({ prefix, isLiteral }) => prefix.startsWith(inside) || (!isLiteral && inside.startsWith(prefix)),
      )
    },
  }
}

/** No rules at all. */
export const NO_RULES: IgnoreRules = createRules('', [])

/**
 * Parses CONTENT of an ignore file, whose name in messages is NAME. Throws InvalidRequest
 * ERR_INVALID_DOCKERFILE.
 */
export function parseDockerignore(name: string, content: string): IgnoreRules {
  if (Buffer.byteLength(content) > DOCKERIGNORE_BYTES_MAX) {
    throw new InvalidRequest(
      [
        {
          path: name,
          problem: `is ${Buffer.byteLength(content)} bytes long; the limit is ${DOCKERIGNORE_BYTES_MAX}`,
        },
      ],
      'ERR_INVALID_DOCKERFILE',
    )
  }
  const source: SourceFile = {
    name,
    lines: content
      .replace(/^\uFEFF/, '')
      .split('\n')
      .map((line) => line.replace(/\r$/, '')),
  }
  const rules: Rule[] = []
  for (const [i, line] of source.lines.entries()) {
    const text = line.trim()
    if (text === '' || line.startsWith('#')) continue
    const place = { source, location: { line: i + 1, endLine: i + 1 } }
    if (text === '!') throw dockerfileFault(place, '"!" needs a pattern', { mark: '!' })
    const rule = ruleOf(text, i + 1)
    if (rule === undefined)
      throw dockerfileFault(place, `${quoted(text)} is not a valid pattern`, {
        mark: text,
        hint: 'close each "[" with "]", and put a character after "\\"',
      })
    rules.push(rule)
    if (rules.length > RULES_MAX) throw dockerfileFault(place, `there are more than ${RULES_MAX} patterns`)
  }
  return createRules(name, rules)
}

/** The values of --exclude as rules. A returned string is the invalid pattern. */
export function excludeRules(patterns: readonly string[]): IgnoreRules | string {
  const rules: Rule[] = []
  for (const [i, pattern] of patterns.entries()) {
    const rule = ruleOf(pattern.trim(), i + 1)
    if (rule === undefined || pattern.trim() === '!') return pattern
    if (pattern.trim() !== '') rules.push(rule)
  }
  return createRules('--exclude', rules)
}
