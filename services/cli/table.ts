// Tables that fit the terminal, and the fields of an object one per line. Cells are untrusted text: control
// characters are replaced, and widths are columns of the terminal.

import { printable } from './terminal.ts'
import { fit, pad, widthOf } from '../platform/text-width.ts'

export interface Column {
  readonly title: string
  readonly right?: boolean
  /** Becomes narrower when the table is wider than the terminal. */
  readonly shrinks?: boolean
}

const GAP = '  '
const SHRUNK_MIN = 12

/**
 * ROWS below their titles, at most WIDTH columns wide if the shrinking columns allow it. Ends with a newline.
 */
export function formatTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  width = Infinity,
): string {
  const cells = [
    columns.map((c) => c.title),
    ...rows.map((row) => row.map((cell) => printable(cell).replaceAll(/[\n\t]/g, ' '))),
  ]
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => widthOf(row[i] ?? ''))))
  let over = widths.reduce((a, b) => a + b, 0) + GAP.length * (columns.length - 1) - width
  columns.forEach((column, i) => {
    if (!column.shrinks || over <= 0) return
    const give = Math.min(over, Math.max(0, widths[i]! - SHRUNK_MIN))
    widths[i]! -= give
    over -= give
  })
  const line = (row: readonly string[]): string =>
    columns
      .map((column, i) => {
        const cell = fit(row[i] ?? '', widths[i]!)
        return pad(cell, widths[i]!, { right: column.right === true })
      })
      .join(GAP)
      .trimEnd()
  return `${cells.map(line).join('\n')}\n`
}

/**
 * VALUE's fields, one per line, nested ones indented; empty ones are omitted. Continuation lines are
 * indented, so a value of several lines cannot pass for several fields.
 */
export function formatFields(value: object, indent = ''): string[] {
  const entries = Object.entries(value).filter(
    ([, field]) =>
      field !== '' &&
      field !== null &&
      !(typeof field === 'object' && Object.keys(field as object).length === 0),
  )
  const width = Math.max(0, ...entries.map(([key]) => widthOf(key)))
  return entries
    .map(([key, field]): [string, unknown] => [key.replaceAll('\n', ' '), field])
    .flatMap(([key, field]) => {
      if (typeof field !== 'object' || field === null)
        return [
          `${indent}${pad(`${key}:`, width + 1)} ${String(field).replaceAll('\n', `\n${indent}${' '.repeat(width + 2)}`)}`,
        ]
      if (Array.isArray(field) && typeof field[0] === 'object')
        return [`${indent}${key}:`, ...field.flatMap(formatItem(indent))]
      if (Array.isArray(field)) return [`${indent}${pad(`${key}:`, width + 1)} ${JSON.stringify(field)}`]
      return [`${indent}${key}:`, ...formatFields(field, `${indent}  `)]
    })
}

/** One object of a list, marked with a dash. */
function formatItem(indent: string) {
  return (item: object): string[] =>
    formatFields(item, `${indent}    `).map((line, i) =>
      i === 0 ? `${indent}  - ${line.slice(indent.length + 4)}` : line,
    )
}
