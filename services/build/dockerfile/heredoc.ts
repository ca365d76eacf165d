// Heredocs: the marks (<<EOF, <<-EOF, <<"EOF") in the line of a RUN, COPY or ADD, as BuildKit finds them.
// Knows a line's words; refuses to know where the body stands (lines.ts) and who is fed with it.

import { expand } from './expand.ts'

export interface HeredocMark {
  /** The word that ends it, without quotes. */
  readonly name: string
  /** Not when a part of the word was quoted. */
  readonly isExpanded: boolean
  /** <<-: tabs at the beginning of lines go. */
  readonly stripTabs: boolean
}

export interface Heredoc extends HeredocMark {
  /** As it stands in the file, with its last newline, tabs included. */
  readonly content: string
}

/** In one instruction. */
export const HEREDOCS_MAX = 100

/** WORD as a heredoc's mark, or undefined.  A descriptor may stand in front, as in a shell ("3<<EOF"). */
export function parseHeredocMark(word: string): HeredocMark | undefined {
  const match = /^\d*<<(-?)\s*([^<]+)$/.exec(word)
  if (match === null) return undefined
  const options = { lookup: () => undefined, escape: '\\', keepUnset: true }
  const bare = expand(match[2]!, { ...options, quotes: 'remove' })
  const quoted = expand(match[2]!, { ...options, quotes: 'keep' })
  if ('problem' in bare || 'problem' in quoted || bare.words.length !== 1) return undefined
  return { name: bare.words[0]!, isExpanded: bare.text === quoted.text, stripTabs: match[1] === '-' }
}

/**
 * The marks of LINE, from left to right. A line that no shell could read has none: its quotes are the shell's
 * own matter.
 */
export function findHeredocs(line: string): HeredocMark[] {
  if (!line.includes('<<')) return []
  const words = expand(line, {
    lookup: () => undefined,
    escape: '\\',
    quotes: 'keep',
    keepEscapes: true,
    keepUnset: true,
  })
  if ('problem' in words) return []
  return words.words.flatMap((word) => parseHeredocMark(word) ?? [])
}

/** The text of HEREDOC, its tabs stripped if it wants that. */
export function heredocText({ content, stripTabs }: Heredoc): string {
  return stripTabs ? content.replaceAll(/^\t+/gm, '') : content
}
