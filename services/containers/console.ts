// The outer end of a process's terminal. wherry-init sends it over a socket, either to the listener of a
// console socket or to this process, whose caller keeps it.

import { closeSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import type { Native } from '../runtime/native.ts'

/** Where the outer end goes: to the unix socket at a path, or to the caller. */
export type ConsoleTarget = { readonly socketPath: string } | 'keep' | undefined

export interface Console {
  /** The socket for the container's side; -1 without a terminal. */
  readonly fd: number
  /**
   * The kept descriptor, undefined if there is none. To be called when the process has reported: its terminal
   * was sent before that, so receiving never blocks.
   */
  take(): number | undefined
  /** Close all ends that are still open here. */
  release(): void
}

export function openConsole(native: Native, target: ConsoleTarget): Console {
  if (target === undefined) return { fd: -1, take: () => undefined, release() {} }
  const open = new Set<number>()
  const close = (fd: number): void => {
    if (open.delete(fd)) closeSync(fd)
  }
  const release = (): void => {
    for (const fd of open) close(fd)
  }
  if (target !== 'keep') {
    const fd = native.connect(dirname(target.socketPath), basename(target.socketPath))
    open.add(fd)
    return { fd, take: () => undefined, release }
  }
  const [ours, theirs] = native.socketPair()
  open.add(ours).add(theirs)
  return {
    fd: theirs,
    take() {
      close(theirs) // without a sender the receiver gets an error
      const terminal = native.receiveDescriptor(ours)
      close(ours)
      return terminal
    },
    release,
  }
}
