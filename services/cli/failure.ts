// How a command fails: one line "wherry: what: why; what to do" on stderr, invalid fields below it, and an
// exit code.

import { AppError, InvalidRequest, type Fault } from '../contract/errors.ts'

export const EXIT_FAILED = 1
export const EXIT_USAGE = 2

/** Limit of listed faults; a file can have thousands. */
const FAULTS_MAX = 50

export interface FailureFacts {
  /** What to do about it, without a full stop. */
  readonly remedy?: string
  readonly faults?: readonly Fault[]
  readonly exitCode?: number
  readonly cause?: unknown
}

/** A command's own failure: WHAT part ("deploy", "gateway"), WHY, and what to do. */
export class Failure extends Error {
  readonly what: string
  readonly remedy: string | undefined
  readonly faults: readonly Fault[]
  readonly exitCode: number

  constructor(what: string, why: string, facts: FailureFacts = {}) {
    super(why, facts.cause === undefined ? undefined : { cause: facts.cause })
    this.name = 'Failure'
    this.what = what
    this.remedy = facts.remedy
    this.faults = facts.faults ?? []
    this.exitCode = facts.exitCode ?? EXIT_FAILED
  }
}

/** A wrong command line: exit code 2 and a pointer to the help.  COMMAND is "" if it is unknown. */
export function usageFailure(command: string, why: string): Failure {
  return new Failure(command || 'usage', why, {
    exitCode: EXIT_USAGE,
    remedy: `see wherry ${command} --help`.replace('  ', ' '),
  })
}

/** ERR, thrown by COMMAND, as a Failure. */
export function failureOf(command: string, err: unknown): Failure {
  if (err instanceof Failure) return err
  if (err instanceof InvalidRequest)
    return new Failure(command, 'invalid input', { faults: err.faults, cause: err })
  if (err instanceof AppError) return new Failure(command, `${err.message} (${err.code})`, { cause: err })
  return new Failure(command, err instanceof Error ? err.message : String(err), { cause: err })
}

const oneLine = (text: string): string => text.replaceAll(/\s*[\r\n]+\s*/g, ' ').trim()

/** The text for stderr; ends with a newline. */
export function describeFailure(failure: Failure): string {
  const head = `wherry: ${failure.what}: ${oneLine(failure.message)}${failure.remedy === undefined ? '' : `; ${failure.remedy}`}`
  const faults = failure.faults
    .slice(0, FAULTS_MAX)
    .map(
      (f) =>
        `  ${f.path === '' ? '' : `${f.path}: `}${oneLine(f.problem)}${f.excerpt === undefined ? '' : `\n\n${f.excerpt}\n`}`,
    )
  const more = failure.faults.length - faults.length
  return [head, ...faults, ...(more > 0 ? [`  … and ${more} more`] : [])].join('\n') + '\n'
}
