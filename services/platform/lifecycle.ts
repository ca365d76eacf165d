// Birth and death of a process: start once, say so, stop once.  Knows signals, the IPC channel of a
// supervising parent and the time a stop may take; refuses to know what is started.  Nothing here ends
// the process by itself: `exit` is handed in by main.ts, its only owner.
//
// A broken invariant (an exception nobody caught) is a crash on purpose: the queue gives the calls to
// another worker, and a process in an unknown state must not go on.

import { AppError } from '../contract/errors.ts'
import type { Log } from './log.ts'

/** What `start` of a process gives back. */
export interface Running {
  /** Where it serves, told to a supervising parent. */
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

/**
 * One line for people on why process NAME could not start; ends with a newline.  Stacks are for `debug` only.
 */
export function describeStartFailure(name: string, err: unknown): string {
  const reason = err instanceof Error ? err.message : String(err)
  const code = err instanceof AppError ? ` (${err.code})` : ''
  return `wherry ${name}: cannot start: ${reason.replaceAll(/\s*\n\s*/g, ' ')}${code}\n`
}

/**
 * Runs a process until SIGTERM, SIGINT or the loss of its parent's IPC channel. Stops once, within
 * stopTimeoutMs (else exit code 1); a second signal ends it at once with code 1. With an IPC channel it sends
 * `{ ready: true, url }` when it serves. A failed start is one line on stderr and code 1.
 */
export async function runProcess({ name, log, stopTimeoutMs, start, exit }: ProcessOptions): Promise<void> {
  let stopping = false
  const stopAsked = Promise.withResolvers<string>()

  const askToStop = (why: string): void => {
    if (stopping) {
      log.warn({ why }, 'asked to stop a second time: ending at once')
      exit(1)
    }
    stopping = true
    setTimeout(() => {
      log.error({ stopTimeoutMs }, 'the stop took too long: ending with work unfinished')
      exit(1)
    }, stopTimeoutMs).unref()
    stopAsked.resolve(why)
  }
  const crash = (err: unknown): void => {
    log.fatal({ err }, 'an error that nobody expected: ending, the queue gives running calls to others')
    exit(1)
  }

  process.on('SIGTERM', askToStop).on('SIGINT', askToStop)
  process.on('uncaughtException', crash).on('unhandledRejection', crash)
  // The parent died or let go; a later signal must still be able to hurry the stop, so it only counts once.
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
  if (process.connected)
    process.send?.({ ready: true, ...(running.url !== undefined && { url: running.url }) })
  log.info({ url: running.url }, `${name} is ready`)

  const why = await stopAsked.promise
  log.info({ why }, `${name} is stopping`)
  try {
    await running.stop()
  } catch (err) {
    log.error({ err }, 'the stop failed')
    exit(1)
  }
  exit(0)
}
