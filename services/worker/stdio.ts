// The contract `stdio`: one call, one container.  The body goes to stdin, stdout is the response,
// stderr the log, an exit code other than 0 an error.  Knows pipes, bounds and the timeout; does not
// know where the container's spec came from or what becomes of the outcome.

import { closeSync, readSync, writeSync } from 'node:fs'
import { Socket } from 'node:net'
import { formatBytes, formatDuration } from '../contract/quantity.ts'
import type { Outcome } from '../contract/outcome.ts'
import type { RuntimeSpec } from '../contract/runtime-spec.ts'
import type { ContainerExit, Runtime } from '../runtime/container.ts'

/** What a pipe takes at once while nobody reads (pipe(7)). */
const PIPE_BYTES = 65_536
/**
 * Into so many pieces what a pipe holds can fall: a page of each of what a program can make it hold
 * (fs.pipe-max-size, proc_sys_fs(5)).
 */
const PIPE_PIECES_MAX = (1 << 20) / 4096
const HEAD_MIN_BYTES = 1024
/** The end of stderr that is kept. */
const LOG_MAX_BYTES = 64 * 1024

export interface StdioCall {
  readonly spec: RuntimeSpec
  readonly body: Uint8Array
  readonly timeoutMs: number
  readonly responseMaxBytes: number
  readonly signal: AbortSignal
  /** Called once the function's program runs, with its process id on the host. */
  readonly onStarted?: (pid: number) => void
}

export interface StdioResult {
  readonly outcome: Outcome
  readonly message?: string
  readonly exit: ContainerExit
  readonly response: Buffer
  readonly log: string
  readonly logTruncated: boolean
  readonly createMs: number
  readonly runMs: number
}

/**
 * Write BODY and close; a program that does not read it (EPIPE) is free to do so. What is returned ends the
 * writing.
 */
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

/** What the pipe took at once; undefined when nobody will ever read it. */
function writeNow(fd: number, body: Uint8Array): number | undefined {
  try {
    return body.length === 0 ? 0 : writeSync(fd, body)
  } catch (err) {
    const { code } = err as NodeJS.ErrnoException
    if (code === 'EPIPE') return undefined
    if (code === 'EAGAIN') return 0 // the function filled its own stdin
    throw err
  }
}

/**
 * One for all pipes: what is read is looked at before anything else can be read, and copied if it is kept.
 */
const readBuffer = Buffer.allocUnsafeSlow(PIPE_BYTES)

/**
 * Read FD; what KEEP does not keep is forgotten, so that the writer never stands still. What is returned
 * takes the rest of what the container wrote, once it has ended, and closes FD: the pipe's own end may never
 * come, since a program can hand its stdout to another container, through a socket in a volume that they
 * share (unix(7)).
 */
function collect(fd: number, keep: (chunk: Buffer) => void): () => void {
  const onread = {
    buffer: readBuffer,
    callback: (sizeBytes: number) => {
      keep(readBuffer.subarray(0, sizeBytes))
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
      keep(readBuffer.subarray(0, sizeBytes))
    }
    socket.destroy()
  }
}

/** How much of FD came into the buffer at once; 0 when there is no more now. */
function readNow(fd: number): number {
  try {
    return readSync(fd, readBuffer)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'EAGAIN') return 0
    throw err
  }
}

/** The first MAXBYTES of what comes; ONOVERFLOW hears once that there is more. */
function createHead(maxBytes: number, onOverflow: () => void) {
  let head = Buffer.alloc(0)
  let keptBytes = 0
  let overflowed = false
  return {
    keep(chunk: Buffer): void {
      const wanted = Math.min(keptBytes + chunk.length, maxBytes)
      if (wanted > head.length) {
        // Doubling: a program that writes byte by byte must not cost an object for each.
        const larger = Buffer.allocUnsafeSlow(
          Math.min(maxBytes, Math.max(wanted, 2 * head.length, HEAD_MIN_BYTES)),
        )
        head.copy(larger, 0, 0, keptBytes)
        head = larger
      }
      chunk.copy(head, keptBytes, 0, wanted - keptBytes)
      const isMore = keptBytes + chunk.length > maxBytes
      keptBytes = wanted
      if (!isMore || overflowed) return
      overflowed = true
      onOverflow()
    },
    bytes: (): Buffer => head.subarray(0, keptBytes),
    overflowed: (): boolean => overflowed,
  }
}

/** The last MAXBYTES of what comes, in a ring that is made when something comes. */
function createTail(maxBytes: number) {
  let ring: Buffer | undefined
  let sizeBytes = 0
  return {
    keep(chunk: Buffer): void {
      ring ??= Buffer.allocUnsafe(maxBytes)
      const kept = chunk.subarray(Math.max(0, chunk.length - maxBytes))
      const at = (sizeBytes + chunk.length - kept.length) % maxBytes
      const fits = kept.copy(ring, at)
      kept.copy(ring, 0, fits)
      sizeBytes += chunk.length
    },
    text(): string {
      if (!ring) return ''
      const at = sizeBytes % maxBytes
      return (
        sizeBytes <= maxBytes
          ? ring.subarray(0, sizeBytes)
          : Buffer.concat([ring.subarray(at), ring.subarray(0, at)])
      ).toString('utf8')
    },
    truncated: (): boolean => sizeBytes > maxBytes,
  }
}

type Verdict = Pick<StdioResult, 'outcome' | 'message'>

function judge(
  call: StdioCall,
  exit: ContainerExit,
  why: { timedOut: boolean; overflowed: boolean },
): Verdict {
  const { memory } = call.spec.linux.resources
  if (exit.usage.oomKills > 0)
    return {
      outcome: 'oom',
      message: `the function needed more memory than its limit of ${formatBytes(memory.limit)} and was killed`,
    }
  // Before what follows from it: the container was killed for it, unless it had ended already.
  if (why.overflowed)
    return {
      outcome: 'too_large',
      message: `the function wrote more than ${formatBytes(call.responseMaxBytes)} to stdout`,
    }
  if (why.timedOut)
    return {
      outcome: 'timeout',
      message: `the function was still running after ${formatDuration(call.timeoutMs)} and was killed`,
    }
  if (call.signal.aborted)
    return { outcome: 'cancelled', message: 'the call was taken back while the function ran' }
  if (exit.signal !== undefined)
    return { outcome: 'crash', message: `the function was killed by ${exit.signal}` }
  if (exit.exitCode !== 0)
    return { outcome: 'app_error', message: `the function ended with exit code ${exit.exitCode}` }
  return { outcome: 'ok' }
}

/** Run CALL in a fresh container.  Throws what Runtime.start throws; from then on everything is a result. */
export async function runStdio(runtime: Runtime, call: StdioCall): Promise<StdioResult> {
  const startedAt = performance.now()
  const container = runtime.start(call.spec)
  const runningAt = performance.now()
  call.onStarted?.(container.pid)
  let timedOut = false
  const timer = setTimeout(() => {
    timedOut = true
    container.kill()
  }, call.timeoutMs)
  call.signal.addEventListener('abort', container.kill, { once: true })
  if (call.signal.aborted) container.kill()
  const response = createHead(call.responseMaxBytes, container.kill)
  const log = createTail(LOG_MAX_BYTES)
  const ends = [
    collect(container.stdout, response.keep),
    collect(container.stderr, log.keep),
    feed(container.stdin, call.body),
  ]
  try {
    const exit = await container.exited
    for (const end of ends.splice(0)) end()
    return {
      ...judge(call, exit, { timedOut, overflowed: response.overflowed() }),
      exit,
      response: response.bytes(),
      log: log.text(),
      logTruncated: log.truncated(),
      createMs: runningAt - startedAt,
      runMs: exit.endedAt - runningAt,
    }
  } finally {
    for (const end of ends) end() // the exit could not be seen
    clearTimeout(timer)
    call.signal.removeEventListener('abort', container.kill)
  }
}
