// Which stages a build needs and what each is based on: global ARGs, FROM's variables and platforms, names of
// stages, the target (Dockerfile reference, "Understand how ARG and FROM interact", "Multi-stage builds").
// Stages refer only to earlier stages, so there are no cycles.

import { parseReference } from '../../registry/reference.ts'
import { InvalidRequest } from '../../contract/errors.ts'
import type { Platform } from '../../contract/image.ts'
import { closest, didYouMean, quoted, type BuildWarning, type FaultFacts } from './build-failure.ts'
import { createWarnings, type Dockerfile, type Stage } from './dockerfile.ts'
import { expand, type Expanded } from './expand.ts'
import type { Instruction, Warn } from './instructions.ts'
import { formatPlatform, parsePlatform } from './platform.ts'

export interface PlanOptions {
  /** --target: a stage's name or number; by default the last stage. */
  readonly target?: string
  readonly buildArgs: ReadonlyMap<string, string>
  /** Platforms of the image and of this machine. */
  readonly platform: Platform
  readonly buildPlatform: Platform
}

/** The base of a stage, or the source of COPY --from. */
export type StageSource =
  | { readonly kind: 'scratch' }
  | { readonly kind: 'stage'; readonly index: number }
  | { readonly kind: 'image'; readonly reference: string }

export interface PlannedStage extends Stage {
  /** "builder", or "stage-1" without a name. */
  readonly title: string
  readonly base: StageSource
  readonly platform: Platform
  /** The numbers of the stages that it needs according to the file; triggers of a base image can add more. */
  readonly dependencies: readonly number[]
}

export interface BuildPlan {
  readonly dockerfile: Dockerfile
  readonly options: PlanOptions
  /** Default values for ARGs of stages. */
  readonly globalArgs: ReadonlyMap<string, string>
  readonly stages: readonly PlannedStage[]
  readonly target: number
  /** The numbers of the stages that the target needs, ending with its own. */
  readonly needed: readonly number[]
  /** Warnings of the file, the plan, and the stages that have been evaluated. */
  readonly warnings: readonly BuildWarning[]
  readonly warn: Warn
  /**
   * Counts the config entries and characters that INSTRUCTION adds. Throws a fault if the file exceeds its
   * limit.
   */
  readonly spend: (instruction: Faulty, amount: number) => void
}

/** A few lines can double a value repeatedly, and every step keeps a copy of the config. */
const SPENDING_MAX = 32 * 1024 * 1024

/**
 * Allowed as --build-arg without an ARG. RUN gets them; caches and history do not (reference, "Predefined
 * ARGs").
 */
export const PROXY_ARGS = ['HTTP_PROXY', 'HTTPS_PROXY', 'FTP_PROXY', 'NO_PROXY', 'ALL_PROXY'].flatMap(
  (name) => [name, name.toLowerCase()],
)

interface Faulty {
  fault(problem: string, facts?: FaultFacts): Error
}

/** TEXT of INSTRUCTION with the variables of VALUES; unset ones are empty and give a warning. */
export function expandWith(
  instruction: Instruction,
  text: string,
  values: (name: string) => string | undefined,
  unset: (name: string) => void,
): Expanded {
  const result = expand(text, { lookup: values, escape: instruction.escape })
  if ('problem' in result)
    throw instruction.fault(`${quoted(text)} cannot be expanded: ${result.problem}`, { mark: text })
  for (const name of result.missing) unset(name)
  return result
}

function platformArgs({
  options,
  stages,
}: {
  options: PlanOptions
  stages: readonly Stage[]
}): Map<string, string> {
  const { platform: target, buildPlatform: build, buildArgs } = options
  const values = {
    BUILDPLATFORM: formatPlatform(build),
    BUILDOS: build.os,
    BUILDARCH: build.architecture,
    BUILDVARIANT: build.variant ?? '',
    TARGETPLATFORM: formatPlatform(target),
    TARGETOS: target.os,
    TARGETARCH: target.architecture,
    TARGETVARIANT: target.variant ?? '',
    TARGETSTAGE: options.target || (stages.at(-1)!.from.stageName ?? 'default'),
  }
  return new Map(Object.entries(values).map(([name, value]) => [name, buildArgs.get(name) ?? value]))
}

function globalArgsOf(dockerfile: Dockerfile, options: PlanOptions): Map<string, string> {
  const values = platformArgs({ options, stages: dockerfile.stages })
  for (const instruction of dockerfile.metaArgs) {
    for (const { name, value } of instruction.args) {
      const given =
        options.buildArgs.get(name) ??
        (value === undefined
          ? undefined
          : expandWith(
              instruction,
              value,
              (other) => values.get(other),
              () => {},
            ).text)
      if (given !== undefined) values.set(name, given)
    }
  }
  return values
}

/** "did you mean the stage X?", for an image NAME that could not be pulled. */
export function stageMeant(stages: readonly Stage[], name: string): string | undefined {
  if (stages.some(({ from }) => from.stageName === name.toLowerCase()))
    return `the stage ${name} comes later; a stage can only use stages above it`
  const other = closest(
    name,
    stages.flatMap((stage) => stage.from.stageName ?? []),
  )
  return other === undefined ? undefined : `did you mean the stage ${other}?`
}

/** NAME as an image reference, for INSTRUCTION.  Only its syntax is checked. */
function imageSource(
  stages: readonly Stage[],
  name: string,
  instruction: Faulty,
  facts: FaultFacts = {},
): StageSource {
  try {
    parseReference(name)
  } catch (err) {
    if (!(err instanceof InvalidRequest)) throw err
    throw instruction.fault(err.faults[0]!.problem, { mark: name, hint: stageMeant(stages, name), ...facts })
  }
  return { kind: 'image', reference: name }
}

/** The latest stage of that name before BEFORE. */
function stageNamed(stages: readonly Stage[], name: string, before: number): Stage | undefined {
  return stages.findLast(({ index, from }) => index < before && from.stageName === name.toLowerCase())
}

/** The source NAME of a "from" of INSTRUCTION in stage INDEX: a stage's name or number, or an image. */
export function resolveFrom(
  stages: readonly Stage[],
  name: string,
  index: number,
  instruction: Faulty,
): StageSource {
  if (name.toLowerCase() === 'scratch') return { kind: 'scratch' }
  const named = stageNamed(stages, name, index)
  if (named !== undefined) return { kind: 'stage', index: named.index }
  const later = /^\d{1,9}$/.test(name)
    ? Number(name)
    : stages.find(({ from }) => from.stageName === name.toLowerCase())?.index
  if (later === undefined) return imageSource(stages, name, instruction)
  if (later >= stages.length)
    throw instruction.fault(`there is no stage ${name}`, {
      mark: name,
      hint: `the stages are 0 to ${stages.length - 1}`,
    })
  if (later === index)
    throw instruction.fault(`the stage ${quoted(name)} cannot copy from itself`, { mark: name })
  if (later > index)
    throw instruction.fault(`the stage ${quoted(name)} comes later`, {
      mark: name,
      hint: 'a stage can only use stages above it; move it up',
    })
  return { kind: 'stage', index: later }
}

/** The names in --from and --mount=from of INSTRUCTION. */
export function fromNames(instruction: Instruction): string[] {
  if (instruction.kind === 'copy' || instruction.kind === 'add')
    return instruction.from === undefined ? [] : [instruction.from]
  if (instruction.kind === 'run') return instruction.mounts.flatMap(({ from }) => from ?? [])
  return []
}

/** The base NAME of FROM, after expansion; the variables UNSET have no value. */
function baseOf(
  stages: readonly Stage[],
  stage: Stage,
  name: string,
  { warn, unset }: { warn: Warn; unset: readonly string[] },
): StageSource {
  if (name === 'scratch') return { kind: 'scratch' }
  const named = stageNamed(stages, name, stage.index)
  if (named !== undefined) return { kind: 'stage', index: named.index }
  const { source, location } = stage.from
  const later = stages.find(({ index, from }) => index > stage.index && from.stageName === name.toLowerCase())
  if (later !== undefined) {
    warn({
      source,
      location,
      rule: 'StageComesLater',
      text: `the stage ${quoted(name)} comes later, in line ${later.from.location.line}; FROM here means an image of that name`,
    })
  }
  return imageSource(
    stages,
    name,
    stage.from,
    unset.length === 0
      ? {}
      : {
          mark: stage.from.base,
          hint: `${quoted(unset[0]!)} is not set; no ARG before the first FROM declares it`,
        },
  )
}

function planStage(
  dockerfile: Dockerfile,
  stage: Stage,
  platforms: ReadonlyArray<PlannedStage>,
  context: { globalArgs: ReadonlyMap<string, string>; options: PlanOptions; warn: Warn },
): PlannedStage {
  const { from, index } = stage
  const { globalArgs, warn } = context
  const unset: string[] = []
  const warnOfUnset = (name: string): void => {
    unset.push(name)
    const text = (): string =>
      [
        `FROM uses ${quoted(name)}, which no ARG before the first FROM declares`,
        didYouMean(name, globalArgs.keys()) ?? [],
      ]
        .flat()
        .join('; ')
    warn({ source: from.source, location: from.location, rule: 'UndefinedArgInFrom', text })
  }
  const name = expandWith(from, from.base, (other) => globalArgs.get(other), warnOfUnset).text
  if (name === '')
    throw from.fault(`${quoted(from.base)} is empty`, {
      mark: from.base,
      hint: 'give its ARG before the first FROM a value, or use --build-arg',
    })
  const base = baseOf(dockerfile.stages, stage, name, { warn, unset })
  const platformText =
    from.platform === undefined
      ? undefined
      : expandWith(from, from.platform, (other) => globalArgs.get(other), warnOfUnset).text
  const platform =
    platformText === undefined
      ? base.kind === 'stage'
        ? platforms[base.index]!.platform
        : context.options.platform
      : parsePlatform(platformText)
  if (platform === undefined)
    throw from.fault(`${quoted(platformText!)} is not a valid platform`, {
      mark: from.platform,
      hint: 'examples: linux/amd64, linux/arm64',
    })
  // A child stage also depends on the stages that its parent's ONBUILD uses.
  const inherited =
    base.kind === 'stage'
      ? dockerfile.stages[base.index]!.instructions.flatMap((instruction) =>
          instruction.kind === 'onbuild' ? instruction.inner : [],
        )
      : []
  const sources = [...inherited, ...stage.instructions].flatMap((instruction) =>
    fromNames(instruction).map((other) => resolveFrom(dockerfile.stages, other, index, instruction)),
  )
  const dependencies = [base, ...sources].flatMap((source) => (source.kind === 'stage' ? source.index : []))
  return {
    ...stage,
    title: from.stageName ?? `stage-${index}`,
    base,
    platform,
    dependencies: [...new Set(dependencies)].sort((a, b) => a - b),
  }
}

function targetOf(dockerfile: Dockerfile, target: string | undefined): number {
  const { stages, source } = dockerfile
  if (target === undefined || target === '') return stages.length - 1
  const named = stageNamed(stages, target, stages.length)
  if (named !== undefined) return named.index
  const number = /^\d{1,9}$/.test(target) ? Number(target) : stages.length
  if (number < stages.length) return number
  const names = stages.flatMap((stage) => stage.from.stageName ?? [])
  throw new InvalidRequest(
    [
      {
        path: 'target',
        problem: `${source.name} has no stage ${quoted(target)}; ${didYouMean(target, names) ?? (names.length === 0 ? 'its stages have no names' : `its stages are ${names.slice(0, 20).join(', ')}`)}`,
      },
    ],
    'ERR_INVALID_DOCKERFILE',
  )
}

function reachable(stages: readonly PlannedStage[], target: number): number[] {
  const needed = new Set([target])
  // Dependencies have smaller numbers, so one pass downwards reaches all of them.
  for (let index = target; index >= 0; index--) {
    if (needed.has(index)) for (const other of stages[index]!.dependencies) needed.add(other)
  }
  return [...needed].sort((a, b) => a - b)
}

/**
 * Plans the stages of DOCKERFILE with OPTIONS. Throws InvalidRequest
 * ERR_INVALID_DOCKERFILE.
 */
export function planBuild(dockerfile: Dockerfile, options: PlanOptions): BuildPlan {
  const { warn, warnings } = createWarnings(dockerfile.directives, dockerfile.warnings)
  const globalArgs = globalArgsOf(dockerfile, options)
  const stages: PlannedStage[] = []
  for (const stage of dockerfile.stages)
    stages.push(planStage(dockerfile, stage, stages, { globalArgs, options, warn }))
  const target = targetOf(dockerfile, options.target)
  let spent = 0
  const spend = (instruction: Faulty, amount: number): void => {
    spent += amount
    if (spent > SPENDING_MAX)
      throw instruction.fault('the variables, labels and ports of this file are too many or too long')
  }
  return {
    dockerfile,
    options,
    globalArgs,
    stages,
    target,
    needed: reachable(stages, target),
    warnings,
    warn,
    spend,
  }
}
