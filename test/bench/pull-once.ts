// One pull as a worker does it, in a separate process: node pull-once.ts STORE REFERENCE DIGEST. Prints one
// line of JSON: the cost in time, memory and event-loop delay, and the cost of repeated pulls.

import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { createPuller } from '../../services/images/pull.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { createImageStore } from '../../services/images/store.ts'

export interface PullCost {
  readonly pullMs: number
  /** A second pull in the same process. */
  readonly knownMs: number
  /** A pull by a new puller on the same store, as in the first call after a worker starts. */
  readonly storedMs: number
  readonly rssGrowthBytes: number
  readonly loopDelayP99Ms: number
}

const NATIVE_DIR = join(import.meta.dirname, '../../build/native')
const SAMPLE_MS = 50

async function time(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}

async function main([dir, reference, digest]: readonly string[]): Promise<void> {
  const ref = parseReference(reference!)
  const store = createImageStore({ dir: dir! })
  const registry = createRegistryClient()
  const puller = createPuller({ store, registry, nativeDir: NATIVE_DIR })
  const rssStart = process.memoryUsage.rss()
  let rssMax = rssStart
  const sampler = setInterval(() => {
    rssMax = Math.max(rssMax, process.memoryUsage.rss())
  }, SAMPLE_MS)
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  const pullMs = await time(() => puller.ensure(ref, digest!))
  delay.disable()
  clearInterval(sampler)
  const knownMs = await time(() => puller.ensure(ref, digest!))
  const secondStore = createImageStore({ dir: dir! })
  const second = createPuller({ store: secondStore, registry, nativeDir: NATIVE_DIR })
  const storedMs = await time(() => second.ensure(ref, digest!))
  const cost: PullCost = {
    pullMs,
    knownMs,
    storedMs,
    rssGrowthBytes: rssMax - rssStart,
    loopDelayP99Ms: delay.percentile(99) / 1e6,
  }
  console.log(JSON.stringify(cost))
  await puller.stop()
  await second.stop()
  await registry.close()
  store.close()
  secondStore.close()
}

await main(process.argv.slice(2))
