// `wherry build` from its request to an image in the store: reads the two files, plans, opens what steps need
// when the first one needs it, and releases all of it in the end.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { defined } from '../contract/defined.ts'
import type { Platform } from '../contract/image.ts'
import type { Download } from '../registry/download.ts'
import { hostPlatform } from '../registry/platform.ts'
import type { Puller } from '../images/pull.ts'
import type { RegistryClient } from '../registry/registry.ts'
import type { ImageStore } from '../images/store.ts'
import type { Log } from '../platform/log.ts'
import type { Runtime } from '../runtime/container.ts'
import { openRuntime } from '../runtime/open.ts'
import { BUILD_PROFILE } from '../runtime/seccomp-profile.ts'
import { createBases } from './base.ts'
import { formatWarning, quoted } from './dockerfile/build-failure.ts'
import type { BuildFiles } from './context/build-files.ts'
import { planBuild } from './dockerfile/build-plan.ts'
import { createBuildCache } from './cache.ts'
import { createCacheFolders } from './cache-folders.ts'
import { createContext } from './context/context.ts'
import { parseDockerfile } from './dockerfile/dockerfile.ts'
import { unusedBuildArgs } from './dockerfile/evaluate.ts'
import { createLayerTool } from './layer-tool.ts'
import { createLayerMaker } from './layers.ts'
import { createProgress, type OnBuildEvent } from './progress.ts'
import { keepImage, type BuiltImage } from './result.ts'
import { createSecrets, sweepSecrets } from './secrets.ts'
import { contextSource } from './sources.ts'
import { createStages } from './stages.ts'

export interface BuilderDeps {
  readonly store: ImageStore
  readonly registry: RegistryClient
  readonly puller: Puller
  /** For ADD of URLs. */
  readonly download: Download
  readonly nativeDir: string
  /** The node's data folder, which contains the build's folder. */
  readonly dataDir: string
  readonly log: Log
}

export interface BuildRequest {
  readonly contextDir: string
  readonly files: BuildFiles
  /** Full references with a tag. */
  readonly names: readonly string[]
  readonly target?: string
  /** Default: this machine's. */
  readonly platform?: Platform
  readonly buildArgs: ReadonlyMap<string, string>
  readonly labels: ReadonlyMap<string, string>
  readonly secrets: ReadonlyMap<string, Uint8Array>
  readonly network: 'none' | 'host'
  readonly usesCache: boolean
  readonly alwaysPull: boolean
  readonly memoryBytes: number
  readonly cpus: number
  /** SOURCE_DATE_EPOCH: the latest time in the image. */
  readonly clampSeconds?: number
  readonly signal: AbortSignal
  readonly onEvent: OnBuildEvent
}

/** One container at a time. */
const SLOTS = 1
/**
 * The user's umask must not apply: it would hide name servers and secrets in a RUN, or a layer's "/", from
 * users of the image.
 */
const UMASK = 0o022

function machinePlatform(): Platform {
  const { os, architecture } = hostPlatform()
  return { os, architecture }
}

/** A runtime that is opened at first use. */
function lazyRuntime(
  { nativeDir, log }: BuilderDeps,
  dataDir: string,
): { get: () => Promise<Runtime>; close: () => Promise<void> } {
  let opened: Promise<Runtime> | undefined
  return {
    get: () => (opened ??= openRuntime({ nativeDir, dataDir, slots: SLOTS, seccomp: BUILD_PROFILE, log })),
    close: async () => {
      await (await opened?.catch(() => undefined))?.close()
    },
  }
}

/**
 * Builds the image that REQUEST describes, stores it and names it. The process keeps UMASK, because another
 * build may still run when this one ends. Throws InvalidRequest (the Dockerfile or the context is wrong),
 * BuildStepFailed, RegistryError, ContentError, SyscallError, Unsupported, or the signal's reason; nothing is
 * named then.
 */
export async function buildImage(deps: BuilderDeps, request: BuildRequest): Promise<BuiltImage> {
  const { store, registry, puller, download, nativeDir } = deps
  const { signal, clampSeconds } = request
  process.umask(UMASK)
  const dataDir = join(deps.dataDir, 'build')
  mkdirSync(dataDir, { recursive: true, mode: 0o711 })
  const buildPlatform = machinePlatform()
  const plan = planBuild(parseDockerfile(request.files.dockerfile.name, request.files.dockerfile.content), {
    buildArgs: request.buildArgs,
    platform: request.platform ?? buildPlatform,
    buildPlatform,
    ...defined({ target: request.target }),
  })
  sweepSecrets()
  const progress = createProgress(request.onEvent)
  const tool = createLayerTool({ nativeDir, signal })
  const cache = createBuildCache({ dir: join(dataDir, 'steps'), store, clampSeconds })
  const folders = createCacheFolders({ dir: join(dataDir, 'caches'), catalog: store.catalog })
  const secrets = createSecrets(request.secrets)
  const runtime = lazyRuntime(deps, dataDir)
  const stages = createStages({
    plan,
    progress,
    bases: createBases({ store, registry, puller, alwaysPull: request.alwaysPull, signal }),
    shared: {
      tool,
      cache,
      folders,
      secrets,
      download,
      nativeDir,
      signal,
      runtime: runtime.get,
      layers: createLayerMaker({ store, tool, clampSeconds }),
      context: contextSource(
        createContext({ dir: request.contextDir, rules: request.files.rules }),
        request.contextDir,
      ),
      network: request.network,
      memoryBytes: request.memoryBytes,
      cpus: request.cpus,
      usesCache: request.usesCache,
    },
  })
  try {
    const { layers, history, end, platform, createdAt, source } = await stages.stage(plan.target)
    for (const name of unusedBuildArgs(plan, await stages.declaredArgs()))
      progress.warn(`--build-arg ${quoted(name)} is not used by any ARG`)
    const config = { ...end.config, labels: new Map([...end.config.labels, ...request.labels]) }
    const created = clampSeconds === undefined ? createdAt : new Date(clampSeconds * 1000).toISOString()
    return await keepImage(store, {
      layers,
      history,
      config,
      platform,
      created,
      source,
      names: request.names,
    })
  } finally {
    // Also after a failure: a warning may be the reason.
    for (const warning of plan.warnings) progress.warn(formatWarning(warning))
    secrets.close()
    await runtime.close()
    await cache.trim()
    await folders.trim()
  }
}
