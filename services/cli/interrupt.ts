// A command that ends in order when somebody interrupts it (Ctrl-C, SIGTERM, SIGHUP): its work hears of the
// first signal and cleans up, a second one ends the process at once. Nothing listens any more when the work
// is over: whatever a command does next, or a command that never asked for this, simply ends. Refuses to know
// what the work is.

import type { Context } from './context.ts'
import { Failure } from './failure.ts'

/**
 * Run WORK of the command WHAT, with a signal that is aborted when the process is interrupted. Throws a
 * Failure then, whatever WORK came to.
 */
export async function interruptible<T>(
  what: string,
  { onSignal }: Context,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  const forget = onSignal(() => {
    forget()
    controller.abort(new Failure(what, 'it was interrupted'))
  })
  try {
    const result = await work(controller.signal)
    controller.signal.throwIfAborted()
    return result
  } catch (err) {
    throw controller.signal.aborted ? new Failure(what, 'it was interrupted', { cause: err }) : err
  } finally {
    forget()
  }
}
