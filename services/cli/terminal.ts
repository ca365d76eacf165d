// Text for people: tables that fit the terminal, ages, durations, and control characters made harmless.
// Knows widths; refuses to know what the rows are about.

import type { Context } from './context.ts'

export interface Column {
  readonly title: string
  readonly right?: boolean
  /** Gives way first when the line is longer than the terminal. */
  readonly shrinks?: boolean
}

const GAP = '  '
const SHRUNK_MIN = 12
const COLUMNS_DEFAULT = 80
const ROWS_DEFAULT = 24
const PROGRESS_COLUMNS_MIN = 20

/** TEXT without control characters: text of functions and registries may not steer the reader's terminal. */
export function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, (c) => (c === '\r' ? '' : '�'))
}

/** TEXT in at most WIDTH characters, with an ellipsis where it was cut. */
export function cut(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, width - 1)}…`
}

const NO_COLUMN = /[\p{Mn}\p{Me}\p{Cf}]/u
/** East Asian wide and fullwidth characters, and pictures (Unicode, UAX #11). */
const TWO_COLUMNS =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f000}-\u{1faff}\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u

/** TEXT, of one line, in at most WIDTH columns of a terminal. */
export function fit(text: string, width: number): string {
  let columns = 0
  let end = 0
  for (const character of text) {
    columns += NO_COLUMN.test(character) ? 0 : TWO_COLUMNS.test(character) ? 2 : 1
    if (columns > width) break
    end += character.length
  }
  return text.slice(0, end)
}

/** ROWS below their titles, at most WIDTH wide where shrinking columns allow it; ends with a newline. */
export function formatTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  width = Infinity,
): string {
  const cells = [
    columns.map((c) => c.title),
    ...rows.map((row) => row.map((cell) => printable(cell).replaceAll(/[\n\t]/g, ' '))),
  ]
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => (row[i] ?? '').length)))
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
        const cell = cut(row[i] ?? '', widths[i]!)
        return column.right ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)
      })
      .join(GAP)
      .trimEnd()
  return `${cells.map(line).join('\n')}\n`
}

/** Columns of the terminal behind stdout; no limit when it is a file or a pipe. */
export function terminalWidth({ stdout }: Context): number {
  return stdout.isTTY === true && stdout.columns !== undefined ? stdout.columns : Infinity
}

/** The longest line that does not wrap on the terminal behind stderr: what is painted over itself may not. */
export function progressWidth({ stderr }: Context): number {
  return Math.max(PROGRESS_COLUMNS_MIN, (stderr.columns ?? COLUMNS_DEFAULT) - 1)
}

/** So many lines can be painted over on the terminal behind stderr: what has scrolled away cannot. */
export function progressHeight({ stderr }: Context): number {
  return Math.max(1, (stderr.rows ?? ROWS_DEFAULT) - 1)
}

/** 93784000 → "1d2h", 61000 → "1m1s", 420 → "420ms". */
export function formatAge(ageMs: number): string {
  if (ageMs < 1000) return `${Math.max(0, Math.round(ageMs))}ms`
  const seconds = Math.floor(ageMs / 1000)
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ]
  const first = parts.findIndex(([n]) => n > 0)
  return parts
    .slice(first, first + 2)
    .filter(([n]) => n > 0)
    .map(([n, unit]) => `${n}${unit}`)
    .join('')
}

/** 0.4213 → "0.42 ms". */
export function formatMs(ms: number): string {
  return `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`
}

/** 13002342 → "12.4 MiB". */
export function formatSize(sizeBytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = sizeBytes
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`
}

/** "sha256:0123…" → its first 12 digits. */
export function shortDigest(digest: string): string {
  return digest.replace('sha256:', '').slice(0, 12)
}

/**
 * VALUE's fields, one a line, inner ones indented; what is empty is left out. A text of several lines cannot
 * look like several fields.
 */
export function formatFields(value: object, indent = ''): string[] {
  const entries = Object.entries(value).filter(
    ([, field]) =>
      field !== '' &&
      field !== null &&
      !(typeof field === 'object' && Object.keys(field as object).length === 0),
  )
  const width = Math.max(0, ...entries.map(([key]) => key.length))
  return entries
    .map(([key, field]): [string, unknown] => [key.replaceAll('\n', ' '), field])
    .flatMap(([key, field]) => {
      if (typeof field !== 'object' || field === null)
        return [
          `${indent}${`${key}:`.padEnd(width + 1)} ${String(field).replaceAll('\n', `\n${indent}${' '.repeat(width + 2)}`)}`,
        ]
      if (Array.isArray(field) && typeof field[0] === 'object')
        return [`${indent}${key}:`, ...field.flatMap(formatItem(indent))]
      if (Array.isArray(field)) return [`${indent}${`${key}:`.padEnd(width + 1)} ${JSON.stringify(field)}`]
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
