// The outer end of a container's terminal.  Either it goes to whoever listens on --console-socket, straight
// from the container, or `run` and `exec` in the foreground keep it and copy between it and their own.

import { closeSync, createReadStream, createWriteStream, writeSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import type { Native } from '../runtime/native.ts'
import { OciError } from './failure.ts'

const STDIN = 0
const STDOUT = 1
/** Loading it takes 3 ms, which only terminals need. */
const loadTty = () => process.getBuiltinModule('node:tty')

export interface Console {
  /** Socket for the container's side; -1 without a terminal. */
  readonly fd: number
  /** Copy until the terminal ends, when it was kept; the function returned puts our own terminal back. */
  attach (): () => void
  /** Close what the container's side has by now. */
  release (): void
}

/** For a process with or without TERMINAL.  DETACHED: nobody stays to copy.  Throws OciError when socket and terminal do not fit. */
export function openConsole (native: Native, { terminal, socketPath, detached }: { terminal: boolean, socketPath: string | undefined, detached: boolean }): Console {
  if (!terminal && socketPath !== undefined) throw new OciError('--console-socket is given, but process.terminal is false')
  if (terminal && socketPath === undefined && detached) throw new OciError('process.terminal is true and nobody stays to serve the terminal: give --console-socket')
  if (!terminal) return { fd: -1, attach: () => () => {}, release () {} }
  if (socketPath !== undefined) {
    const fd = native.connect(dirname(socketPath), basename(socketPath))
    return { fd, attach: () => () => {}, release () { closeSync(fd) } }
  }
  const [ours, theirs] = native.socketPair()
  return {
    fd: theirs,
    attach () {
      const master = native.receiveDescriptor(ours)
      closeSync(ours)
      return copyTerminal(master)
    },
    release () { closeSync(theirs) },
  }
}

/** Rows and columns of our own terminal, for one inside that is to look like it. */
export function ownSize (): { height: number, width: number } | undefined {
  const { isatty, WriteStream } = loadTty()
  if (!isatty(STDOUT)) return undefined
  const [width, height] = new WriteStream(STDOUT).getWindowSize()
  return { height, width }
}

function copyTerminal (master: number): () => void {
  const { isatty, ReadStream } = loadTty()
  const inner = new ReadStream(master)
  const toInner = createWriteStream('', { fd: master, autoClose: false })
  const ourIn = isatty(STDIN) ? new ReadStream(STDIN) : createReadStream('', { fd: STDIN, autoClose: false })
  const raw = 'setRawMode' in ourIn ? ourIn : undefined
  raw?.setRawMode(true)
  ourIn.on('data', chunk => { toInner.write(chunk) })
  inner.on('data', (chunk: Buffer) => { writeSync(STDOUT, chunk) })
  inner.on('error', () => {}) // EIO: the last process of the terminal is gone
  return () => {
    raw?.setRawMode(false)
    ourIn.destroy()
    inner.destroy()
  }
}
