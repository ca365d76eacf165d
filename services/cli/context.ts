// What a command gets from the process that runs it.  main.ts makes it; commands use nothing global.

import type { ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import type { Readable, Writable } from 'node:stream'

const BY_SIGNAL = 128

export interface Context {
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdin: Readable & { readonly fd?: number; readonly isTTY?: boolean }
  readonly stdout: Writable & { readonly isTTY?: boolean; readonly columns?: number }
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number; readonly rows?: number }
  /** Tells the parent process, when there is one with a channel to us. */
  readonly tellParent: (message: object) => void
  /**
   * LISTENER hears of each SIGINT, SIGTERM and SIGHUP, which then do nothing by themselves, until the
   * returned function is called.
   */
  readonly onSignal: (listener: (signal: NodeJS.Signals) => void) => () => void
  readonly setExitCode: (code: number) => void
}

/**
 * Resolves with how CHILD ended, the way a shell counts it: its code, or 128 and the number of the signal.
 */
export function exitCodeOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => {
      resolve(code ?? BY_SIGNAL + (signal === null ? 0 : constants.signals[signal]))
    })
  })
}
