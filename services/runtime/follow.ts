// Follows a running container to its end: pipes, timeout, abort. Function calls and build steps both use it.
// After the exit it reads what is left in the pipes, within a bound, and does not wait for their end: a
// program can pass its stdout to another process over a socket (unix(7)), and that process may keep it open.

import { closeSync, readSync, writeSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Container, ContainerExit } from './container.ts'

/** The capacity of a pipe (pipe(7)). */
const PIPE_BYTES = 65_536
/**
 * The most reads after the exit. The largest pipe that a program can request (fs.pipe-max-size,
 * proc_sys_fs(5)) has this many pages, and each read returns at least one.
 */
const PIPE_PIECES_MAX = (1 << 20) / 4096

export interface FollowOptions {
  /** For stdin, which is then closed. */
  readonly body: Uint8Array
  readonly timeoutMs: number
  /** Aborting kills the container. */
  readonly signal: AbortSignal
  /** Output as it comes.  CHUNK is overwritten after the call: copy what is kept. */
  readonly onStdout: (chunk: Buffer) => void
  readonly onStderr: (chunk: Buffer) => void
}

export interface FollowedExit extends ContainerExit {
  /** Killed because TIMEOUTMS had passed. */
  readonly timedOut: boolean
}

/** Write BODY to FD and close it; a program may leave it unread (EPIPE).  The result ends the writing. */
function feed(fd: number, body: Uint8Array): () => void {
  const written = body.length > PIPE_BYTES ? 0 : writeNow(fd, body)
  if (written === undefined || written === body.length) {
    closeSync(fd)
    return () => {}
  }
  const socket = new Socket({ fd, readable: false, writable: true })
  socket.on('error', () => socket.destroy())
  socket.end(body.subarray(written))
  return () => {
    socket.destroy()
  }
}

/** How many bytes the pipe accepted at once; undefined if it has no reader. */
function writeNow(fd: number, body: Uint8Array): number | undefined {
  try {
    return body.length === 0 ? 0 : writeSync(fd, body)
  } catch (err) {
    const { code } = err as NodeJS.ErrnoException
    if (code === 'EPIPE') return undefined
    if (code === 'EAGAIN') return 0 // the program filled its own stdin
    throw err
  }
}

/** One buffer for all pipes: each chunk is handled before the next read. */
const readBuffer = Buffer.allocUnsafeSlow(PIPE_BYTES)

/** Read FD all the time, so that its writer never blocks.  The result reads what is left, and closes FD. */
function collect(fd: number, onChunk: (chunk: Buffer) => void): () => void {
  const onread = {
    buffer: readBuffer,
    callback: (sizeBytes: number) => {
      onChunk(readBuffer.subarray(0, sizeBytes))
      return true
    },
  }
  const socket = new Socket({ fd, readable: true, writable: false, onread })
  socket.on('error', () => socket.destroy())
  socket.resume()
  return () => {
    for (let piece = 0; !socket.destroyed && piece < PIPE_PIECES_MAX; piece++) {
      const sizeBytes = readNow(fd)
      if (sizeBytes === 0) break
      onChunk(readBuffer.subarray(0, sizeBytes))
    }
    socket.destroy()
  }
}

/** Read from FD into the buffer: the number of bytes, 0 if there are none. */
function readNow(fd: number): number {
  try {
    return readSync(fd, readBuffer)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'EAGAIN') return 0
    throw err
  }
}

/**
 * Follow CONTAINER, whose pipes this function owns from now on, until it has exited and its output is read.
 * Rejects only when its exit cannot be seen.
 */
export async function follow(container: Container, options: FollowOptions): Promise<FollowedExit> {
  let timedOut = false
  const timer = setTimeout(() => {
    timedOut = true
    container.kill()
  }, options.timeoutMs)
  options.signal.addEventListener('abort', container.kill, { once: true })
  if (options.signal.aborted) container.kill()
  const ends = [
    collect(container.stdout, options.onStdout),
    collect(container.stderr, options.onStderr),
    feed(container.stdin, options.body),
  ]
  try {
    const exit = await container.exited
    return { ...exit, timedOut }
  } finally {
    for (const end of ends) end()
    clearTimeout(timer)
    options.signal.removeEventListener('abort', container.kill)
  }
}
