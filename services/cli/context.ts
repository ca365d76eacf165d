// What a command gets from the process that runs it.  main.ts creates it; commands use no globals.

import type { ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import type { Readable, Writable } from 'node:stream'

const BY_SIGNAL = 128

export interface Context {
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdin: Readable & { readonly fd?: number; readonly isTTY?: boolean }
  readonly stdout: Writable & { readonly isTTY?: boolean; readonly columns?: number }
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number; readonly rows?: number }
  /** Sends a message to the parent process, if that has an IPC channel to this one. */
  readonly tellParent: (message: object) => void
  /**
   * Calls LISTENER for each SIGINT, SIGTERM and SIGHUP, instead of their default action, until the returned
   * function is called.
   */
  readonly onSignal: (listener: (signal: NodeJS.Signals) => void) => () => void
  readonly setExitCode: (code: number) => void
}

/**
 * Resolves with CHILD's exit status as a shell reports it: its exit code, or 128 plus the number of the
 * signal.
 */
export function exitCodeOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => {
      resolve(code ?? BY_SIGNAL + (signal === null ? 0 : constants.signals[signal]))
    })
  })
}
