// Builds the stages of a plan on request: the base of each, its steps, and the image config and history that
// result.

import { ContentError, RegistryError, StartError, SyscallError } from '../contract/errors.ts'
import type { Platform } from '../contract/image.ts'
import type { Base, Bases, HistoryEntry, StageLayer } from './base.ts'
import type { BuildShared } from './build-context.ts'
import { excerpt, type Place } from './dockerfile/build-failure.ts'
import { stageMeant, type BuildPlan, type PlannedStage, type StageSource } from './dockerfile/build-plan.ts'
import { EMPTY_START, evaluateStage } from './dockerfile/evaluate.ts'
import { formatPlatform } from './dockerfile/platform.ts'
import { LAYERS_MAX as RUNTIME_LAYERS_MAX } from '../runtime/check.ts'
import { createTail, type Progress } from './progress.ts'
import { StepFailed } from './run-container.ts'
import { performCopy, performWorkdir, type PerformedStep } from './step-copy.ts'
import { performRun } from './step-run.ts'
import type { StageStart, Step } from './dockerfile/steps.ts'

export interface BuiltStage {
  readonly layers: readonly StageLayer[]
  readonly history: readonly HistoryEntry[]
  readonly end: StageStart
  readonly declaredArgs: readonly string[]
  readonly platform: Platform
  /** Time of its newest layer; ISO 8601. */
  readonly createdAt: string
  /** "registry/repository" that has the layers of its base. */
  readonly source: string | undefined
}

/** A step or a FROM failed: its place in the Dockerfile, its last output, and the reason (`cause`). */
export class BuildStepFailed extends Error {
  /** "Dockerfile:3" */
  readonly path: string
  readonly excerpt: string
  readonly output: readonly string[]

  constructor(place: Place, output: readonly string[], cause: Error) {
    super(cause.message, { cause })
    this.name = 'BuildStepFailed'
    this.path = `${place.source.name}:${place.location.line}`
    this.excerpt = excerpt(place)
    this.output = output
  }
}

/** RUN adds a folder with mount points below the layers, so one fewer than the runtime can stack. */
const LAYERS_MAX = RUNTIME_LAYERS_MAX - 1
const COMMENT = 'wherry'
const EPOCH = new Date(0).toISOString()

type LayerStep = Exclude<Step, { kind: 'config' }>

export interface StagesDeps {
  readonly plan: BuildPlan
  readonly bases: Bases
  readonly shared: Omit<BuildShared, 'layersOf'>
  readonly progress: Progress
}

export function createStages({ plan, bases, shared: parts, progress }: StagesDeps) {
  const built = new Map<number, Promise<BuiltStage>>()
  const images = new Map<string, Promise<Base>>()

  function imageOf(reference: string, platform: Platform, title: string): Promise<Base> {
    const key = `${reference} ${formatPlatform(platform)}`
    const known = images.get(key)
    if (known) return known
    const found = progress.follow(title, async () => ({
      ...(await findImage(reference, platform)),
      isCached: false,
    }))
    images.set(key, found)
    return found
  }

  /** The image REFERENCE. If it could not be pulled, the error suggests a stage with a similar name. */
  async function findImage(reference: string, platform: Platform): Promise<Base> {
    try {
      return await bases.find(reference, platform)
    } catch (err) {
      const hint = stageMeant(plan.stages, reference)
      if (!(err instanceof RegistryError) || hint === undefined) throw err
      throw new RegistryError(`${err.message}; ${hint}`, {
        registryCode: err.registryCode,
        retryable: err.retryable,
        cause: err,
      })
    }
  }

  /** The layers of SOURCE for PLATFORM, and its name for messages. */
  async function layersOf(
    source: StageSource,
    platform: Platform,
  ): Promise<{ layers: readonly StageLayer[]; name: string }> {
    if (source.kind === 'scratch') return { layers: [], name: 'scratch' }
    if (source.kind === 'stage')
      return {
        layers: (await stage(source.index)).layers,
        name: `the stage ${plan.stages[source.index]!.title}`,
      }
    const image = await imageOf(source.reference, platform, `FROM ${source.reference}`)
    return { layers: image.layers, name: source.reference }
  }

  /** The base of STAGE, in the form of a built stage. */
  async function begin(stage: PlannedStage, title: string): Promise<Omit<BuiltStage, 'declaredArgs'>> {
    const { base, platform } = stage
    if (base.kind === 'stage') return await stageOf(base.index)
    if (base.kind === 'scratch')
      return { layers: [], history: [], end: EMPTY_START, platform, createdAt: EPOCH, source: undefined }
    const image = await imageOf(base.reference, platform, title).catch((err: unknown) => {
      throw placed(stage.from, [], err)
    })
    return {
      layers: image.layers,
      history: image.history,
      platform,
      source: image.source,
      createdAt: image.created ?? EPOCH,
      end: { config: image.config, args: new Map(), name: base.reference },
    }
  }

  async function performStep(
    step: LayerStep,
    platform: Platform,
    diffIds: readonly string[],
    onOutput: (bytes: Buffer) => void,
  ): Promise<PerformedStep> {
    const shared: BuildShared = { ...parts, layersOf: (source) => layersOf(source, platform) }
    if (step.kind === 'workdir') return await performWorkdir(shared, step, { diffIds, onOutput })
    if (step.kind !== 'run') return await performCopy(shared, step, { diffIds, onOutput })
    const here = plan.options.buildPlatform
    if (platform.architecture !== here.architecture) {
      throw step.fault(
        `programs for ${formatPlatform(platform)} cannot run on this machine, which is ${formatPlatform(here)}`,
        { mark: 'RUN', hint: 'only stages without RUN can be built for other platforms' },
      )
    }
    return await performRun(shared, step, { diffIds, onOutput })
  }

  /** ERR with PLACE, if it is one that the user can fix there; the signal's reason if it is aborted. */
  function placed(place: Place, output: readonly string[], err: unknown): unknown {
    if (parts.signal.aborted) return parts.signal.reason
    const isPlaced =
      err instanceof StepFailed ||
      err instanceof ContentError ||
      err instanceof RegistryError ||
      err instanceof SyscallError
    return isPlaced ? new BuildStepFailed(place, output, err) : err
  }

  /** As `performStep`, but errors have their place in the Dockerfile. */
  async function performPlaced(
    step: LayerStep,
    platform: Platform,
    diffIds: readonly string[],
    onOutput: (bytes: Buffer) => void,
  ): Promise<PerformedStep> {
    const tail = createTail()
    try {
      if (diffIds.length >= LAYERS_MAX)
        throw step.fault(`this would be layer ${diffIds.length + 1}; an image can have ${LAYERS_MAX}`, {
          hint: 'combine several RUN into one',
        })
      return await performStep(step, platform, diffIds, (bytes) => {
        tail.add(bytes)
        onOutput(bytes)
      })
    } catch (err) {
      if (err instanceof StartError && !parts.signal.aborted) throw step.fault(err.message)
      throw placed(step, tail.lines(), err)
    }
  }

  async function buildStage(index: number): Promise<BuiltStage> {
    const planned = plan.stages[index]!
    const label = plan.stages.length > 1 || planned.from.stageName !== undefined ? `${planned.title} ` : ''
    const base = await begin(
      planned,
      `[${label}base] FROM ${planned.base.kind === 'image' ? planned.base.reference : planned.base.kind}`,
    )
    const { steps, end, dependencies, declaredArgs } = evaluateStage(plan, index, base.end)
    for (const other of dependencies) await stageOf(other)
    const layers = [...base.layers]
    const history = [...base.history]
    let { createdAt } = base
    const total = steps.filter((step) => step.kind !== 'config').length
    let number = 0
    for (const step of steps) {
      const entry = { created_by: step.createdBy, comment: COMMENT }
      if (step.kind === 'config') {
        history.push({ created: createdAt, ...entry, empty_layer: true })
        continue
      }
      const title = `[${label}${++number}/${total}] ${step.title}`
      const { layer } = await progress.follow(title, (onOutput) =>
        performPlaced(
          step,
          base.platform,
          layers.map(({ diffId }) => diffId),
          onOutput,
        ),
      )
      if (layer) {
        layers.push(layer)
        createdAt = layer.createdAt
      }
      history.push({ created: createdAt, ...entry, ...(layer === undefined && { empty_layer: true }) })
    }
    return { layers, history, end, declaredArgs, platform: planned.platform, createdAt, source: base.source }
  }

  function stageOf(index: number): Promise<BuiltStage> {
    const known = built.get(index)
    if (known) return known
    const stage = buildStage(index)
    built.set(index, stage)
    return stage
  }

  /** Stage number INDEX, built once. */
  const stage = stageOf
  return {
    stage,
    declaredArgs: async () => (await Promise.all(built.values())).flatMap((stage) => stage.declaredArgs),
  }
}
