// Progress of a build, in BuildKit's format: plain lines with the number of their step, or on a terminal one
// line per finished step and, repainted in place, the running step with its last lines of output. Output of
// steps is untrusted: its control characters never reach the terminal.

import type { BuildEvent } from '../../build/progress.ts'
import type { Context } from '../context.ts'
import { createPainter } from '../painter.ts'
import { printable } from '../terminal.ts'
import { fit } from '../../platform/text-width.ts'

export interface BuildProgress {
  readonly onEvent: (event: BuildEvent) => void
  /** Leave the painted lines alone until the next event, because another display paints below them. */
  hold(): void
  /** Clear the painted lines; does nothing if there are none. */
  end(): void
}

const TAIL_LINES = 6
/** Room for the time after a title: two spaces and "7200.0s". */
const TIME_COLUMNS = 9
/** Longer lines are split. */
const LINE_BYTES_MAX = 4096

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)}s`

/** Splits a stream into lines. */
function createLines(onLine: (line: string) => void): { add: (bytes: Buffer) => void; end: () => void } {
  let rest: Buffer = Buffer.alloc(0)
  // A progress bar overwrites itself: only the text after the last carriage return is visible.
  const say = (bytes: Buffer): void => {
    onLine(printable(bytes.toString('utf8').replace(/\r+$/, '').replace(/^.*\r/s, '')))
  }
  return {
    add(bytes) {
      let left = rest.length === 0 ? bytes : Buffer.concat([rest, bytes])
      for (let end = left.indexOf(10); end >= 0 || left.length > LINE_BYTES_MAX; end = left.indexOf(10)) {
        const size = end >= 0 && end <= LINE_BYTES_MAX ? end : LINE_BYTES_MAX
        say(left.subarray(0, size))
        left = left.subarray(size === end ? size + 1 : size)
      }
      rest = Buffer.from(left)
    },
    end() {
      if (rest.length > 0) say(rest)
      rest = Buffer.alloc(0)
    },
  }
}

function plainProgress({ stderr }: Context): BuildProgress {
  let startedAt = 0
  let number = 0
  const lines = createLines((line) => {
    stderr.write(`#${number} ${((performance.now() - startedAt) / 1000).toFixed(3)} ${line}\n`)
  })
  return {
    onEvent(event) {
      if (event.kind === 'warning') return void stderr.write(`warning: ${printable(event.text)}\n`)
      if (event.number !== number) lines.end()
      number = event.number
      if (event.kind === 'started') {
        startedAt = performance.now()
        stderr.write(`#${number} ${printable(event.title)}\n`)
      } else if (event.kind === 'output') lines.add(event.bytes)
      else {
        lines.end()
        stderr.write(
          `#${number} ${event.kind === 'failed' ? 'ERROR' : event.isCached ? 'CACHED' : `DONE ${seconds(event.tookMs)}`}\n\n`,
        )
      }
    },
    hold: () => {},
    end() {
      lines.end()
    },
  }
}

function liveProgress(context: Context): BuildProgress {
  const { stderr } = context
  const running = new Map<number, { title: string; startedAt: number }>()
  let tail: string[] = []
  const lines = createLines((line) => {
    tail = [...tail, line].slice(-TAIL_LINES)
  })
  const oneLine = (text: string): string => text.replaceAll(/[\n\t]/g, ' ')

  const painter = createPainter(stderr, ({ columns, rows }) => {
    const now = performance.now()
    const titles = [...running.values()].map(
      ({ title, startedAt }) =>
        `${fit(oneLine(`=> ${title}`), columns - TIME_COLUMNS)}  ${seconds(now - startedAt)}`,
    )
    const tailRows = running.size === 0 ? 0 : Math.min(TAIL_LINES, rows - titles.length)
    return [...titles, ...(tailRows > 0 ? tail.slice(-tailRows) : []).map((line) => oneLine(`   | ${line}`))]
  })

  function finish(number: number, how: string): void {
    const title = running.get(number)?.title ?? ''
    running.delete(number)
    lines.end()
    tail = []
    painter.paint(`${fit(oneLine(`=> ${how}${title}`), painter.columns())}\n`)
  }

  return {
    hold: painter.release,
    onEvent(event) {
      painter.start()
      if (event.kind === 'warning') return painter.paint(`warning: ${printable(event.text)}\n`)
      if (event.kind === 'output') return lines.add(event.bytes)
      if (event.kind === 'started') {
        running.set(event.number, { title: printable(event.title), startedAt: performance.now() })
        painter.paint()
      } else if (event.kind === 'failed') finish(event.number, 'ERROR ')
      else finish(event.number, event.isCached ? 'CACHED ' : `${seconds(event.tookMs)} `)
    },
    end: painter.erase,
  }
}

/** KIND is "plain", "tty" or "quiet"; undefined depends on whether stderr is a terminal. */
export function createBuildProgress(context: Context, kind: string | undefined): BuildProgress {
  if (kind === 'quiet') return { onEvent: () => {}, hold: () => {}, end: () => {} }
  return kind === 'tty' || (kind !== 'plain' && context.stderr.isTTY === true)
    ? liveProgress(context)
    : plainProgress(context)
}
