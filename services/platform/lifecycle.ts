// The life of a process: start once, report ready, stop once, on a signal or the loss of the IPC channel to
// its supervising parent. main.ts passes in `exit`; nothing else ends the process.
//
// An uncaught exception crashes the process on purpose: its state is unknown, and the queue gives its calls
// to another worker.

import { defined } from '../contract/defined.ts'
import { AppError } from '../contract/errors.ts'
import type { Log } from './log.ts'

/** What `start` returns. */
export interface Running {
  /** Where it serves; sent to a supervising parent. */
  readonly url?: string
  stop(): Promise<void>
}

export interface ProcessOptions {
  readonly name: string
  readonly log: Log
  readonly stopTimeoutMs: number
  readonly start: () => Promise<Running>
  /** process.exit. */
  readonly exit: (code: number) => never
}

/** One line, with its newline, on why process NAME could not start.  The stack goes to the debug log. */
export function describeStartFailure(name: string, err: unknown): string {
  const reason = err instanceof Error ? err.message : String(err)
  const code = err instanceof AppError ? ` (${err.code})` : ''
  return `wherry ${name}: cannot start: ${reason.replaceAll(/\s*\n\s*/g, ' ')}${code}\n`
}

/**
 * Runs a process until SIGTERM, SIGINT or the loss of the IPC channel to its parent. It stops once, within
 * stopTimeoutMs (else it exits with code 1); a second signal exits immediately with code 1. Over an IPC
 * channel it sends `{ ready: true, url }` once it serves. A failed start prints one line on stderr and exits
 * with code 1.
 */
export async function runProcess({ name, log, stopTimeoutMs, start, exit }: ProcessOptions): Promise<void> {
  let stopping = false
  const stopAsked = Promise.withResolvers<string>()

  const askToStop = (why: string): void => {
    if (stopping) {
      log.warn({ why }, 'second stop signal: exiting immediately')
      exit(1)
    }
    stopping = true
    setTimeout(() => {
      log.error({ stopTimeoutMs }, 'stop timed out: exiting with unfinished work')
      exit(1)
    }, stopTimeoutMs).unref()
    stopAsked.resolve(why)
  }
  const crash = (err: unknown): void => {
    log.fatal({ err }, 'uncaught error: exiting; the queue gives running calls to other workers')
    exit(1)
  }

  process.on('SIGTERM', askToStop).on('SIGINT', askToStop)
  process.on('uncaughtException', crash).on('unhandledRejection', crash)
  // The parent died or disconnected.  This does not count as a second signal: one must still be able to hurry
  // the stop.
  process.once('disconnect', () => {
    if (!stopping) askToStop('disconnect')
  })

  let running: Running
  try {
    running = await start()
  } catch (err) {
    log.debug({ err }, 'start failed')
    process.stderr.write(describeStartFailure(name, err))
    return exit(1)
  }
  if (process.connected) process.send?.({ ready: true, ...defined({ url: running.url }) })
  log.info({ url: running.url }, `${name} is ready`)

  const why = await stopAsked.promise
  log.info({ why }, `${name} is stopping`)
  try {
    await running.stop()
  } catch (err) {
    log.error({ err }, 'stop failed')
    exit(1)
  }
  exit(0)
}
