// `events`: statistics of a container and its out-of-memory kills, one JSON object per line in runc's format.
// Polls the cgroup and leaves no trace in it.

import { setTimeout as pause } from 'node:timers/promises'
import { defined } from '../contract/defined.ts'
import { parseDurationMs } from '../contract/quantity.ts'
import type { Context } from './context.ts'
import { OciError } from './failure.ts'

const POLL_MS = 200
const INTERVAL_MAX_MS = 86_400_000

/** A duration in Go's format: "5s", "1m30s", "500ms". */
export function parseInterval(text: string): number {
  const intervalMs = parseDurationMs(text)
  if (intervalMs === undefined || intervalMs < 1 || intervalMs > INTERVAL_MAX_MS)
    throw new OciError(`--interval ${text} is not a duration such as 5s`)
  return intervalMs
}

/**
 * Print statistics ONCE, or every INTERVALMS until the container exits together with each out-of-memory kill.
 */
export async function printEvents(
  context: Context,
  id: string,
  { once, intervalMs }: { once: boolean; intervalMs: number },
): Promise<void> {
  const usage = context.containers.usage(id)
  const print = (type: string, data?: object): void => {
    context.world.print(`${JSON.stringify({ type, id, ...defined({ data }) })}\n`)
  }
  if (once) return print('stats', usage.stats())
  let kills = usage.oomKills()
  let due = performance.now() + intervalMs
  for (let alive = true; alive;) {
    await pause(Math.max(0, Math.min(POLL_MS, due - performance.now())))
    alive = usage.isAlive()
    const now = usage.oomKills()
    for (; kills < now; kills++) print('oom')
    if (alive && performance.now() >= due) {
      print('stats', usage.stats())
      due += intervalMs
    }
  }
}
