// Parses a container's usage from the files of its cgroup, v1 (Documentation/admin-guide/cgroup-v1) and v2
// (cgroup-v2.rst). Pure.

import type { Usage } from '../../contract/call-record.ts'

/** The number of NAME in a file of "NAME number" lines; 0 if the kernel does not write that line. */
function field(text: string, name: string): number {
  return Number(
    text
      .split('\n')
      .find((line) => line.startsWith(`${name} `))
      ?.slice(name.length + 1) ?? 0,
  )
}

/** The sum of the numbers that PATTERN matches in TEXT, one per block device. */
function sum(text: string, pattern: RegExp): number {
  let total = 0
  for (const [, value] of text.matchAll(pattern)) total += Number(value)
  return total
}

export interface UsageTexts {
  readonly cpuStat: string
  readonly memoryPeak: string
  readonly pidsPeak: string | undefined
  readonly io: string | undefined
}

/** v1: CPUACCT is cpuacct.usage (nanoseconds), IO blkio.throttle.io_service_bytes. */
export function parseV1({
  cpuacct,
  oomControl,
  cpuStat,
  memoryPeak,
  pidsPeak,
  io,
}: UsageTexts & { readonly cpuacct: string; readonly oomControl: string }): Usage {
  return {
    cpuMs: Number(cpuacct) / 1e6,
    cpuPeriods: field(cpuStat, 'nr_periods'),
    cpuThrottledPeriods: field(cpuStat, 'nr_throttled'),
    cpuThrottledMs: field(cpuStat, 'throttled_time') / 1e6,
    memoryPeakBytes: Number(memoryPeak),
    oomKills: field(oomControl, 'oom_kill'),
    ...(pidsPeak !== undefined && { pidsPeak: Number(pidsPeak) }),
    ...(io !== undefined && {
      ioReadBytes: sum(io, /^\S+ Read (\d+)$/gm),
      ioWriteBytes: sum(io, /^\S+ Write (\d+)$/gm),
    }),
  }
}

/** v2: EVENTS is memory.events, IO io.stat. */
export function parseV2({
  events,
  cpuStat,
  memoryPeak,
  pidsPeak,
  io,
}: UsageTexts & { readonly events: string }): Usage {
  return {
    cpuMs: field(cpuStat, 'usage_usec') / 1e3,
    cpuPeriods: field(cpuStat, 'nr_periods'),
    cpuThrottledPeriods: field(cpuStat, 'nr_throttled'),
    cpuThrottledMs: field(cpuStat, 'throttled_usec') / 1e3,
    memoryPeakBytes: Number(memoryPeak),
    oomKills: field(events, 'oom_kill'),
    ...(pidsPeak !== undefined && { pidsPeak: Number(pidsPeak) }),
    ...(io !== undefined && {
      ioReadBytes: sum(io, / rbytes=(\d+)/g),
      ioWriteBytes: sum(io, / wbytes=(\d+)/g),
    }),
  }
}

/**
 * Usage between two readings of one cgroup. Peaks are those of the later reading.
 */
export function usageSince(now: Usage, before: Usage): Usage {
  return {
    ...now,
    cpuMs: now.cpuMs - before.cpuMs,
    cpuPeriods: now.cpuPeriods - before.cpuPeriods,
    cpuThrottledPeriods: now.cpuThrottledPeriods - before.cpuThrottledPeriods,
    cpuThrottledMs: now.cpuThrottledMs - before.cpuThrottledMs,
    ...(now.ioReadBytes !== undefined && { ioReadBytes: now.ioReadBytes - (before.ioReadBytes ?? 0) }),
    ...(now.ioWriteBytes !== undefined && { ioWriteBytes: now.ioWriteBytes - (before.ioWriteBytes ?? 0) }),
  }
}
