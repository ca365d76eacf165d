// A command of the command line as a value: its options, arguments, help and function.

import type { Flag, Given } from './command-line.ts'
import type { Context } from './context.ts'

export interface CommandContext {
  readonly context: Context
  readonly given: Given
}

export interface Command {
  readonly name: string
  readonly args: string
  readonly about: string
  /** Examples of what may follow its name. */
  readonly examples: readonly string[]
  readonly flags: readonly Flag[]
  /** Number of arguments. */
  readonly count: readonly [min: number, max: number]
  /** Exit code of a failure; default 1. */
  readonly failed?: number
  readonly run: (command: CommandContext) => number | void | Promise<number | void>
}

/** VALUE as the commands print it. */
export const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`
