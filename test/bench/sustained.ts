// The second half of `make bench`: the cost of containers over time, and of many kept containers.
//
//   containers-per-second  started and reaped by one worker process, four in parallel; p50 and worst second
//   event-loop-p99         event loop delay of that process during the run
//   worker-rss-growth      growth of its memory from the first tenth of the run to the end
//   kept-container-kib     worker memory per paused container, with many containers alive
//   pause-resume           time to pause and resume one of them

import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { createLog } from '../../services/platform/log.ts'
import type { Container } from '../../services/runtime/container.ts'
import { openRuntime } from '../../services/runtime/open.ts'

export interface Row {
  readonly name: string
  readonly unit: string
  readonly p50: number
  readonly p99: number
  readonly n: number
}

const AT_ONCE = 4
const KEPT = 1000
const PAUSES = 300
const PAUSE_BATCH = 50

const percentile = (values: readonly number[], share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
}

function closePipes(container: Container): void {
  for (const fd of [container.stdin, container.stdout, container.stderr]) closeSync(fd)
}

const log = createLog({ name: 'bench', level: 'error' })

/** Start and reap SPEC for SECONDS. Throws if a container fails. */
export async function measureRate(
  spec: RuntimeSpec,
  { folder, nativeDir, seconds }: { folder: string; nativeDir: string; seconds: number },
): Promise<Row[]> {
  const runtime = await openRuntime({ nativeDir, dataDir: join(folder, 'rate'), slots: AT_ONCE, log })
  const delay = monitorEventLoopDelay({ resolution: 1 })
  const perSecond: number[] = Array.from({ length: seconds }, () => 0)
  const startedAt = performance.now()
  const elapsed = (): number => (performance.now() - startedAt) / 1000
  let rssEarly = 0
  delay.enable()
  async function loop(): Promise<void> {
    while (elapsed() < seconds) {
      const container = runtime.start(spec)
      const exit = await container.exited
      closePipes(container)
      if (exit.exitCode !== 0) throw new Error(`a container exited with ${exit.exitCode ?? exit.signal}`)
      const second = Math.floor(elapsed())
      if (second < seconds) perSecond[second]! += 1
      if (rssEarly === 0 && elapsed() > seconds / 10) rssEarly = process.memoryUsage.rss()
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, loop))
  delay.disable()
  const growth = (process.memoryUsage.rss() / rssEarly - 1) * 100
  await runtime.close()
  const total = perSecond.reduce((sum, count) => sum + count, 0)
  return [
    {
      name: 'containers-per-second',
      unit: '1/s',
      p50: percentile(perSecond, 0.5),
      p99: Math.min(...perSecond),
      n: total,
    },
    {
      name: 'event-loop-p99',
      unit: 'ms',
      p50: delay.percentile(50) / 1e6,
      p99: delay.percentile(99) / 1e6,
      n: delay.count,
    },
    { name: 'worker-rss-growth', unit: '%', p50: growth, p99: growth, n: total },
  ]
}

/** Start many containers of SPEC, a sleeping program; pause, measure and kill them. */
export async function measureKept(
  spec: RuntimeSpec,
  { folder, nativeDir }: { folder: string; nativeDir: string },
): Promise<Row[]> {
  const runtime = await openRuntime({ nativeDir, dataDir: join(folder, 'kept'), slots: KEPT, log })
  const kept: Container[] = []
  globalThis.gc?.()
  const before = process.memoryUsage.rss()
  try {
    for (let i = 0; i < KEPT; i++) {
      const container = runtime.start(spec)
      closePipes(container)
      kept.push(container)
      if (kept.length % PAUSE_BATCH === 0) await Promise.all(kept.slice(-PAUSE_BATCH).map((c) => c.pause()))
    }
    globalThis.gc?.()
    const kib = (process.memoryUsage.rss() - before) / 1024 / KEPT
    const times: number[] = []
    for (let i = 0; i < PAUSES; i++) {
      const container = kept[i % kept.length]!
      const startedAt = performance.now()
      container.resume()
      await container.pause()
      times.push(performance.now() - startedAt)
    }
    return [
      { name: 'kept-container-kib', unit: 'KiB', p50: kib, p99: kib, n: kept.length },
      {
        name: 'pause-resume',
        unit: 'ms',
        p50: percentile(times, 0.5),
        p99: percentile(times, 0.99),
        n: times.length,
      },
    ]
  } finally {
    for (const container of kept) container.kill()
    await Promise.allSettled(kept.map((container) => container.exited))
    await runtime.close()
  }
}
