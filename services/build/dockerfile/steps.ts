// What a stage's instructions come down to: steps with all values filled in, which the executing half
// performs one after the other, and the config that the image has after each.  Plain values, nothing else.

import type { BuildWarning, FaultFacts, Place } from './build-failure.ts'
import type { BuildConfig } from './build-config.ts'
import type { StageSource } from './build-plan.ts'
import type { Chmod } from './chmod.ts'
import type { BindMount, CacheMount, SecretMount, TmpfsMount } from './mounts.ts'

interface StepBase extends Place {
  /** For progress: "COPY app.js /srv/", with variables filled in as far as they are known. */
  readonly title: string
  /** For the image's history. */
  readonly createdBy: string
  /** The image's config after this step. */
  readonly config: BuildConfig
  /** It comes from the base image's ONBUILD. */
  readonly isTrigger: boolean
  /** A fault at the place of the step, to be thrown. */
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
  /** An executable file (0755) that has to be there, read only, while the step runs: argv[0] is its path. */
  readonly script?: { readonly path: string; readonly content: string }
  /** "NAME=value": ARGs, and over them the config's. */
  readonly env: readonly string[]
  /** The same for proxies: they are no part of what the step means, so of no cache key either. */
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
  /** The destination is a directory whether or not it is there already: it ended in "/", or "." . */
  readonly isIntoDirectory: boolean
  /** "user", "user:group", "1000:1000", as the image's /etc/passwd has to resolve it; none is 0:0. */
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

/** NAME is the file that it becomes in a directory. */
export interface AddUrl {
  readonly url: string
  readonly name: string
}

export interface AddStep extends FilesStep {
  readonly kind: 'add'
  /** Patterns in the context. */
  readonly sources: readonly string[]
  readonly urls: readonly AddUrl[]
  /** Of the one URL. */
  readonly checksum?: string
  readonly unpacksLocal: boolean
  readonly unpacksRemote: boolean
}

/** The directory has to be there after it, made for USER if it was missing. */
export interface WorkdirStep extends StepBase {
  readonly kind: 'workdir'
  readonly path: string
  readonly user: string
}

/** Changes nothing but the config. */
export interface ConfigStep extends StepBase {
  readonly kind: 'config'
}

export type Step = RunStep | CopyStep | AddStep | WorkdirStep | ConfigStep

/** What a stage begins with: an image's config, or all that its parent stage left. */
export interface StageStart {
  readonly config: BuildConfig
  /** ARGs of the parent stage. */
  readonly args: ReadonlyMap<string, string>
  /** For messages about its triggers. */
  readonly name: string
}

export interface EvaluatedStage {
  readonly steps: readonly Step[]
  /** For a stage that begins with this one. */
  readonly end: StageStart
  /** The numbers of the stages that the steps take from; triggers included. */
  readonly dependencies: readonly number[]
  /** Names that an ARG of it declared. */
  readonly declaredArgs: readonly string[]
  readonly warnings: readonly BuildWarning[]
}
