// Waits after a deployment until all live workers have the image, and shows the progress of the pull. Both
// come from the gateway: its list of workers, and their last reports about the function's image.

import { setTimeout as sleep } from 'node:timers/promises'
import type { PullReport } from '../functions/pull-reports.ts'
import type { Context } from './context.ts'
import type { GatewayClient, WorkerStatus } from './gateway-client.ts'
import { createProgress } from './image/progress.ts'
import { formatAge, printable } from './terminal.ts'

const POLL_MS = 150
/** A worker that has not reported by then does not prefetch: it is an older version or is stopping. */
const BEGIN_MS = 5_000
const WAIT_MS = 15 * 60_000

/**
 * Waits, with progress on stderr. Resolves with the number of workers that have the image, and the reasons of
 * those that failed.
 */
export async function awaitImage(
  client: GatewayClient,
  name: string,
  context: Context,
  { quiet }: { quiet: boolean },
): Promise<{ ready: number; failures: readonly string[] }> {
  const workersNow = async (): Promise<readonly WorkerStatus[]> =>
    (await client.json({ method: 'GET', path: '/system/workers' })) as readonly WorkerStatus[]
  const begun = await workersNow()
  if (!quiet && begun.length === 0)
    context.stderr.write('no worker is running; calls wait until one starts\n')
  const progress = createProgress(context, { quiet })
  const before = new Map<string, string>()
  const startedAt = performance.now()
  for (;;) {
    const now = await workersNow()
    // A worker that died or restarted does not continue its pull, whatever its last report says; the first
    // call pulls.
    const live = begun
      .filter(({ name, startedAtMs }) =>
        now.some((one) => one.name === name && one.startedAtMs === startedAtMs),
      )
      .map(({ name }) => name)
    const { workers } = (await client.json({
      method: 'GET',
      path: `/system/function/${encodeURIComponent(name)}/pulls`,
    })) as { workers: readonly PullReport[] }
    const pulls = workers.filter((pull) => live.includes(pull.worker))
    // Only the first worker that pulls is shown; the others fetch the same layers.
    const shown = pulls.find((pull) => pull.layers.length > 0)
    for (const layer of shown?.layers ?? []) {
      if (before.get(layer.layer) !== JSON.stringify(layer)) progress.onLayer(layer)
      before.set(layer.layer, JSON.stringify(layer))
    }
    const waitedMs = performance.now() - startedAt
    const isSilent = (worker: string): boolean => !pulls.some((pull) => pull.worker === worker)
    const isOver =
      pulls.every((pull) => pull.state !== 'pulling') && (waitedMs > BEGIN_MS || !live.some(isSilent))
    if (isOver || waitedMs > WAIT_MS) {
      progress.end()
      const failures = pulls
        .filter((pull) => pull.state === 'failed')
        .map((pull) => printable(`${pull.worker}: ${pull.message ?? 'no reason given'}`))
      const ready = pulls.filter((pull) => pull.state === 'ready').length
      if (!quiet && ready > 0 && failures.length === 0)
        context.stderr.write(
          `image ready on ${ready} worker${ready === 1 ? '' : 's'} after ${formatAge(waitedMs)}\n`,
        )
      if (!quiet && begun.length > 0 && ready === 0 && failures.length === 0)
        context.stderr.write('no worker has the image yet; the first call will wait for it\n')
      return { ready, failures }
    }
    await sleep(POLL_MS)
  }
}
