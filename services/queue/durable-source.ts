// The durable lane: one BullMQ queue per function, behind the door of taken-call.ts.  Holds two connections
// however many functions there are: one blocked until there is work, one for everything else.

import { randomUUID } from 'node:crypto'
import type { Log } from '../platform/log.ts'
import { openRedis } from '../platform/redis.ts'
import { createDurableCalls } from './durable-call.ts'
import { keysOf } from './keys.ts'
import { createFunctionQueues, type LeaseTimes } from './function-queues.ts'
import { createLeases } from './leases.ts'
import { createMarkers, type Markers } from './markers.ts'
import { createSettler } from './settle.ts'
import { createSweep } from './sweep.ts'
import type { Announced, CallSource, TakenCall } from './taken-call.ts'

export interface DurableSourceDeps {
  readonly redisUrl: string
  readonly prefix: string
  readonly workerName: string
  readonly bodyMaxBytes: number
  readonly times: LeaseTimes
  readonly log: Log
}

/** Connects in the background; while Redis is away, `next` waits. */
export function openDurableSource(deps: DurableSourceDeps): CallSource {
  const { redisUrl, prefix, workerName, bodyMaxBytes, times, log } = deps
  const { lockDurationMs, stalledIntervalMs } = times
  /** Ends waiting for a Redis that is away. */
  const closing = new AbortController()
  const commands = openRedis(redisUrl, {
    temper: 'patient',
    name: `wherry-worker-${workerName}`,
    onError: (error) => log.warn({ err: error }, 'Redis is away; waiting for it'),
  })
  const queues = createFunctionQueues(commands, { prefix, workerName, times })
  const leases = createLeases({ commands, lockDurationMs, log })
  const markers: Markers = createMarkers({
    redisUrl,
    prefix,
    workerName,
    commands,
    onReady: () => sweep.hurry(),
    log,
  })
  const sweep = createSweep({ commands, prefix, markers, queues, intervalMs: stalledIntervalMs, log })
  const settler = createSettler({
    commands,
    prefix,
    workerName,
    lockDurationMs,
    closing: closing.signal,
    log,
  })
  const openCall = createDurableCalls({ commands, keys: keysOf(prefix), leases, settler, bodyMaxBytes })
  const held = new Set<TakenCall>()

  /**
   * One job of NAME.  BullMQ raises the marker again with each job that it gives, so the next one is found.
   */
  async function take(name: string): Promise<TakenCall | undefined> {
    const token = randomUUID()
    const queue = await queues.get(name)
    const job = await queue.take(token)
    if (job.kind === 'none') {
      if (job.againAtMs !== undefined) markers.raise(name, job.againAtMs)
      return undefined
    }
    const taken = await openCall(queue, job, token)
    const call: TakenCall = {
      ...taken,
      release() {
        held.delete(call)
        taken.release()
      },
    }
    held.add(call)
    return call
  }

  return {
    start() {
      markers.start()
      leases.start()
      sweep.start()
    },

    quiet() {
      sweep.stop()
      markers.wake()
    },

    async stop() {
      sweep.stop()
      leases.stop()
      closing.abort()
      await markers.stop()
      commands.disconnect()
    },

    watch(functions) {
      markers.watch(functions)
      sweep.hurry()
    },

    async next(): Promise<Announced | undefined> {
      const name = await markers.next()
      return name === undefined ? undefined : { take: () => take(name), pass: () => markers.raise(name) }
    },

    held,
  }
}
