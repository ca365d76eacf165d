// How a build looks while it runs, in the form that people know from BuildKit: plain lines, each with the
// number of its step, or on a terminal one line per step that was done and the last lines of the one that
// runs, painted over themselves. What steps write is a stranger's text: no control character of it reaches
// the terminal.

import type { BuildEvent } from '../../build/progress.ts'
import type { Context } from '../context.ts'
import { fit, printable, progressWidth } from '../terminal.ts'

export interface BuildProgress {
  readonly onEvent: (event: BuildEvent) => void
  /** Leave what is painted where it is until the next event: somebody else paints below it. */
  hold(): void
  /** What is painted is finished; harmless when nothing is. */
  end(): void
}

const PAINT_MS = 100
const LIVE_LINES = 6
/** What is kept free behind a title: two spaces and "7200.0s". */
const TIME_COLUMNS = 9
/** A line that is longer is cut into several. */
const LINE_BYTES_MAX = 4096

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)}s`

/** Whole lines of what comes in pieces. */
function createLines(onLine: (line: string) => void): { add: (bytes: Buffer) => void; end: () => void } {
  let rest: Buffer = Buffer.alloc(0)
  // A progress bar writes over itself: what is seen of it is what stands behind the last carriage return.
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
  let painted = 0
  let timer: NodeJS.Timeout | undefined
  const lines = createLines((line) => {
    tail = [...tail, line].slice(-LIVE_LINES)
  })
  const cut = (text: string, columns = 0): string =>
    fit(text.replaceAll(/[\n\t]/g, ' '), progressWidth(context) - columns)
  const wipe = (): string => (painted === 0 ? '' : `\u001b[${painted}A\u001b[J`)

  function paint(finished = ''): void {
    const now = performance.now()
    const live = [...running.values()].map(
      ({ title, startedAt }) => `${cut(`=> ${title}`, TIME_COLUMNS)}  ${seconds(now - startedAt)}`,
    )
    const shown = running.size === 0 ? [] : [...live, ...tail.map((line) => cut(`   | ${line}`))]
    stderr.write(`${wipe()}${finished}${shown.map((line) => `${line}\n`).join('')}`)
    painted = shown.length
  }

  function finish(number: number, how: string): void {
    const title = running.get(number)?.title ?? ''
    running.delete(number)
    lines.end()
    tail = []
    paint(`${cut(`=> ${how}${title}`)}\n`)
  }

  function hold(): void {
    clearInterval(timer)
    timer = undefined
    painted = 0
  }

  return {
    hold,
    onEvent(event) {
      timer ??= setInterval(paint, PAINT_MS)
      if (event.kind === 'warning') return paint(`warning: ${printable(event.text)}\n`) // is not painted over, so it may wrap
      if (event.kind === 'output') return lines.add(event.bytes)
      if (event.kind === 'started') {
        running.set(event.number, { title: printable(event.title), startedAt: performance.now() })
        paint()
      } else if (event.kind === 'failed') finish(event.number, 'ERROR ')
      else finish(event.number, event.isCached ? 'CACHED ' : `${seconds(event.tookMs)} `)
    },
    end() {
      stderr.write(wipe())
      hold()
    },
  }
}

/** KIND is "plain", "tty", "quiet", or undefined for what stderr is. */
export function createBuildProgress(context: Context, kind: string | undefined): BuildProgress {
  if (kind === 'quiet') return { onEvent: () => {}, hold: () => {}, end: () => {} }
  return kind === 'tty' || (kind !== 'plain' && context.stderr.isTTY === true)
    ? liveProgress(context)
    : plainProgress(context)
}
