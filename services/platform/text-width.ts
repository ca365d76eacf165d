// How many columns text takes on a terminal: wide characters and emoji take two, combining marks none. TEXT
// is one line without control characters. Loading string-width compiles large Unicode sets (25 ms, a quarter
// of the start of `wherry list`), so it is loaded for the first text that is not plain ASCII.

import { createRequire } from 'node:module'
import type stringWidth from 'string-width'

const ASCII = /^[\x20-\x7e]*$/

interface Unicode {
  readonly stringWidth: typeof stringWidth
  readonly graphemes: Intl.Segmenter
}

let loaded: Unicode | undefined

function unicode(): Unicode {
  if (loaded === undefined) {
    const module: { readonly default: typeof stringWidth } = createRequire(import.meta.url)('string-width')
    loaded = { stringWidth: module.default, graphemes: new Intl.Segmenter() }
  }
  return loaded
}

/** The columns that TEXT takes. */
export const widthOf = (text: string): number =>
  ASCII.test(text) ? text.length : unicode().stringWidth(text)

/** TEXT in at most WIDTH columns, with an ellipsis where it is cut. Graphemes are never split. */
export function fit(text: string, width: number): string {
  if (width < 1) return ''
  if (widthOf(text) <= width) return text
  if (ASCII.test(text)) return `${text.slice(0, width - 1)}…`
  let columns = 1 // the ellipsis
  let end = 0
  for (const { segment, index } of unicode().graphemes.segment(text)) {
    columns += widthOf(segment)
    if (columns > width) break
    end = index + segment.length
  }
  return `${text.slice(0, end)}…`
}

/** TEXT followed by spaces up to WIDTH columns; preceded by them with RIGHT. */
export function pad(text: string, width: number, { right = false } = {}): string {
  const spaces = ' '.repeat(Math.max(0, width - widthOf(text)))
  return right ? `${spaces}${text}` : `${text}${spaces}`
}
