// Each worker's progress in pulling the image of a deployment: one short-lived Redis hash per digest, worker
// → report as JSON. Workers write, gateways read.

import { defined } from '../contract/defined.ts'
import type { LayerProgress } from '../contract/image.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import { asOverloaded, type RedisClient } from '../platform/redis.ts'

export interface PullReport {
  readonly worker: string
  readonly state: 'pulling' | 'ready' | 'failed'
  /** The layers that had to be fetched, in the order in which they started. */
  readonly layers: readonly LayerProgress[]
  /** Reason for a failure. */
  readonly message?: string
}

/** Lifetime of reports after the last update. */
const LIFE_S = 600
const LAYERS_MAX = 128
const WORKERS_MAX = 1000
const MESSAGE_CHARACTERS_MAX = 1000
const STATES: readonly string[] = ['pulling', 'ready', 'failed']

function parseReport(worker: string, text: string): PullReport | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined // not written by a worker: ignore it
  }
  if (!isPlainObject(value)) return undefined
  const { state, layers, message } = value
  if (typeof state !== 'string' || !STATES.includes(state) || !Array.isArray(layers)) return undefined
  return {
    worker,
    state: state as PullReport['state'],
    layers: layers
      .slice(0, LAYERS_MAX)
      .filter(
        (layer): layer is LayerProgress =>
          typeof layer === 'object' &&
          layer !== null &&
          typeof layer.layer === 'string' &&
          typeof layer.state === 'string' &&
          [layer.receivedBytes, layer.sizeBytes, layer.unpackedBytes].every((n) => typeof n === 'number'),
      ),
    ...defined({ message: typeof message === 'string' ? message : undefined }),
  }
}

export type PullReports = ReturnType<typeof createPullReports>

/** The reports in REDIS, which the caller closes. All methods throw Overloaded while Redis is away. */
export function createPullReports({ redis, prefix }: { redis: RedisClient; prefix: string }) {
  const keyOf = (digest: string): string => `${prefix}:@pull:${digest}`
  const away = (err: unknown): never => {
    throw asOverloaded(err)
  }

  return {
    /** Store the progress of REPORT.worker with DIGEST. */
    async write(digest: string, { worker, message, layers, ...report }: PullReport): Promise<void> {
      const text = JSON.stringify({
        ...report,
        layers: layers.slice(0, LAYERS_MAX),
        ...defined({ message: message?.slice(0, MESSAGE_CHARACTERS_MAX) }),
      })
      const key = keyOf(digest)
      await redis.multi().hset(key, worker, text).expire(key, LIFE_S).exec().catch(away)
    },

    /** All reports about DIGEST, sorted by worker. */
    async read(digest: string): Promise<readonly PullReport[]> {
      const reports: Record<string, string> = await redis.hgetall(keyOf(digest)).catch(away)
      return Object.keys(reports)
        .sort()
        .slice(0, WORKERS_MAX)
        .flatMap((worker) => parseReport(worker, reports[worker]!) ?? [])
    },

    /** Remove the reports about DIGEST when a new deployment starts. */
    async forget(digest: string): Promise<void> {
      await redis.del(keyOf(digest)).catch(away)
    },
  }
}
