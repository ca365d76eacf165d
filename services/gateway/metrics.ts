// The gateway's instruments.  Function names come from the function store and routes from the route table, so
// callers cannot create series; past 2,000 series per instrument the SDK folds the rest into one (label
// otel_metric_overflow).

import { metrics } from '@opentelemetry/api'
import { Overloaded } from '../contract/errors.ts'
import type { Outcome } from '../contract/outcome.ts'
import type { FunctionStore } from '../functions/store.ts'
import { DURATION_BUCKETS_SECONDS } from '../platform/telemetry.ts'
import type { Producer } from '../queue/producer.ts'

export interface GatewayMetrics {
  /** A waiting caller got its reply, or disconnected. */
  callEnded(name: string, outcome: Outcome, seconds: number): void
  /** An async call was accepted. */
  callQueued(name: string): void
  replied(route: string, statusCode: number): void
  stop(): void
}

const STATES = ['waiting', 'active', 'delayed', 'failed'] as const

/** Instruments on the global meter; call after startTelemetry. */
export function createGatewayMetrics({
  functions,
  producer,
}: {
  functions: FunctionStore
  producer: Producer
}): GatewayMetrics {
  const meter = metrics.getMeter('wherry')
  const calls = meter.createCounter('wherry_calls', { description: 'Sync calls answered, by how they ended' })
  const durations = meter.createHistogram('wherry_call_duration_seconds', {
    description: 'Sync calls from first byte in to reply, in seconds',
    advice: { explicitBucketBoundaries: DURATION_BUCKETS_SECONDS },
  })
  const queued = meter.createCounter('wherry_calls_queued', { description: 'Async calls accepted' })
  const requests = meter.createCounter('wherry_http_requests', {
    description: 'HTTP replies by route and status',
  })
  const depth = meter.createObservableGauge('wherry_queue_depth', {
    description: 'Jobs per function and state',
  })

  const observeDepth: Parameters<typeof depth.addCallback>[0] = async (result) => {
    const names = functions.list().map((record) => record.spec.name)
    try {
      for (const [name, jobs] of await producer.depths(names)) {
        for (const state of STATES) result.observe(jobs[state], { function: name, state })
      }
    } catch (err) {
      // A scrape must survive an outage of Redis; the gauge is missing then.
      if (!(err instanceof Overloaded)) throw err
    }
  }
  depth.addCallback(observeDepth)

  return {
    callEnded(name, outcome, seconds) {
      calls.add(1, { function: name, outcome })
      durations.record(seconds, { function: name })
    },
    callQueued: (name) => queued.add(1, { function: name }),
    replied: (route, statusCode) => requests.add(1, { route, code: statusCode }),
    stop: () => depth.removeCallback(observeDepth),
  }
}
