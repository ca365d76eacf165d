// `events`: what a container uses, and that memory ran out in it, one JSON object per line as runc prints
// them.  Looks every now and then; nothing is left in the cgroup by looking.

import { setTimeout as pause } from 'node:timers/promises'
import { parseDurationMs } from '../contract/quantity.ts'
import { oomKillsOf, statsOf } from '../runtime/cgroup/stats.ts'
import type { Context } from './context.ts'
import { OciError } from './failure.ts'
import { isAlive, statusOf } from './store.ts'

const LOOK_MS = 200
const INTERVAL_MAX_MS = 86_400_000

/** "5s", "1m30s", "500ms", as Go writes durations. */
export function parseInterval(text: string): number {
  const intervalMs = parseDurationMs(text)
  if (intervalMs === undefined || intervalMs < 1 || intervalMs > INTERVAL_MAX_MS)
    throw new OciError(`--interval ${text} is not a duration such as 5s`)
  return intervalMs
}

/**
 * Print statistics once (ONCE), or every INTERVALMS until the container ends, and each time memory ran out.
 */
export async function printEvents(
  context: Context,
  id: string,
  { once, intervalMs }: { once: boolean; intervalMs: number },
): Promise<void> {
  const record = context.store.load(id)
  const status = statusOf(context.store, record)
  if (status === 'stopped' || status === 'creating')
    throw new OciError(`container "${id}" is not running, it is ${status}`)
  const print = (type: string, data?: object): void => {
    context.world.print(`${JSON.stringify({ type, id, ...(data && { data }) })}\n`)
  }
  if (once) return print('stats', statsOf(record.cgroup))
  let kills = oomKillsOf(record.cgroup)
  let due = performance.now() + intervalMs
  for (let alive = true; alive;) {
    await pause(Math.max(0, Math.min(LOOK_MS, due - performance.now())))
    alive = isAlive(record)
    const now = oomKillsOf(record.cgroup)
    for (; kills < now; kills++) print('oom')
    if (alive && performance.now() >= due) {
      print('stats', statsOf(record.cgroup))
      due += intervalMs
    }
  }
}
