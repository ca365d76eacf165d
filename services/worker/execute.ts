// One attempt of one call: definition, image, user, volumes and container spec become an instance, which
// serves the call. A fault of the function, its image or the registry is a completion with its outcome;
// anything else is thrown.

import type { Completion } from '../contract/call-record.ts'
import { ContentError, RegistryError, RuntimeFull, StartError, SyscallError } from '../contract/errors.ts'
import type { Contract as ContractName, FunctionRecord } from '../contract/function-spec.ts'
import type { Image } from '../contract/image.ts'
import type { Invocation } from '../contract/invocation.ts'
import type { Outcome } from '../contract/outcome.ts'
import type { Puller } from '../images/pull.ts'
import type { Log } from '../platform/log.ts'
import { parseReference } from '../registry/reference.ts'
import { buildSpec } from '../runtime/spec.ts'
import type { Contract, InstanceSpec } from './contracts/contract.ts'
import type { ImageKeeper } from './images.ts'
import type { WorkerMetrics } from './metrics.ts'
import type { RunningCalls } from './running.ts'
import { createUserResolver } from './users.ts'
import type { Volumes } from './volumes.ts'

export interface ExecuteDeps {
  readonly find: (name: string) => FunctionRecord | undefined
  readonly puller: Puller
  readonly images: Pick<ImageKeeper, 'pulled'>
  readonly contracts: Readonly<Record<ContractName, Contract>>
  readonly volumes: Volumes
  readonly metrics: Pick<WorkerMetrics, 'containerStarted'>
  readonly running: RunningCalls
  readonly log: Log
}

export type Execute = (invocation: Invocation, context: { signal: AbortSignal }) => Promise<Completion>

/** The image did not fit on the disk: an ordinary `pull_fail`, not a fault of the worker. */
const DISK_FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT'])

/** The completion of an attempt that never had a container. */
function notRun(outcome: Outcome, message: string, pullMs: number): Completion {
  return {
    outcome,
    message,
    start: 'cold',
    phases: { pull: pullMs, create: 0, init: 0, run: 0 },
    contentType: 'text/plain; charset=utf-8',
    log: '',
    logTruncated: false,
    endedAt: performance.now(),
  }
}

/**
 * The image by the digest that the deployment resolved; its tag plays no part. The image is retained, and the
 * caller releases it.
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
    const isExpected =
      err instanceof RegistryError ||
      err instanceof ContentError ||
      (err instanceof SyscallError && DISK_FULL.has(err.errno))
    if (!isExpected) throw err
    deps.log.warn({ err, image: record.spec.image }, 'the image could not be pulled')
    return { failed: err.message, pullMs: performance.now() - startedAt }
  }
}

export function createExecute(deps: ExecuteDeps): Execute {
  const resolveUser = createUserResolver()

  async function instanceSpec(record: FunctionRecord, image: Image): Promise<InstanceSpec> {
    const user = await resolveUser(image, record.spec.user ?? image.config.user)
    const volumePaths = deps.volumes.paths(record.spec.volumes, user)
    return {
      function: record.spec,
      image,
      container: buildSpec({ image, function: record.spec, user, volumePaths }),
    }
  }

  async function serve(
    record: FunctionRecord,
    image: Image,
    invocation: Invocation,
    signal: AbortSignal,
  ): Promise<Completion> {
    const instance = await deps.contracts[record.spec.contract].start(await instanceSpec(record, image))
    try {
      return await instance.call(invocation, signal, (pid) => deps.running.started(invocation.callId, pid))
    } finally {
      await instance.stop()
    }
  }

  async function attempt(invocation: Invocation, signal: AbortSignal): Promise<Completion> {
    const record = deps.find(invocation.function)
    if (!record)
      return notRun('cancelled', `function ${invocation.function} was removed before the call could run`, 0)
    const pull = await ensureImage(deps, record)
    if ('failed' in pull) return notRun('pull_fail', pull.failed, pull.pullMs)
    const { image, pullMs } = pull
    try {
      if (signal.aborted) return notRun('cancelled', 'the call was cancelled before it ran', pullMs)
      const completion = await serve(record, image, invocation, signal)
      const { create = 0, init = 0, run = 0 } = completion.phases ?? {}
      deps.metrics.containerStarted(record.spec.name, create / 1000)
      return { ...completion, phases: { pull: pullMs, create, init, run } }
    } catch (err) {
      if (!(err instanceof StartError || err instanceof SyscallError || err instanceof RuntimeFull)) throw err
      deps.log.warn({ err, function: record.spec.name }, 'the container could not be started')
      const outcome = err instanceof RuntimeFull ? 'no_capacity' : 'init_fail'
      return { ...notRun(outcome, err.message, pullMs), imageDigest: image.digest }
    } finally {
      deps.puller.release(image.digest)
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
