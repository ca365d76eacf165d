// The worker's own instruments.  Function names come from the function store, so they are bounded.

import { metrics } from '@opentelemetry/api'
import type { CallRecord } from '../contract/call-record.ts'
import { PHASES } from '../contract/call-record.ts'
import { DURATION_BUCKETS_SECONDS } from '../platform/telemetry.ts'

export interface WorkerMetrics {
  containerStarted (name: string, seconds: number): void
  /** An attempt ended and was settled. */
  callSettled (record: CallRecord): void
}

/** Instruments on the global meter; call after startTelemetry.  RUNNING and SLOTS are read at each scrape. */
export function createWorkerMetrics ({ running, slots }: { running: () => number, slots: number }): WorkerMetrics {
  const meter = metrics.getMeter('wherry')
  const seconds = { advice: { explicitBucketBoundaries: DURATION_BUCKETS_SECONDS } }
  const starts = meter.createHistogram('wherry_container_start_seconds', { description: 'Cgroup, clone and mounts until the function’s program runs', ...seconds })
  const calls = meter.createCounter('wherry_worker_calls', { description: 'Attempts settled by this worker, by how they ended' })
  const phases = meter.createHistogram('wherry_call_phase_seconds', { description: 'Where the time of an attempt went', ...seconds })
  const cpu = meter.createCounter('wherry_function_cpu_seconds', { description: 'CPU time that functions used' })
  meter.createObservableGauge('wherry_containers_running', { description: 'Containers alive on this worker' }).addCallback(result => result.observe(running()))
  meter.createObservableGauge('wherry_worker_slots', { description: 'Containers that may be alive at once' }).addCallback(result => result.observe(slots))
  return {
    containerStarted: (name, duration) => starts.record(duration, { function: name }),
    callSettled (record) {
      const name = record.function
      if (record.outcome) calls.add(1, { function: name, outcome: record.outcome })
      if (record.usage) cpu.add(record.usage.cpuMs / 1000, { function: name })
      for (const phase of record.phases ? PHASES : []) phases.record(record.phases![phase] / 1000, { phase })
    },
  }
}
