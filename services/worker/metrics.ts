// The worker's instruments.  The label `function` is bounded, because names come from the function store.

import { metrics } from '@opentelemetry/api'
import type { CallRecord, Usage } from '../contract/call-record.ts'
import { PHASES } from '../contract/call-record.ts'
import { DURATION_BUCKETS_SECONDS } from '../platform/telemetry.ts'

const MEMORY_BUCKETS_BYTES = Array.from({ length: 15 }, (_, i) => 2 ** (20 + i))
const PROCESS_BUCKETS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]

export interface WorkerMetrics {
  containerStarted(name: string, seconds: number): void
  /** An attempt ended and was settled. */
  callSettled(record: CallRecord): void
}

/** Resources that containers used, by function: counters of sums, histograms of peaks. */
function createUsageInstruments() {
  const meter = metrics.getMeter('wherry')
  const cpu = meter.createCounter('wherry_function_cpu_seconds', {
    description: 'CPU time that functions used',
  })
  const throttled = meter.createCounter('wherry_function_cpu_throttled_seconds', {
    description: 'Time for which the CPU limit throttled functions',
  })
  const oomKills = meter.createCounter('wherry_function_oom_kills', {
    description: 'Processes killed by the kernel because a function reached its memory limit',
  })
  const io = meter.createCounter('wherry_function_io_bytes', {
    description: 'Bytes that functions read from and wrote to block devices',
  })
  const memory = meter.createHistogram('wherry_function_memory_peak_bytes', {
    description: 'Peak memory of a call',
    advice: { explicitBucketBoundaries: MEMORY_BUCKETS_BYTES },
  })
  const processes = meter.createHistogram('wherry_function_processes_peak', {
    description: 'Peak number of processes and threads of a call',
    advice: { explicitBucketBoundaries: PROCESS_BUCKETS },
  })
  return (name: string, usage: Usage): void => {
    cpu.add(usage.cpuMs / 1000, { function: name })
    throttled.add(usage.cpuThrottledMs / 1000, { function: name })
    oomKills.add(usage.oomKills, { function: name })
    if (usage.ioReadBytes !== undefined) io.add(usage.ioReadBytes, { function: name, direction: 'read' })
    if (usage.ioWriteBytes !== undefined) io.add(usage.ioWriteBytes, { function: name, direction: 'write' })
    memory.record(usage.memoryPeakBytes, { function: name })
    if (usage.pidsPeak !== undefined) processes.record(usage.pidsPeak, { function: name })
  }
}

/** Instruments on the global meter; call after startTelemetry.  RUNNING and SLOTS are read at each scrape. */
export function createWorkerMetrics({
  running,
  slots,
}: {
  running: () => number
  slots: number
}): WorkerMetrics {
  const meter = metrics.getMeter('wherry')
  const seconds = { advice: { explicitBucketBoundaries: DURATION_BUCKETS_SECONDS } }
  const starts = meter.createHistogram('wherry_container_start_seconds', {
    description: 'Time to start a container: cgroup, clone and mounts, until the function’s program runs',
    ...seconds,
  })
  const calls = meter.createCounter('wherry_worker_calls', {
    description: 'Attempts settled by this worker, by outcome',
  })
  const phases = meter.createHistogram('wherry_call_phase_seconds', {
    description: 'Time of an attempt by phase',
    ...seconds,
  })
  const recordUsage = createUsageInstruments()
  meter
    .createObservableGauge('wherry_containers_running', { description: 'Containers alive on this worker' })
    .addCallback((result) => result.observe(running()))
  meter
    .createObservableGauge('wherry_worker_slots', { description: 'Containers that may be alive at once' })
    .addCallback((result) => result.observe(slots))
  return {
    containerStarted: (name, duration) => starts.record(duration, { function: name }),
    callSettled(record) {
      const name = record.function
      if (record.outcome) calls.add(1, { function: name, outcome: record.outcome })
      if (record.usage) recordUsage(name, record.usage)
      for (const phase of record.phases ? PHASES : []) phases.record(record.phases![phase] / 1000, { phase })
    },
  }
}
