// How a command fails: text on stderr, and a line in the log file that engines read.  containerd and podman
// tell failures apart by words in the message ("does not exist", "not running", "executable file not found"),
// so those words are part of the interface.

import { appendFileSync } from 'node:fs'
import { SyscallError } from '../contract/errors.ts'

/** A command that cannot be done as asked. */
export class OciError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'OciError'
  }
}

export interface CommandLog {
  warn(message: string): void
  error(message: string): void
}

/**
 * Lines go to FILE as JSON or text (logrus's forms, which engines parse); warnings without a file go nowhere
 * but stderr.
 */
export function createCommandLog({
  file,
  format,
  stderr,
}: {
  file: string | undefined
  format: 'text' | 'json'
  stderr: (text: string) => void
}): CommandLog {
  function line(level: 'warning' | 'error', msg: string): string {
    const time = new Date().toISOString()
    return format === 'json'
      ? JSON.stringify({ level, msg, time })
      : `time=${JSON.stringify(time)} level=${level} msg=${JSON.stringify(msg)}`
  }
  const note = (level: 'warning' | 'error', message: string): void => {
    if (file !== undefined) appendFileSync(file, `${line(level, message)}\n`, { mode: 0o600 })
  }
  return {
    warn(message) {
      note('warning', message)
      if (file === undefined) stderr(`wherry-oci: warning: ${message}\n`)
    },
    error(message) {
      note('error', message)
      stderr(`wherry-oci: ${message}\n`)
    },
  }
}

/** "operation not permitted": podman chooses its exit code by such words. */
function wordsOf(errno: string): string {
  const { getSystemErrorMap } = process.getBuiltinModule('node:util')
  const words = getSystemErrorMap()
    .values()
    .find(([name]) => name === errno)?.[1]
  return words === undefined ? '' : ` (${words})`
}

/** One line, whatever was thrown. */
export function messageOf(err: unknown): string {
  const text =
    err instanceof SyscallError
      ? `${err.message}${wordsOf(err.errno)}`
      : err instanceof Error
        ? err.message
        : String(err)
  return text.replaceAll(/\s*[\r\n]+\s*/g, ' ').trim()
}
