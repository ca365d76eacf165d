// Parses a Dockerfile into stages; the entry point of the syntactic half. Checks the order of instructions
// and warns of bad style. Variables have no values yet.

import { InvalidRequest } from '../../contract/errors.ts'
import { dockerfileFault, quoted, type BuildWarning, type SourceFile } from './build-failure.ts'
import {
  parseInstruction,
  type ArgInstruction,
  type FromInstruction,
  type Instruction,
  type Warn,
} from './instructions.ts'
import { createLineReader, type Directives } from './lines.ts'
import { parseNode } from './nodes.ts'

export interface Stage {
  readonly index: number
  readonly from: FromInstruction
  /** Without the FROM. */
  readonly instructions: readonly Instruction[]
}

export interface Dockerfile {
  readonly source: SourceFile
  readonly directives: Directives
  /** ARGs before the first FROM. */
  readonly metaArgs: readonly ArgInstruction[]
  readonly stages: readonly Stage[]
  readonly warnings: readonly BuildWarning[]
}

const INSTRUCTIONS_MAX = 2000
export const STAGES_MAX = 256
/** Names of the supported frontend; the directive has no effect. */
const DOCKERS_FRONTEND = /^(?:docker\.io\/)?docker\/dockerfile(?:-upstream)?(?:[:@]|$)/
/** Further warnings are dropped. */
const WARNINGS_MAX = 200

/**
 * Collects warnings after those of BEFORE, as the file's `check` directive says: it can skip rules, or turn
 * warnings into errors.
 */
export function createWarnings(
  directives: Directives,
  before: readonly BuildWarning[] = [],
): { warn: Warn; warnings: readonly BuildWarning[] } {
  const warnings = [...before]
  return {
    warnings,
    warn(warning) {
      if (directives.skippedRules === 'all' || directives.skippedRules.includes(warning.rule)) return
      if (warnings.length >= WARNINGS_MAX) return
      const text = typeof warning.text === 'string' ? warning.text : warning.text()
      if (directives.warningsAreErrors)
        throw dockerfileFault(warning, `${text} (${warning.rule})`, {
          hint: 'the file has the directive "check=error=true"',
        })
      warnings.push({ ...warning, text })
    },
  }
}

function warnOfStages(stages: readonly Stage[], warn: Warn): void {
  const names = new Set<string>()
  for (const {
    from: { stageName, source, location },
  } of stages) {
    if (stageName === undefined) continue
    if (names.has(stageName))
      warn({
        source,
        location,
        rule: 'DuplicateStageName',
        text: `the stage ${quoted(stageName)} already exists; the name refers to this one from here on`,
      })
    if (stageName === 'scratch' || stageName === 'context')
      warn({
        source,
        location,
        rule: 'ReservedStageName',
        text: `${quoted(stageName)} is a reserved name`,
      })
    names.add(stageName)
  }
}

/** Only the last one in a stage has an effect. */
function warnOfRepeats(stage: Stage, warn: Warn): void {
  for (const kind of ['cmd', 'entrypoint', 'healthcheck']) {
    const all = stage.instructions.filter((instruction) => instruction.kind === kind)
    for (const { source, location } of all.slice(0, -1)) {
      warn({
        source,
        location,
        rule: 'MultipleInstructionsDisallowed',
        text: `only the last ${kind.toUpperCase()} of a stage has an effect; this one has none`,
      })
    }
  }
}

/**
 * Parses CONTENT as a Dockerfile, whose name in messages is NAME.
 * Throws InvalidRequest ERR_INVALID_DOCKERFILE for the first thing that is wrong.
 */
export function parseDockerfile(name: string, content: string | Uint8Array): Dockerfile {
  const reader = createLineReader(name, content)
  const { source, directives } = reader
  const { warn, warnings } = createWarnings(directives)
  const metaArgs: ArgInstruction[] = []
  const stages: Array<Stage & { instructions: Instruction[] }> = []
  let count = 0
  for (let line = reader.next(); line !== undefined; line = reader.next()) {
    if (++count > INSTRUCTIONS_MAX)
      throw dockerfileFault(
        { source, location: line.location },
        `there are more than ${INSTRUCTIONS_MAX} instructions`,
      )
    const instruction = parseInstruction(reader, parseNode(reader, line), warn)
    const stage = stages.at(-1)
    if (instruction.kind === 'from')
      stages.push({ index: stages.length, from: instruction, instructions: [] })
    else if (stage !== undefined) stage.instructions.push(instruction)
    else if (instruction.kind === 'arg') metaArgs.push(instruction)
    else
      throw instruction.fault('this instruction is before the first FROM', {
        hint: 'only ARG is allowed before FROM',
      })
    if (stages.length > STAGES_MAX) throw instruction.fault(`there are more than ${STAGES_MAX} stages`)
  }
  if (count === 0)
    throw new InvalidRequest(
      [{ path: name, problem: 'has no instructions; start with FROM' }],
      'ERR_INVALID_DOCKERFILE',
    )
  if (stages.length === 0)
    throw metaArgs
      .at(-1)!
      .fault('there is no FROM', { hint: 'name the base image after the ARGs, or write FROM scratch' })
  if (directives.syntax !== undefined && !DOCKERS_FRONTEND.test(directives.syntax))
    warn({
      source,
      location: { line: 1, endLine: 1 },
      rule: 'SyntaxIgnored',
      text: `the frontend ${quoted(directives.syntax)} is not loaded; wherry parses the file itself`,
    })
  for (const warning of reader.warnings) warn(warning)
  warnOfStages(stages, warn)
  for (const stage of stages) warnOfRepeats(stage, warn)
  return { source, directives, metaArgs, stages, warnings }
}

/**
 * Parses TRIGGER, an ONBUILD of an image, into the instruction that a child stage runs first; IMAGE is the
 * name for messages. Throws InvalidRequest ERR_INVALID_DOCKERFILE.
 */
export function parseTrigger(image: string, trigger: string, warn: Warn): Instruction {
  const reader = createLineReader(`ONBUILD of ${image}`, trigger)
  const line = reader.next()
  if (line === undefined)
    throw new InvalidRequest(
      [{ path: reader.source.name, problem: 'the trigger is empty' }],
      'ERR_INVALID_DOCKERFILE',
    )
  const instruction = parseInstruction(reader, parseNode(reader, line), warn)
  if (instruction.kind === 'from' || instruction.kind === 'onbuild' || instruction.kind === 'maintainer')
    throw instruction.fault(`${instruction.kind.toUpperCase()} cannot be a trigger`)
  const second = reader.next()
  if (second !== undefined)
    throw dockerfileFault(
      { source: reader.source, location: second.location },
      'a trigger must be one instruction',
    )
  return instruction
}
