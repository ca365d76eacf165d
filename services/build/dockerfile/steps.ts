// The steps of a stage, with all values resolved, and the config of the image after each. Plain values, which
// the executing half performs in order.

import type { BuildWarning, FaultFacts, Place } from './build-failure.ts'
import type { BuildConfig } from './build-config.ts'
import type { StageSource } from './build-plan.ts'
import type { Chmod } from './chmod.ts'
import type { BindMount, CacheMount, SecretMount, TmpfsMount } from './mounts.ts'

interface StepBase extends Place {
  /** For the progress display: "COPY app.js /srv/", with the values of known variables. */
  readonly title: string
  /** For the image's history. */
  readonly createdBy: string
  /** The image's config after this step. */
  readonly config: BuildConfig
  /** It comes from the base image's ONBUILD. */
  readonly isTrigger: boolean
  /** Creates a fault at the place of the step. */
  fault(problem: string, facts?: FaultFacts): Error
}

/** `targetPath` is absolute. */
export type StepMount =
  | (Omit<BindMount, 'from' | 'target'> & {
      readonly targetPath: string
      readonly from: StageSource | { readonly kind: 'context' }
    })
  | (Omit<CacheMount, 'from' | 'target'> & { readonly targetPath: string; readonly from: StageSource })
  | (Omit<TmpfsMount, 'target'> & { readonly targetPath: string })
  | (Omit<SecretMount, 'target'> & { readonly targetPath?: string })

export interface RunStep extends StepBase {
  readonly kind: 'run'
  readonly argv: readonly string[]
  /** An executable file (0755) that exists read-only while the step runs; argv[0] is its path. */
  readonly script?: { readonly path: string; readonly content: string }
  /** "NAME=value": ARGs, and over them the config's. */
  readonly env: readonly string[]
  /** The same for proxies, which do not affect the result and so are not part of the cache key. */
  readonly proxyEnv: readonly string[]
  readonly workingDir: string
  readonly user: string
  readonly mounts: readonly StepMount[]
  readonly network: 'default' | 'none' | 'host'
}

/** A heredoc, mode 0644. */
export interface InlineFile {
  readonly name: string
  readonly content: string
}

interface FilesStep extends StepBase {
  readonly files: readonly InlineFile[]
  /** Absolute and normal. */
  readonly destination: string
  /** The destination is a directory even if it does not exist yet: it ended in "/" or ".". */
  readonly isIntoDirectory: boolean
  /** "user", "user:group", "1000:1000", to be resolved by the image's /etc/passwd; the default is 0:0. */
  readonly chown?: string
  readonly chmod?: Chmod
  readonly isLinked: boolean
  readonly excludes: readonly string[]
}

export interface CopyStep extends FilesStep {
  readonly kind: 'copy'
  /** Patterns in the context, or in the root of `from`. */
  readonly sources: readonly string[]
  readonly from: StageSource | { readonly kind: 'context' }
  readonly keepsParents: boolean
}

/** NAME is the file name in a directory. */
export interface AddUrl {
  readonly url: string
  readonly name: string
}

export interface AddStep extends FilesStep {
  readonly kind: 'add'
  /** Patterns in the context. */
  readonly sources: readonly string[]
  readonly urls: readonly AddUrl[]
  /** Checksum of the only URL. */
  readonly checksum?: string
  readonly unpacksLocal: boolean
  readonly unpacksRemote: boolean
}

/** Creates a missing directory, owned by USER. */
export interface WorkdirStep extends StepBase {
  readonly kind: 'workdir'
  readonly path: string
  readonly user: string
}

/** Changes only the config. */
export interface ConfigStep extends StepBase {
  readonly kind: 'config'
}

export type Step = RunStep | CopyStep | AddStep | WorkdirStep | ConfigStep

/** The start of a stage: an image's config, or the end of its parent stage. */
export interface StageStart {
  readonly config: BuildConfig
  /** ARGs of the parent stage. */
  readonly args: ReadonlyMap<string, string>
  /** For messages about its triggers. */
  readonly name: string
}

export interface EvaluatedStage {
  readonly steps: readonly Step[]
  /** The start of a stage that is based on this one. */
  readonly end: StageStart
  /** The numbers of the stages that the steps use, including triggers. */
  readonly dependencies: readonly number[]
  /** Names declared by its ARGs. */
  readonly declaredArgs: readonly string[]
  readonly warnings: readonly BuildWarning[]
}
