// The logger of every process: pino's JSON lines on stderr. A stuck or dead reader of stderr costs lines, not
// memory or time. (Pino's own destination retries a refused line for ever while the process exits, so a
// process whose supervisor died would never end.) JSON encoding keeps forged or coloured text from user code
// in one line.

import { write, writeSync } from 'node:fs'
import { pino } from 'pino'
import type { LogLevel } from './config.ts'

export type Log = pino.Logger

const STDERR = 2
/** Characters waiting for a slow reader before lines are dropped. */
const PENDING_MAX_CHARS = 4 * 1024 ** 2
/** Size of one write; whole lines. */
const CHUNK_CHARS = 16 * 1024
const RETRY_MS = 50
/** Time for the last lines when the process exits and its reader is slow. */
const LAST_WAIT_MS = 500
const PAUSE_MS = 10
/** Time for the thread pool to finish a write on a busy machine before the lines behind it are written. */
const IN_FLIGHT_WAIT_MS = 100
/** Depth of causes included in the line of an error. */
const CAUSES_MAX = 8

/**
 * A logger for the process NAME that writes lines of LEVEL and above. Writing never blocks the event loop; at
 * exit the remaining lines are written as far as the reader accepts them.
 */
export function createLog({ name, level }: { name: string; level: LogLevel }): Log {
  return pino({ name, level, serializers: { err: describeError } }, createLines(STDERR))
}

/** ERR as pino writes it, without causes that its message already quotes: pino would repeat them. */
function describeError(err: unknown): unknown {
  if (!(err instanceof Error)) return err
  let message = err.message
  let { cause } = err
  for (let depth = 0; cause instanceof Error && depth < CAUSES_MAX; depth++, { cause } = cause) {
    if (!message.includes(cause.message)) message += `: ${cause.message}`
  }
  return { ...pino.stdSerializers.err(err), message }
}

/** Writes lines to FD in order, one write at a time. */
function createLines(fd: number): pino.DestinationStream {
  let waiting = ''
  let inFlight: Buffer | undefined
  let begun = false
  /** The reader is gone. */
  let broken = false

  function next(): void {
    if (inFlight === undefined && waiting !== '') {
      const end =
        waiting.length <= CHUNK_CHARS
          ? waiting.length
          : waiting.lastIndexOf('\n', CHUNK_CHARS) + 1 || waiting.indexOf('\n') + 1
      inFlight = Buffer.from(waiting.slice(0, end))
      waiting = waiting.slice(end)
    }
    if (inFlight !== undefined) write(fd, inFlight, 0, inFlight.length, null, onWritten)
  }

  function onWritten(err: NodeJS.ErrnoException | null, sizeBytes: number): void {
    if (err?.code === 'EAGAIN') {
      setTimeout(next, RETRY_MS).unref()
      return
    }
    broken = err !== null
    inFlight =
      broken || inFlight === undefined || sizeBytes === inFlight.length
        ? undefined
        : inFlight.subarray(sizeBytes)
    if (broken) waiting = ''
    next()
  }

  /** At exit no callback runs any more: writes the rest synchronously, after the write in flight. */
  function writeRest(): void {
    const giveUpAt = performance.now() + LAST_WAIT_MS
    let rest = Buffer.from(waiting)
    if (rest.length > 0 && inFlight !== undefined) pause(IN_FLIGHT_WAIT_MS)
    while (rest.length > 0 && performance.now() < giveUpAt) {
      try {
        rest = rest.subarray(writeSync(fd, rest))
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code !== 'EAGAIN') return // no reader left; exit anyway
        pause(PAUSE_MS)
      }
    }
  }

  return {
    write(line) {
      if (broken || waiting.length + line.length > PENDING_MAX_CHARS) return
      if (!begun) process.once('exit', writeRest)
      begun = true
      waiting += line
      if (inFlight === undefined) next()
    },
  }
}

/** Blocks the whole process; there is no other way to wait at exit. */
function pause(waitMs: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, waitMs)
}
