// Waiting for a process by its pidfd, in Node's own event loop.

import { constants } from 'node:os'
import type { Native } from '../runtime/native.ts'

const BY_SIGNAL = 128

/**
 * From now on signals to us are for a container; the function returned says where it is, and passes on what
 * came before.
 */
export function forwardSignals(
  native: () => Native,
  onSignal: (listener: (signal: NodeJS.Signals) => void) => void,
): (pidfd: number) => void {
  let pidfd = -1
  const early: NodeJS.Signals[] = []
  const pass = (signal: NodeJS.Signals): void => {
    native().kill(pidfd, constants.signals[signal])
  }
  onSignal((signal) => {
    if (pidfd < 0) early.push(signal)
    else pass(signal)
  })
  return (target) => {
    pidfd = target
    early.splice(0).forEach(pass)
  }
}

/** Resolves with the exit code of the process behind PIDFD, 128 + number for a signal. */
export function waitForProcess(native: Native, pidfd: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const stop = native.onReadable(pidfd, () => {
      try {
        const exit = native.wait(pidfd)
        if (!exit) return
        stop()
        resolve(exit.exitCode ?? BY_SIGNAL + exit.signal)
      } catch (err) {
        stop()
        reject(err)
      }
    })
  })
}
