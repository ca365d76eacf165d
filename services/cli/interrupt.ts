// Clean shutdown of a command by Ctrl-C, SIGTERM or SIGHUP: the first signal aborts its work, which cleans
// up; a second one ends the process at once. The listener is removed when the work is over, so that later
// signals have their default action.

import type { Context } from './context.ts'
import { Failure } from './failure.ts'

/**
 * Runs WORK of the command WHAT with a signal that aborts when the process is interrupted. Throws a Failure
 * in that case, even if WORK succeeded.
 */
export async function interruptible<T>(
  what: string,
  { onSignal }: Context,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  const forget = onSignal(() => {
    forget()
    controller.abort(new Failure(what, 'interrupted'))
  })
  try {
    const result = await work(controller.signal)
    controller.signal.throwIfAborted()
    return result
  } catch (err) {
    throw controller.signal.aborted ? new Failure(what, 'interrupted', { cause: err }) : err
  } finally {
    forget()
  }
}
