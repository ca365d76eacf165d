// The terminal of `run` and `exec` in the foreground: copies between the outer end of the container's
// terminal and our own stdin and stdout.

import { createReadStream, fstatSync, writeSync } from 'node:fs'
import { Writable, type Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { ConsoleTarget } from '../containers/console.ts'
import type { BundleProcess } from '../contract/bundle-spec.ts'
import { OciError } from './failure.ts'

const STDIN = 0
const STDOUT = 1
/** Between two attempts to write to a full pipe or terminal. */
const RETRY_MS = 5
/**
 * After the program exited, a terminal without output for this long is kept open by a process left behind.
 */
const QUIET_MS = 200
/** More than a terminal can buffer of a program that has exited. */
const LAST_BYTES_MAX = 256 * 1024
/** Loaded on demand: it takes 3 ms. */
const loadTty = () => process.getBuiltinModule('node:tty')

/**
 * Where the terminal of a process goes. DETACHED: this command does not stay to copy. Throws OciError if
 * socket and terminal do not fit.
 */
export function consoleFor(
  terminal: boolean,
  { consoleSocket, detached }: { consoleSocket: string | undefined; detached: boolean },
): ConsoleTarget {
  if (!terminal && consoleSocket !== undefined)
    throw new OciError('--console-socket is given, but process.terminal is false')
  if (terminal && consoleSocket === undefined && detached)
    throw new OciError(
      'process.terminal is true, and this command does not stay to serve the terminal: give --console-socket',
    )
  if (!terminal) return undefined
  return consoleSocket === undefined ? 'keep' : { socketPath: consoleSocket }
}

/** PROCESS with the size of our own terminal, if it gets one that we copy and does not declare a size. */
export function withOwnSize<P extends Pick<BundleProcess, 'consoleSize'>>(
  process: P,
  target: ConsoleTarget,
): P {
  if (target !== 'keep' || process.consoleSize !== undefined) return process
  const consoleSize = ownSize()
  return consoleSize === undefined ? process : { ...process, consoleSize }
}

/** Rows and columns of our own terminal. */
function ownSize(): { height: number; width: number } | undefined {
  const { isatty, WriteStream } = loadTty()
  if (!isatty(STDOUT)) return undefined
  const [width, height] = new WriteStream(STDOUT).getWindowSize()
  return { height, width }
}

/** A stream that writes to FD, which may be non-blocking, one chunk at a time. */
function writerTo(fd: number): Writable {
  function write(chunk: Buffer, done: (err?: Error | null) => void): void {
    if (stream.destroyed) return done() // FD may have been closed and reused
    let left = chunk
    try {
      left = chunk.subarray(writeSync(fd, chunk))
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EAGAIN') return done(err as Error)
    }
    if (left.length === 0) done()
    else setTimeout(write, RETRY_MS, left, done)
  }
  const stream = new Writable({ write: (chunk: Buffer, _encoding, done) => write(chunk, done) })
  return stream
}

/** Our stdin. A pipe is polled: a read that waits in a thread would keep this process from exiting. */
function openInput(): Readable {
  const stat = fstatSync(STDIN)
  if (!stat.isFIFO() && !stat.isSocket()) return createReadStream('', { fd: STDIN, autoClose: false })
  const { Socket } = process.getBuiltinModule('node:net')
  return new Socket({ fd: STDIN, readable: true, writable: false })
}

/**
 * Copy in both directions, each no faster than its reader. If our stdout loses its reader, the terminal hangs
 * up, and its processes get SIGHUP. The returned function waits for the last output and restores our
 * terminal.
 */
export function copyTerminal(master: number): () => Promise<void> {
  const { isatty, ReadStream } = loadTty()
  const inner = new ReadStream(master)
  const ended = new Promise<void>((resolve) => {
    inner.once('close', resolve)
  })
  const out = writerTo(STDOUT)
  const into = writerTo(master)
  out.once('error', () => {
    inner.destroy()
  })
  inner.on('error', () => {}) // EIO: the last process of the terminal has exited
  inner.pipe(out)
  const ourIn = isatty(STDIN) ? new ReadStream(STDIN) : openInput()
  const raw = 'setRawMode' in ourIn ? ourIn : undefined
  raw?.setRawMode(true)
  ourIn.on('error', () => {}) // an unreadable stdin is an empty one
  into.on('error', () => {
    ourIn.destroy()
  }) // EIO, as above
  ourIn.pipe(into)

  /** The terminal may still buffer the program's last output. */
  async function drain(): Promise<void> {
    const before = inner.bytesRead
    let seen = -1
    while (
      !inner.closed &&
      inner.bytesRead - before < LAST_BYTES_MAX &&
      (inner.bytesRead > seen || out.writableLength > 0)
    ) {
      seen = inner.bytesRead
      await Promise.race([ended, delay(QUIET_MS)])
    }
  }

  return async () => {
    ourIn.destroy()
    await drain()
    raw?.setRawMode(false)
    into.destroy()
    inner.destroy()
  }
}
