// One logger for every process: pino's JSON lines on stderr.  Knows how lines leave the process and
// that a stuck reader of stderr must cost lines, not memory or time; knows no product words.
// JSON encoding is also what keeps forged or coloured text from user code inside its own line.

import { pino } from 'pino'

export type Log = pino.Logger

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = typeof LOG_LEVELS[number]

const STDERR = 2
/** What may wait for a slow reader of stderr before lines are dropped. */
const PENDING_MAX_BYTES = 4 * 1024 ** 2

/**
 * A logger for the process NAME that writes lines of LEVEL and above.
 * Writing never blocks the event loop; pino flushes what is left when the process exits.
 */
export function createLog ({ name, level }: { name: string, level: LogLevel }): Log {
  const destination = pino.destination({ dest: STDERR, sync: false, maxLength: PENDING_MAX_BYTES })
  return pino({ name, level }, destination)
}
