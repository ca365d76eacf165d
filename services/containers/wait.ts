// Waiting for a process through its pidfd in Node's event loop.

import type { Native } from '../runtime/native.ts'

/** Shells report a process that signal N killed as 128 + N. */
const BY_SIGNAL = 128

/** Resolves with the exit code of the process of PIDFD, 128 + number for a signal. */
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
