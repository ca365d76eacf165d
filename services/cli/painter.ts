// Lines that are repainted in place on a terminal, for every progress display. A repaint moves the cursor up
// over the lines of the last one, so no line may wrap and none may have scrolled away: the painter cuts lines
// to the terminal's columns and drops those that do not fit into its rows. Plain output does not go through
// here.

import type { Context } from './context.ts'
import { fit, widthOf } from '../platform/text-width.ts'

const REPAINT_MS = 100
const COLUMNS_DEFAULT = 80
const ROWS_DEFAULT = 24

export interface PaintArea {
  /** One fewer than the terminal has: a full line makes some terminals wrap. */
  readonly columns: number
  /** One fewer than the terminal has: the cursor stands below the lines. */
  readonly rows: number
}

export interface Painter {
  /** The columns that a line may take now. */
  columns(): number
  /** Repaint at regular intervals from now on. */
  start(): void
  /** Repaint now. ABOVE is written over the old lines first and stays; it may wrap. */
  paint(above?: string): void
  /** Stop repainting and leave the lines on the screen. */
  release(): void
  /** Stop repainting and clear the lines. */
  erase(): void
}

/** A painter on STDERR of the lines that DRAW returns. */
export function createPainter(
  stderr: Context['stderr'],
  draw: (area: PaintArea) => readonly string[],
): Painter {
  /** Widths of the lines on the screen. */
  let painted: readonly number[] = []
  let timer: NodeJS.Timeout | undefined

  // A terminal without a known size reports 0.
  const area = (): PaintArea => ({
    columns: Math.max(1, (stderr.columns || COLUMNS_DEFAULT) - 1),
    rows: Math.max(1, (stderr.rows || ROWS_DEFAULT) - 1),
  })

  /** Clears the painted lines. If the terminal became narrower since, they now wrap into more rows. */
  function wipe({ columns, rows }: PaintArea): string {
    const taken = painted.reduce((sum, width) => sum + Math.max(1, Math.ceil(width / (columns + 1))), 0)
    return taken === 0 ? '' : `\u001b[${Math.min(taken, rows)}A\u001b[J`
  }

  function stop(): void {
    clearInterval(timer)
    timer = undefined
    painted = []
  }

  function paint(above = ''): void {
    const now = area()
    const lines = draw(now)
      .slice(-now.rows)
      .map((line) => fit(line, now.columns))
    stderr.write(`${wipe(now)}${above}${lines.map((line) => `${line}\n`).join('')}`)
    painted = lines.map(widthOf)
  }

  return {
    columns: () => area().columns,
    start() {
      timer ??= setInterval(paint, REPAINT_MS)
    },
    paint,
    release: stop,
    erase() {
      if (painted.length > 0) stderr.write(wipe(area()))
      stop()
    },
  }
}
