// Heredocs: finds their marks (<<EOF, <<-EOF, <<"EOF") in the line of a RUN, COPY or ADD, as BuildKit does.
// lines.ts reads the bodies.

import { expand } from './expand.ts'

export interface HeredocMark {
  /** The word that ends it, without quotes. */
  readonly name: string
  /** False if a part of the word was quoted. */
  readonly isExpanded: boolean
  /** <<-: tabs at the start of lines are removed. */
  readonly stripTabs: boolean
}

export interface Heredoc extends HeredocMark {
  /** Unchanged from the file, including tabs and the last newline. */
  readonly content: string
}

/** Limit per instruction. */
export const HEREDOCS_MAX = 100

/** WORD as a heredoc's mark, or undefined.  A descriptor may precede it, as in a shell ("3<<EOF"). */
export function parseHeredocMark(word: string): HeredocMark | undefined {
  const match = /^\d*<<(-?)\s*([^<]+)$/.exec(word)
  if (match === null) return undefined
  const options = { lookup: () => undefined, escape: '\\', keepUnset: true }
  const bare = expand(match[2]!, { ...options, quotes: 'remove' })
  const quoted = expand(match[2]!, { ...options, quotes: 'keep' })
  if ('problem' in bare || 'problem' in quoted || bare.words.length !== 1) return undefined
  return { name: bare.words[0]!, isExpanded: bare.text === quoted.text, stripTabs: match[1] === '-' }
}

/** The marks of LINE, from left to right. A line with invalid quotes has none; the shell reports them. */
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

/** The text of HEREDOC, without leading tabs for <<-. */
export function heredocText({ content, stripTabs }: Heredoc): string {
  return stripTabs ? content.replaceAll(/^\t+/gm, '') : content
}
