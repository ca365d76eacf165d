// How many columns text takes on a terminal: wide characters and emoji take two, combining marks none. TEXT is
// one line without control characters (see `printable`).

import stringWidth from 'string-width'

const graphemes = new Intl.Segmenter()

/** The columns that TEXT takes. */
export const widthOf = (text: string): number => stringWidth(text)

/** TEXT in at most WIDTH columns, with an ellipsis where it is cut. No grapheme is cut in half. */
export function fit(text: string, width: number): string {
  if (width < 1) return ''
  // A grapheme takes at most two columns per UTF-16 unit, so short text needs no measuring.
  if (text.length * 2 <= width || widthOf(text) <= width) return text
  let columns = 1 // the ellipsis
  let end = 0
  for (const { segment, index } of graphemes.segment(text)) {
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
