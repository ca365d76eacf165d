// How a command fails: a message on stderr and a line in the log file that engines read. containerd and
// podman distinguish failures by words in the message ("does not exist", "not running", "executable file not
// found"), so these words are part of the interface.

import { appendFileSync } from 'node:fs'
import { WrongStatus } from '../containers/errors.ts'
import { SyscallError } from '../contract/errors.ts'

/** A command line that cannot be carried out. */
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
 * Lines go to FILE as JSON or text, in the formats of logrus, which engines parse. Errors also go to stderr,
 * warnings only without a file.
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

/** " (operation not permitted)": podman chooses its exit code by these words. */
function wordsOf(errno: string): string {
  const { getSystemErrorMap } = process.getBuiltinModule('node:util')
  const words = getSystemErrorMap()
    .values()
    .find(([name]) => name === errno)?.[1]
  return words === undefined ? '' : ` (${words})`
}

/** In the words of runc, which say "container not running" where the container must have a process. */
function inRuncWords({ operation, id, status, message }: WrongStatus): string {
  switch (operation) {
    case 'kill':
      return `container not running: "${id}" is ${status}`
    case 'exec':
      return `cannot exec in container "${id}": container not running, it is ${status}`
    case 'update':
      return `cannot update container "${id}": container not running, it is ${status}`
    case 'events':
      return `container "${id}" is not running, it is ${status}`
    default:
      return message
  }
}

/** The message of ERR as one line. */
export function messageOf(err: unknown): string {
  let text = err instanceof Error ? err.message : String(err)
  if (err instanceof SyscallError) text += wordsOf(err.errno)
  if (err instanceof WrongStatus) text = inRuncWords(err)
  return text.replaceAll(/\s*[\r\n]+\s*/g, ' ').trim()
}
