// The state of a stage before an instruction: config and ARGs, and the values and paths that follow from
// them.

import { posix } from 'node:path'
import { closest, quoted } from './build-failure.ts'
import type { BuildConfig } from './build-config.ts'
import { expandWith, type BuildPlan } from './build-plan.ts'
import type { Command, Instruction } from './instructions.ts'
import { splitPair } from './words.ts'

export interface StageState {
  readonly plan: BuildPlan
  readonly index: number
  config: BuildConfig
  /** ENV of the config by name. */
  readonly env: Map<string, string>
  /** ARGs that have a value. */
  readonly args: Map<string, string>
  readonly declaredArgs: Set<string>
  /** ENTRYPOINT clears a CMD of the base image, but not one of this stage. */
  hasCmd: boolean
  /** WORKDIR has been set, here or in a parent stage. */
  hasWorkdir: boolean
}

const DEFAULT_SHELL = ['/bin/sh', '-c']

/** The value of a variable in STATE; ENV overrides ARG. */
export function lookUp(state: StageState, name: string): string | undefined {
  return state.env.get(name) ?? state.args.get(name)
}

/** ENV of a config by name; of duplicates the last counts. */
export function variablesOf(env: readonly string[]): Map<string, string> {
  return new Map(
    env.map((variable) => {
      const { name, value } = splitPair(variable)
      return [name, value ?? '']
    }),
  )
}

/** Warns that NAME, which INSTRUCTION uses, is not set. */
export function warnOfUnset(state: StageState, instruction: Instruction, name: string): void {
  if (state.declaredArgs.has(name)) return
  const { source, location } = instruction
  const isGlobal = state.plan.globalArgs.has(name)
  const text = (): string => {
    const other = closest(name, [...state.env.keys(), ...state.declaredArgs])
    const hint = isGlobal
      ? `; add ARG ${name} to this stage`
      : other === undefined
        ? ''
        : `; did you mean $${other}?`
    return `the variable ${quoted(name)} is not set${hint}`
  }
  state.plan.warn({ source, location, rule: 'UndefinedVar', text })
}

/** TEXT of INSTRUCTION with its variables. */
export function valueIn(state: StageState, instruction: Instruction, text: string): string {
  const value = expandWith(
    instruction,
    text,
    (name) => lookUp(state, name),
    (name) => warnOfUnset(state, instruction, name),
  )
  state.plan.spend(instruction, value.text.length + value.work)
  return value.text
}

/** PATH as an absolute path, relative to the working directory. */
export function absolute(config: BuildConfig, path: string): string {
  const joined = posix.normalize(posix.join('/', posix.isAbsolute(path) ? '/' : config.workingDir, path))
  return joined.length > 1 && joined.endsWith('/') ? joined.slice(0, -1) : joined
}

/** COMMAND as an argument vector. */
export function withShell(config: BuildConfig, command: Command): readonly string[] {
  return command.form === 'exec' ? command.argv : [...(config.shell ?? DEFAULT_SHELL), command.script]
}
