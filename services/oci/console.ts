// The outer end of a container's terminal.  Either it goes to whoever listens on --console-socket, straight
// from the container, or `run` and `exec` in the foreground keep it and copy between it and their own.

import { closeSync, createReadStream, fstatSync, writeSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { Writable, type Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { Native } from '../runtime/native.ts'
import { OciError } from './failure.ts'

const STDIN = 0
const STDOUT = 1
/** Between two tries to write to who is not reading. */
const RETRY_MS = 5
/**
 * A program has ended, and its terminal said nothing for this long: somebody whom it left behind keeps it
 * open.
 */
const QUIET_MS = 200
/** More than a terminal can hold of what a program that has ended wrote to it. */
const LAST_BYTES_MAX = 256 * 1024
/** Loading it takes 3 ms, which only terminals need. */
const loadTty = () => process.getBuiltinModule('node:tty')

export interface Console {
  /** Socket for the container's side; -1 without a terminal. */
  readonly fd: number
  /**
   * Copy until the terminal ends, when it was kept; the function returned waits for its last words and puts
   * our own terminal back.
   */
  attach(): () => Promise<void>
  /** Close what the container's side has by now. */
  release(): void
}

/**
 * For a process with or without TERMINAL. DETACHED: nobody stays to copy. Throws OciError when socket and
 * terminal do not fit.
 */
export function openConsole(
  native: Native,
  {
    terminal,
    socketPath,
    detached,
  }: { terminal: boolean; socketPath: string | undefined; detached: boolean },
): Console {
  if (!terminal && socketPath !== undefined)
    throw new OciError('--console-socket is given, but process.terminal is false')
  if (terminal && socketPath === undefined && detached)
    throw new OciError(
      'process.terminal is true and nobody stays to serve the terminal: give --console-socket',
    )
  if (!terminal) return { fd: -1, attach: () => async () => {}, release() {} }
  if (socketPath !== undefined) {
    const fd = native.connect(dirname(socketPath), basename(socketPath))
    return {
      fd,
      attach: () => async () => {},
      release() {
        closeSync(fd)
      },
    }
  }
  const [ours, theirs] = native.socketPair()
  return {
    fd: theirs,
    attach() {
      const master = native.receiveDescriptor(ours)
      closeSync(ours)
      return copyTerminal(master)
    },
    release() {
      closeSync(theirs)
    },
  }
}

/** Rows and columns of our own terminal, for one inside that is to look like it. */
export function ownSize(): { height: number; width: number } | undefined {
  const { isatty, WriteStream } = loadTty()
  if (!isatty(STDOUT)) return undefined
  const [width, height] = new WriteStream(STDOUT).getWindowSize()
  return { height, width }
}

/** What is written goes to FD, which may be non-blocking, one chunk at a time. */
function writerTo(fd: number): Writable {
  function write(chunk: Buffer, done: (err?: Error | null) => void): void {
    if (stream.destroyed) return done() // FD may be somebody else's by now
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

/**
 * Our stdin. A pipe is polled: a read that waits in a thread would keep this process for as long as nobody
 * writes.
 */
function openInput(): Readable {
  const stat = fstatSync(STDIN)
  if (!stat.isFIFO() && !stat.isSocket()) return createReadStream('', { fd: STDIN, autoClose: false })
  const { Socket } = process.getBuiltinModule('node:net')
  return new Socket({ fd: STDIN, readable: true, writable: false })
}

/**
 * Both ways, each no faster than its reader. When nobody reads our stdout any more, the terminal hangs up:
 * SIGHUP for who is on it.
 */
function copyTerminal(master: number): () => Promise<void> {
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
  inner.on('error', () => {}) // EIO: the last process of the terminal is gone
  inner.pipe(out)
  const ourIn = isatty(STDIN) ? new ReadStream(STDIN) : openInput()
  const raw = 'setRawMode' in ourIn ? ourIn : undefined
  raw?.setRawMode(true)
  ourIn.on('error', () => {}) // a stdin that cannot be read has nothing to say
  into.on('error', () => {
    ourIn.destroy()
  }) // as above
  ourIn.pipe(into)

  /** What the program wrote last may still be in the terminal. */
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
