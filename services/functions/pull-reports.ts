// How far each worker is with the image of a deployment: one Redis hash per digest, worker → report as JSON,
// with a short life. Workers write, gateways read. Refuses to know what a layer is and who wants to see it.

import type { LayerProgress } from '../contract/image.ts'
import { asOverloaded, type RedisClient } from '../platform/redis.ts'

export interface PullReport {
  readonly worker: string
  readonly state: 'pulling' | 'ready' | 'failed'
  /** Those that had to be fetched, in the order they began. */
  readonly layers: readonly LayerProgress[]
  /** Why it failed. */
  readonly message?: string
}

/** Reports of a pull that nobody continues are forgotten after this. */
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
    return undefined // not a worker's: as good as not there
  }
  if (typeof value !== 'object' || value === null || !('state' in value) || !('layers' in value))
    return undefined
  const { state, layers } = value
  if (typeof state !== 'string' || !STATES.includes(state) || !Array.isArray(layers)) return undefined
  const message = 'message' in value && typeof value.message === 'string' ? value.message : undefined
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
    ...(message !== undefined && { message }),
  }
}

export type PullReports = ReturnType<typeof createPullReports>

/** The reports over REDIS, which stays its owner's.  All throw Overloaded while Redis is away. */
export function createPullReports({ redis, prefix }: { redis: RedisClient; prefix: string }) {
  const keyOf = (digest: string): string => `${prefix}:@pull:${digest}`
  const away = (err: unknown): never => {
    throw asOverloaded(err)
  }

  return {
    /** Says how far REPORT.worker is with DIGEST. */
    async write(digest: string, { worker, message, layers, ...report }: PullReport): Promise<void> {
      const text = JSON.stringify({
        ...report,
        layers: layers.slice(0, LAYERS_MAX),
        ...(message !== undefined && { message: message.slice(0, MESSAGE_CHARACTERS_MAX) }),
      })
      const key = keyOf(digest)
      await redis.multi().hset(key, worker, text).expire(key, LIFE_S).exec().catch(away)
    },

    /** What workers said about DIGEST, by worker. */
    async read(digest: string): Promise<readonly PullReport[]> {
      const reports: Record<string, string> = await redis.hgetall(keyOf(digest)).catch(away)
      return Object.keys(reports)
        .sort()
        .slice(0, WORKERS_MAX)
        .flatMap((worker) => parseReport(worker, reports[worker]!) ?? [])
    },

    /** A new deployment of DIGEST begins; what was said about an earlier one is not about it. */
    async forget(digest: string): Promise<void> {
      await redis.del(keyOf(digest)).catch(away)
    },
  }
}
