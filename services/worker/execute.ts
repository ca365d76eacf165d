// One attempt of one call, from invocation to completion: definition, image, user, volumes, container.
// The place where the three middle rooms (functions, image, runtime) meet.  Whatever goes wrong because
// of the function, its image or the registry is a completion with its outcome; anything else is thrown.

import { AppError, ContentError, RegistryError, StartError, SyscallError } from '../contract/errors.ts'
import type { Completion } from '../contract/call-record.ts'
import type { FunctionRecord } from '../contract/function-spec.ts'
import type { Image } from '../contract/image.ts'
import type { Invocation } from '../contract/invocation.ts'
import type { Outcome } from '../contract/outcome.ts'
import type { Puller } from '../images/pull.ts'
import { parseReference } from '../registry/reference.ts'
import type { Log } from '../platform/log.ts'
import type { Runtime } from '../runtime/container.ts'
import { buildSpec } from '../runtime/spec.ts'
import { responseContentType } from './content-type.ts'
import type { ImageKeeper } from './images.ts'
import type { WorkerMetrics } from './metrics.ts'
import { requestEnvironment } from './request-env.ts'
import type { RunningCalls } from './running.ts'
import { runStdio } from './stdio.ts'
import { createUserResolver } from './users.ts'
import type { Volumes } from './volumes.ts'

export interface ExecuteDeps {
  readonly find: (name: string) => FunctionRecord | undefined
  readonly puller: Puller
  readonly images: Pick<ImageKeeper, 'pulled'>
  readonly runtime: Runtime
  readonly volumes: Volumes
  readonly metrics: WorkerMetrics
  readonly running: RunningCalls
  readonly responseMaxBytes: number
  readonly log: Log
}

export type Execute = (invocation: Invocation, context: { signal: AbortSignal }) => Promise<Completion>

const NOTHING = new Uint8Array(0)
/** The image did not fit: a `pull_fail` like any other, not a fault of the worker. */
const DISK_FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT'])

/** The completion of an attempt that never had a container. */
function notRun(outcome: Outcome, message: string, pullMs: number): Completion {
  return {
    outcome,
    message,
    start: 'cold',
    phases: { pull: pullMs, create: 0, init: 0, run: 0 },
    contentType: 'text/plain; charset=utf-8',
    body: NOTHING,
    log: '',
    logTruncated: false,
    endedAt: performance.now(),
  }
}

/**
 * A digest replaces the tag: workers run what was resolved at deploy time. The image is retained; the caller
 * releases it.
 */
async function ensureImage(
  deps: ExecuteDeps,
  record: FunctionRecord,
): Promise<{ image: Image; pullMs: number } | { failed: string; pullMs: number }> {
  const startedAt = performance.now()
  try {
    const { image, pulled } = await deps.puller.ensure(parseReference(record.spec.image), record.imageDigest)
    deps.puller.retain(image.digest)
    if (pulled) deps.images.pulled()
    return { image, pullMs: pulled ? performance.now() - startedAt : 0 }
  } catch (err) {
    if (!(
      err instanceof RegistryError ||
      err instanceof ContentError ||
      (err instanceof SyscallError && DISK_FULL.has(err.errno))
    ))
      throw err
    deps.log.warn({ err, image: record.spec.image }, 'the image could not be had')
    return { failed: err.message, pullMs: performance.now() - startedAt }
  }
}

export function createExecute(deps: ExecuteDeps): Execute {
  const resolveUser = createUserResolver()

  async function specFor(invocation: Invocation, record: FunctionRecord, image: Image) {
    const user = await resolveUser(image, record.spec.user ?? image.config.user)
    const volumePaths = deps.volumes.paths(record.spec.volumes, user)
    return buildSpec({ image, function: record.spec, user, volumePaths, env: requestEnvironment(invocation) })
  }

  async function runIn(
    image: Image,
    record: FunctionRecord,
    invocation: Invocation,
    signal: AbortSignal,
  ): Promise<Omit<Completion, 'phases'> & { createMs: number; runMs: number }> {
    const result = await runStdio(deps.runtime, {
      spec: await specFor(invocation, record, image),
      body: invocation.request.body,
      timeoutMs: record.spec.timeoutMs,
      responseMaxBytes: deps.responseMaxBytes,
      signal,
      onStarted: (pid) => deps.running.started(invocation.callId, pid),
    })
    const { exit } = result
    return {
      outcome: result.outcome,
      ...(result.message !== undefined && { message: result.message }),
      ...(exit.exitCode !== undefined && { exitCode: exit.exitCode }),
      ...(exit.signal !== undefined && { signal: exit.signal }),
      imageDigest: image.digest,
      start: 'cold',
      usage: exit.usage,
      contentType: responseContentType(
        record.spec.envVars,
        invocation.request.headers['content-type'],
        result.response,
      ),
      body: result.outcome === 'too_large' ? NOTHING : result.response,
      log: result.log,
      logTruncated: result.logTruncated,
      endedAt: exit.endedAt,
      createMs: result.createMs,
      runMs: result.runMs,
    }
  }

  async function attempt(invocation: Invocation, signal: AbortSignal): Promise<Completion> {
    const record = deps.find(invocation.function)
    if (!record)
      return notRun('cancelled', `function ${invocation.function} was removed before the call could run`, 0)
    const had = await ensureImage(deps, record)
    if ('failed' in had) return notRun('pull_fail', had.failed, had.pullMs)
    try {
      const { createMs, runMs, ...completion } = await runIn(had.image, record, invocation, signal)
      deps.metrics.containerStarted(record.spec.name, createMs / 1000)
      return { ...completion, phases: { pull: had.pullMs, create: createMs, init: 0, run: runMs } }
    } catch (err) {
      if (!(err instanceof StartError || err instanceof SyscallError || err instanceof RangeError)) throw err
      deps.log.warn({ err, function: record.spec.name }, 'the container could not be started')
      return {
        ...notRun(
          'init_fail',
          err instanceof AppError ? err.message : `cannot start: ${err.message}`,
          had.pullMs,
        ),
        imageDigest: had.image.digest,
      }
    } finally {
      deps.puller.release(had.image.digest)
    }
  }

  return async (invocation, { signal }) => {
    deps.running.entered(invocation)
    try {
      return await attempt(invocation, signal)
    } finally {
      deps.running.left(invocation.callId)
    }
  }
}
