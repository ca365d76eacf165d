// After a deployment: how far each worker is with the image, until all that live have it. Knows the gateway's
// two answers about that and the terminal; refuses to know how an image is pulled.

import { setTimeout as sleep } from 'node:timers/promises'
import type { PullReport } from '../functions/pull-reports.ts'
import type { Context } from './context.ts'
import type { GatewayClient, WorkerStatus } from './gateway-client.ts'
import { createProgress } from './image/progress.ts'
import { formatAge, printable } from './terminal.ts'

const POLL_MS = 150
/** A worker that has not begun by then does not prefetch (it is older, or about to end). */
const BEGIN_MS = 5_000
const WAIT_MS = 15 * 60_000

/**
 * Waits, with progress on stderr. Resolves with the reasons of workers that could not have the image, and
 * whether any has it.
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
  if (!quiet && begun.length === 0) context.stderr.write('no worker runs; calls wait until one does\n')
  const progress = createProgress(context, { quiet })
  const before = new Map<string, string>()
  const startedAt = performance.now()
  for (;;) {
    const now = await workersNow()
    // One that died, or was started again, pulls no more, whatever its last report says: it leaves that to
    // the first call.
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
    // Of several workers the first to pull is shown; the others fetch the same layers.
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
        .map((pull) => printable(`${pull.worker}: ${pull.message ?? 'no reason was given'}`))
      const ready = pulls.filter((pull) => pull.state === 'ready').length
      if (!quiet && ready > 0 && failures.length === 0)
        context.stderr.write(
          `image ready on ${ready} worker${ready === 1 ? '' : 's'} after ${formatAge(waitedMs)}\n`,
        )
      if (!quiet && begun.length > 0 && ready === 0 && failures.length === 0)
        context.stderr.write('no worker has the image yet; the first call waits for it\n')
      return { ready, failures }
    }
    await sleep(POLL_MS)
  }
}
