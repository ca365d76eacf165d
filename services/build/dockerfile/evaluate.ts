// Turns a planned stage into steps: resolves variables, relative paths and names of stages, one instruction
// after the other, because each depends on the changes of those before it. A variable is looked up in ENV
// first and then in ARG (Dockerfile reference, "Using ARG variables").

import { posix } from 'node:path'
import { quoted } from './build-failure.ts'
import { EMPTY_CONFIG } from './build-config.ts'
import { exposedPorts, isSignal } from './config-values.ts'
import { expandWith, fromNames, PROXY_ARGS, resolveFrom, type BuildPlan } from './build-plan.ts'
import { parseTrigger } from './dockerfile.ts'
import { expand } from './expand.ts'
import { filesStep } from './evaluate-files.ts'
import { runStep } from './evaluate-run.ts'
import type {
  ArgInstruction,
  CommandInstruction,
  Instruction,
  ListInstruction,
  PairsInstruction,
  WordInstruction,
} from './instructions.ts'
import {
  absolute,
  lookUp,
  valueIn,
  variablesOf,
  warnOfUnset,
  withShell,
  type StageState,
} from './stage-state.ts'
import type { EvaluatedStage, StageStart, Step } from './steps.ts'

/** FROM scratch. */
export const EMPTY_START: StageStart = { config: EMPTY_CONFIG, args: new Map(), name: 'scratch' }

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const TITLE_CHARACTERS_MAX = 2000
/**
 * Cost of a port or volume each time its list is rebuilt, in characters of a value: it is formatted, and
 * hashed to find duplicates.
 */
const LISTED_COST = 16

/** The instruction for the progress display: one line, with the values of known variables. */
function titleOf(state: StageState, instruction: Instruction): string {
  const line = instruction.text.replaceAll(/\s+/g, ' ')
  const shown = expand(line, {
    lookup: (name) => lookUp(state, name),
    escape: instruction.escape,
    quotes: 'keep',
    keepEscapes: true,
    keepUnset: true,
  })
  const title = 'problem' in shown ? line : shown.text
  return title.length > TITLE_CHARACTERS_MAX ? `${title.slice(0, TITLE_CHARACTERS_MAX)}…` : title
}

function declare(state: StageState, instruction: ArgInstruction): string {
  const {
    options: { buildArgs },
    globalArgs,
  } = state.plan
  const shown: string[] = []
  for (const { name, value } of instruction.args) {
    const given =
      buildArgs.get(name) ?? (value === undefined ? globalArgs.get(name) : valueIn(state, instruction, value))
    state.declaredArgs.add(name)
    if (given !== undefined) state.args.set(name, given)
    shown.push(given === undefined ? name : `${name}=${given}`)
  }
  return `ARG ${shown.join(' ')}`
}

function setPairs(state: StageState, instruction: PairsInstruction): string {
  // All values of one instruction use the variables as they were before it.
  const pairs = instruction.pairs.map(({ name, value }) => ({
    name: valueIn(state, instruction, name),
    value: valueIn(state, instruction, value),
  }))
  for (const { name, value } of pairs) {
    if (name === '' || (instruction.kind === 'env' && name.includes('=')))
      throw instruction.fault(`${quoted(name)} is not a valid name`, { mark: instruction.pairs[0]!.name })
    if (instruction.kind === 'env') state.env.set(name, value)
  }
  if (instruction.kind === 'env')
    state.config = { ...state.config, env: [...state.env].map(([name, value]) => `${name}=${value}`) }
  else
    state.config = {
      ...state.config,
      labels: new Map([...state.config.labels, ...pairs.map(({ name, value }) => [name, value] as const)]),
    }
  state.plan.spend(instruction, instruction.kind === 'env' ? state.env.size : state.config.labels.size)
  return `${instruction.kind.toUpperCase()} ${pairs.map(({ name, value }) => `${name}=${value}`).join(' ')}`
}

function setCommand(state: StageState, instruction: CommandInstruction): string {
  const { kind, command } = instruction
  const argv = withShell(state.config, command)
  if (command.form === 'shell' && state.config.shell === undefined) {
    const { source, location } = instruction
    state.plan.warn({
      source,
      location,
      rule: 'JSONArgsRecommended',
      text: `a shell runs the program, which then gets no signals; write ${kind.toUpperCase()} ["program", "argument"]`,
    })
  }
  if (kind === 'cmd') {
    state.config = { ...state.config, cmd: argv }
    state.hasCmd = true
  } else {
    const { cmd, entrypoint: _, ...others } = state.config
    state.config = {
      ...others,
      ...(argv.length > 0 && { entrypoint: argv }),
      ...(state.hasCmd && cmd !== undefined && { cmd }),
    }
  }
  return `${kind.toUpperCase()} ${JSON.stringify(argv)}`
}

function setWord(state: StageState, instruction: WordInstruction): string {
  const word =
    instruction.kind === 'maintainer' ? instruction.word : valueIn(state, instruction, instruction.word)
  if (instruction.kind === 'maintainer') state.config = { ...state.config, author: word }
  else if (instruction.kind === 'user') state.config = { ...state.config, user: word }
  else if (!isSignal(word))
    throw instruction.fault(`${quoted(word)} is not a signal`, {
      mark: instruction.word,
      hint: 'write SIGTERM, TERM or 15',
    })
  else state.config = { ...state.config, stopSignal: word }
  return `${instruction.kind.toUpperCase()} ${word}`
}

function setWorkdir(state: StageState, instruction: WordInstruction): string {
  const word = valueIn(state, instruction, instruction.word)
  if (word === '')
    throw instruction.fault(`${quoted(instruction.word)} is empty`, {
      mark: instruction.word,
      hint: 'for the root write WORKDIR /',
    })
  if (!posix.isAbsolute(word) && !state.hasWorkdir) {
    const { source, location } = instruction
    state.plan.warn({
      source,
      location,
      rule: 'WorkdirRelativePath',
      text: `${quoted(word)} is relative to the base image’s directory; start with "/"`,
    })
  }
  state.hasWorkdir = true
  state.config = { ...state.config, workingDir: absolute(state.config, word) }
  return state.config.workingDir
}

function setList(state: StageState, instruction: ListInstruction): string {
  if (instruction.kind === 'shell') {
    state.config = { ...state.config, shell: instruction.words }
    return `SHELL ${JSON.stringify(instruction.words)}`
  }
  if (instruction.kind === 'volume') {
    const volumes = instruction.words.map((word) => valueIn(state, instruction, word))
    if (volumes.includes(''))
      throw instruction.fault('VOLUME needs a path', { mark: instruction.words[volumes.indexOf('')]! })
    state.config = { ...state.config, volumes: [...new Set([...state.config.volumes, ...volumes])] }
    state.plan.spend(instruction, LISTED_COST * state.config.volumes.length)
    return `VOLUME ${volumes.join(' ')}`
  }
  const ports = exposedPorts(
    instruction,
    instruction.words.flatMap(
      (word) =>
        expandWith(
          instruction,
          word,
          (name) => lookUp(state, name),
          (name) => warnOfUnset(state, instruction, name),
        ).words,
    ),
    state,
  )
  state.config = { ...state.config, exposedPorts: [...new Set([...state.config.exposedPorts, ...ports])] }
  state.plan.spend(instruction, LISTED_COST * (state.config.exposedPorts.length + ports.length))
  return `EXPOSE ${ports.join(' ')}`
}

/** The history text of INSTRUCTION, which changes only the config of STATE. */
function applyConfig(
  state: StageState,
  instruction: Exclude<Instruction, { kind: 'from' | 'run' | 'copy' | 'add' | 'workdir' }>,
): string {
  switch (instruction.kind) {
    case 'arg':
      return declare(state, instruction)
    case 'env':
    case 'label':
      return setPairs(state, instruction)
    case 'cmd':
    case 'entrypoint':
      return setCommand(state, instruction)
    case 'expose':
    case 'volume':
    case 'shell':
      return setList(state, instruction)
    case 'healthcheck':
      state.config = { ...state.config, healthcheck: instruction.healthcheck }
      return instruction.text
    case 'onbuild':
      state.config = { ...state.config, onbuild: [...state.config.onbuild, instruction.trigger] }
      return instruction.text
    default:
      return setWord(state, instruction)
  }
}

function stepOf(state: StageState, instruction: Instruction, isTrigger: boolean): Step {
  const { source, location, fault } = instruction
  const base = { source, location, fault, isTrigger, title: titleOf(state, instruction) }
  switch (instruction.kind) {
    case 'from':
      throw instruction.fault('FROM is not a step of a stage')
    case 'run':
      return { ...base, config: state.config, ...runStep(state, instruction) }
    case 'copy':
    case 'add':
      return { ...base, config: state.config, ...filesStep(state, instruction) }
    case 'workdir': {
      const path = setWorkdir(state, instruction)
      return {
        ...base,
        kind: 'workdir',
        path,
        user: state.config.user,
        config: state.config,
        createdBy: `WORKDIR ${path}`,
      }
    }
    default: {
      const createdBy = applyConfig(state, instruction)
      return { ...base, kind: 'config', createdBy, config: state.config }
    }
  }
}

/**
 * The steps of stage INDEX of PLAN, based on START (an image's config, the `end` of its parent stage, or
 * EMPTY_START). START's triggers come first. Throws InvalidRequest ERR_INVALID_DOCKERFILE.
 */
export function evaluateStage(plan: BuildPlan, index: number, start: StageStart): EvaluatedStage {
  const { onbuild, ...config } = start.config
  const variables = config.env.some((variable) => variable.startsWith('PATH='))
    ? config.env
    : [...config.env, DEFAULT_PATH]
  const state: StageState = {
    plan,
    index,
    config: { ...config, onbuild: [], env: variables },
    env: variablesOf(variables),
    args: new Map(start.args),
    declaredArgs: new Set(start.args.keys()),
    hasCmd: false,
    hasWorkdir: config.workingDir !== '',
  }
  const triggers = onbuild.map((trigger) => parseTrigger(start.name, trigger, plan.warn))
  const instructions = [...triggers, ...plan.stages[index]!.instructions]
  const steps = instructions.map((instruction, i) => stepOf(state, instruction, i < triggers.length))
  const sources = instructions.flatMap((instruction) =>
    fromNames(instruction).map((name) => resolveFrom(plan.stages, name, index, instruction)),
  )
  return {
    steps,
    warnings: plan.warnings,
    declaredArgs: [...state.declaredArgs],
    end: { config: state.config, args: state.args, name: plan.stages[index]!.title },
    dependencies: [
      ...new Set(sources.flatMap((source) => (source.kind === 'stage' ? source.index : []))),
    ].sort((a, b) => a - b),
  }
}

/** The names of unused --build-args; DECLARED are the ARGs of all evaluated stages. */
export function unusedBuildArgs(plan: BuildPlan, declared: Iterable<string>): string[] {
  const inFile = [
    ...plan.dockerfile.metaArgs,
    ...plan.dockerfile.stages.flatMap((stage) => stage.instructions),
  ]
    .flatMap((instruction) => (instruction.kind === 'onbuild' ? instruction.inner : instruction))
    .flatMap((instruction) => (instruction.kind === 'arg' ? instruction.args.map(({ name }) => name) : []))
  const used = new Set([
    ...inFile,
    ...declared,
    ...plan.globalArgs.keys(),
    ...PROXY_ARGS,
    'SOURCE_DATE_EPOCH',
  ])
  return [...plan.options.buildArgs.keys()].filter((name) => !used.has(name) && !name.startsWith('BUILDKIT_'))
}
