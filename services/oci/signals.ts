// Signals: their names on the command line, and those that this process passes on to its container.

import { constants } from 'node:os'
import type { ContainerProcess } from '../containers/context.ts'
import type { Context } from './context.ts'
import { OciError } from './failure.ts'

const SIGNAL_MAX = 64

/** "TERM", "SIGTERM", "sigterm" or "15". 0 only checks whether the process exists (kill(2)). */
export function parseSignal(text: string): number {
  const name = text.toUpperCase().replace(/^(?:SIG)?/, 'SIG')
  const number = /^\d{1,2}$/.test(text)
    ? Number(text)
    : Object.entries(constants.signals).find(([known]) => known === name)?.[1]
  if (number === undefined || number < 0 || number > SIGNAL_MAX)
    throw new OciError(`"${text}" is not a signal`)
  return number
}

/**
 * From now on, signals to this process are for a container. The returned function sets the process that gets
 * them, and passes on those that came before.
 */
export function forwardSignals({ world, containers }: Context): (process: ContainerProcess) => void {
  let target: ContainerProcess | undefined
  const early: NodeJS.Signals[] = []
  world.onSignal((signal) => {
    if (target) containers.signal(target, constants.signals[signal])
    else early.push(signal)
  })
  return (process) => {
    target = process
    for (const signal of early.splice(0)) containers.signal(process, constants.signals[signal])
  }
}
