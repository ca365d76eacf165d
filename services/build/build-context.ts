// What all steps of one build share: the parts of the machine that they use and the request. builder.ts
// assembles it.

import type { Download } from '../registry/download.ts'
import type { Runtime } from '../runtime/container.ts'
import type { LayerTool } from './layer-tool.ts'
import type { StageLayer } from './base.ts'
import type { BuildCache } from './cache.ts'
import type { CacheFolders } from './cache-folders.ts'
import type { LayerMaker } from './layers.ts'
import type { Secrets } from './secrets.ts'
import { layersSource, type FileSource } from './sources.ts'
import type { StageSource } from './dockerfile/build-plan.ts'

export interface BuildShared {
  readonly tool: LayerTool
  readonly layers: LayerMaker
  readonly cache: BuildCache
  readonly folders: CacheFolders
  readonly secrets: Secrets
  readonly context: FileSource
  readonly download: Download
  readonly nativeDir: string
  /** Started when the first RUN needs it. */
  readonly runtime: () => Promise<Runtime>
  /** The layers of a built stage, or of an image, which is pulled if needed. */
  readonly layersOf: (
    source: StageSource,
  ) => Promise<{ readonly layers: readonly StageLayer[]; readonly name: string }>
  readonly network: 'none' | 'host'
  readonly memoryBytes: number
  readonly cpus: number
  readonly usesCache: boolean
  readonly signal: AbortSignal
}

/** What one step sees of its stage. */
export interface StepStage {
  /** diffIDs, lowest first. */
  readonly diffIds: readonly string[]
  readonly onOutput: (bytes: Buffer) => void
}

/** The files of SOURCE, a stage or an image. DRAFT is used to mount its layers. */
export async function stageFiles(
  shared: BuildShared,
  draft: string,
  source: StageSource,
): Promise<FileSource> {
  const { layers, name } = await shared.layersOf(source)
  return await layersSource(
    shared.tool,
    draft,
    name,
    shared.layers.pathsOf(layers.map((layer) => layer.diffId)),
  )
}
