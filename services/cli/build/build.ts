// The action of `wherry build`: turns options into a request, opens what a build needs on the data folder,
// shows progress, and prints the image's name and digest.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { addAbortSignal } from 'node:stream'
import type { PullProgress } from '../../images/layer-fetcher.ts'
import { readBuildFiles, type BuildFiles } from '../../build/context/build-files.ts'
import { buildImage, type BuilderDeps, type BuildRequest } from '../../build/builder.ts'
import { defined } from '../../contract/defined.ts'
import type { BuiltImage } from '../../build/result.ts'
import { BuildStepFailed } from '../../build/stages.ts'
import { createLocalFirst } from '../../images/local-first.ts'
import { createPuller } from '../../images/pull.ts'
import { createDownload } from '../../registry/download.ts'
import { openRegistryClient } from '../../registry/open-registry.ts'
import { createLog } from '../../platform/log.ts'
import { NATIVE_DEFAULT } from '../commands/version.ts'
import type { Context } from '../context.ts'
import { Failure } from '../failure.ts'
import { dataFolder, withStore } from '../image/open.ts'
import { createProgress as createPullProgress } from '../image/progress.ts'
import { interruptible } from '../interrupt.ts'
import { registryAccess } from '../registry-access.ts'
import { formatSize, shortDigest } from '../terminal.ts'
import { parseBuildFlags, type BuildFlags } from './flags.ts'
import { createBuildProgress } from './progress.ts'

const STDIN_BYTES_MAX = 4 * 1024 ** 2
/** Share of the machine's memory that one RUN may use. */
const MEMORY_SHARE = 0.8

/** The Dockerfile on stdin. */
async function readStdin({ stdin }: Context, signal: AbortSignal): Promise<Uint8Array> {
  const pieces: Buffer[] = []
  let sizeBytes = 0
  for await (const piece of addAbortSignal(signal, stdin)) {
    const bytes = Buffer.from(piece as Uint8Array | string)
    sizeBytes += bytes.length
    if (sizeBytes > STDIN_BYTES_MAX)
      throw new Failure('build', `stdin is larger than ${formatSize(STDIN_BYTES_MAX)}`, {
        remedy: 'it must be a Dockerfile',
      })
    pieces.push(bytes)
  }
  return Buffer.concat(pieces)
}

async function readFiles(
  contextDir: string,
  isEmpty: boolean,
  file: string | undefined,
  context: Context,
  signal: AbortSignal,
): Promise<BuildFiles> {
  const content = isEmpty || file === '-' ? await readStdin(context, signal) : undefined
  return readBuildFiles({
    contextDir,
    ...defined({ file: file === '-' ? undefined : file, content }),
  })
}

/** A failed step for people: its place in the Dockerfile with the lines around it, and its last output. */
function stepFailure(err: BuildStepFailed): Failure {
  const output = err.output.filter((line) => line !== '')
  const shown =
    output.length === 0
      ? err.excerpt
      : `${err.excerpt}\n\n  last output:\n${output.map((line) => `  | ${line}`).join('\n')}`
  return new Failure('build', 'a step failed', {
    faults: [{ path: err.path, problem: err.message, excerpt: shown }],
    cause: err,
  })
}

async function perform(deps: BuilderDeps, request: BuildRequest): Promise<BuiltImage> {
  try {
    return await buildImage(deps, request)
  } catch (err) {
    throw err instanceof BuildStepFailed ? stepFailure(err) : err
  }
}

function writeDigest(path: string, digest: string): void {
  try {
    writeFileSync(path, digest)
  } catch (err) {
    throw new Failure(
      'build',
      `the image was built, but --iidfile ${path} could not be written: ${(err as Error).message}`,
      { cause: err },
    )
  }
}

/** Builds the image in FOLDER as FLAGS say, and prints the result. */
export async function buildFromFlags(folder: string, flags: BuildFlags, context: Context): Promise<void> {
  const { env, stdout } = context
  const options = parseBuildFlags(flags, env)
  const isEmpty = folder === '-'
  const progress = createBuildProgress(
    context,
    flags.quiet === true || flags.json === true ? 'quiet' : flags.progress,
  )
  const pulls = createPullProgress(context, { quiet: flags.quiet === true || flags.json === true })
  const contextDir = isEmpty ? mkdtempSync(join(tmpdir(), 'wherry-build-')) : folder
  try {
    const built = await interruptible('build', context, async (signal) => {
      const files = await readFiles(contextDir, isEmpty, flags.file, context, signal)
      return await withStore(
        'build',
        flags,
        context,
        async (store) => {
          const registry = openRegistryClient(registryAccess(flags, context))
          const nativeDir = env.WHERRY_NATIVE || NATIVE_DEFAULT
          const onProgress = (layer: PullProgress): void => {
            if (layer.state === 'present') return
            progress.hold()
            pulls.onLayer(layer)
          }
          const puller = createPuller({
            store,
            registry: createLocalFirst({ store, registry, keepPacked: true }),
            nativeDir,
            onProgress,
          })
          signal.addEventListener(
            'abort',
            () => {
              void puller.stop()
            },
            { once: true },
          )
          try {
            return await perform(
              {
                store,
                registry,
                puller,
                download: createDownload(env),
                nativeDir,
                dataDir: dataFolder(flags, context),
                log: createLog({ name: 'build', level: 'silent' }),
              },
              {
                ...options,
                contextDir,
                files,
                signal,
                onEvent: (event) => {
                  pulls.end()
                  progress.onEvent(event)
                },
                memoryBytes: options.memoryBytes ?? Math.floor(totalmem() * MEMORY_SHARE),
                cpus: availableParallelism(),
              },
            )
          } finally {
            pulls.end()
            progress.end()
            await puller.stop()
            await registry.close()
          }
        },
        { create: true },
      )
    })
    if (flags.iidfile !== undefined) writeDigest(flags.iidfile, built.digest)
    if (flags.json) stdout.write(`${JSON.stringify({ ...built, names: options.names })}\n`)
    else if (flags.quiet) stdout.write(`${built.digest}\n`)
    else
      stdout.write(
        `built ${options.names.join(', ') || 'an unnamed image'}, ${shortDigest(built.digest)}, ${formatSize(built.sizeBytes)} packed\n`,
      )
  } finally {
    if (isEmpty) rmSync(contextDir, { recursive: true, force: true })
  }
}
