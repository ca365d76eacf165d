// Pulls the image of a function when the function is deployed, and reports the progress. A failure here is
// not final: the first call pulls again, and reports the reason if that fails, too.

import { AppError } from '../contract/errors.ts'
import type { FunctionRecord } from '../contract/function-spec.ts'
import type { LayerProgress } from '../contract/image.ts'
import type { PullReport, PullReports } from '../functions/pull-reports.ts'
import type { Puller } from '../images/pull.ts'
import { parseReference } from '../registry/reference.ts'
import type { Log } from '../platform/log.ts'
import type { PullProgressBoard } from './pull-progress.ts'

export interface PrefetchDeps {
  readonly workerName: string
  readonly puller: Pick<Puller, 'ensure'>
  readonly progress: Pick<PullProgressBoard, 'follow'>
  readonly reports: Pick<PullReports, 'write'>
  /** An image was fetched. */
  readonly onPulled: () => void
  readonly log: Log
}

/** Images at the same time.  A call does not wait for its turn here, because it pulls by itself. */
const PARALLEL_MAX = 2
const QUEUE_MAX = 1000
const REPORT_MS = 200

interface Pull {
  readonly record: FunctionRecord
  readonly layers: Map<string, LayerProgress>
  timer: NodeJS.Timeout | undefined
  unfollow: () => void
}

export function createPrefetch({ workerName, puller, progress, reports, onPulled, log }: PrefetchDeps) {
  const waiting: FunctionRecord[] = []
  const active = new Map<string, Pull>()
  let known: ReadonlyMap<string, FunctionRecord> | undefined
  let stopped = false

  /** A report that does not reach Redis is dropped: the next one replaces it. */
  function report(
    digest: string,
    state: PullReport['state'],
    layers: readonly LayerProgress[],
    message?: string,
  ): Promise<void> {
    return reports
      .write(digest, { worker: workerName, state, layers, ...(message !== undefined && { message }) })
      .catch((err: unknown) => log.debug({ err }, 'cannot write the progress of a pull to Redis'))
  }

  /** The final report on OWN; a progress report that is due must not follow it. */
  async function end(own: Pull, state: 'ready' | 'failed', message?: string): Promise<void> {
    own.unfollow()
    clearTimeout(own.timer)
    await report(own.record.imageDigest, state, [...own.layers.values()], message)
  }

  function reportLater(own: Pull, layer: LayerProgress): void {
    own.layers.set(layer.layer, layer)
    own.timer ??= setTimeout(() => {
      own.timer = undefined
      void report(own.record.imageDigest, 'pulling', [...own.layers.values()])
    }, REPORT_MS).unref()
  }

  async function pull(own: Pull): Promise<void> {
    const { imageDigest: digest, spec } = own.record
    await report(digest, 'pulling', [])
    try {
      const { pulled } = await puller.ensure(parseReference(spec.image), digest)
      if (pulled) onPulled()
      await end(own, 'ready')
    } catch (err) {
      if (!stopped)
        log.warn(
          { err, function: spec.name, image: spec.image },
          'the image of a new deployment could not be pulled',
        )
      await end(own, 'failed', err instanceof AppError ? err.message : 'the worker failed; see its log')
    }
  }

  function next(): void {
    while (active.size < PARALLEL_MAX) {
      // A digest that is being pulled waits for that pull to end: the second deployment needs a report that
      // is newer than itself.
      const at = waiting.findIndex((record) => !active.has(record.imageDigest))
      if (at < 0) return
      const record = waiting.splice(at, 1)[0]!
      const own: Pull = { record, layers: new Map(), timer: undefined, unfollow: () => {} }
      own.unfollow = progress.follow(record.imageDigest, (layer) => reportLater(own, layer))
      active.set(record.imageDigest, own)
      void pull(own).finally(() => {
        active.delete(record.imageDigest)
        next()
      })
    }
  }

  return {
    /**
     * RECORDS are all functions.  Those of the first list are older than this worker: their first call pulls.
     */
    deployed(records: readonly FunctionRecord[]): void {
      const before = known
      known = new Map(records.map((record) => [record.spec.name, record]))
      if (before === undefined) return
      waiting.push(...records.filter((record) => before.get(record.spec.name) !== record))
      waiting.splice(0, Math.max(0, waiting.length - QUEUE_MAX))
      next()
    },

    /** Starts no more pulls; the puller ends those that run. */
    stop(): void {
      stopped = true
      waiting.length = 0
    },
  }
}

export type Prefetch = ReturnType<typeof createPrefetch>
