// The metrics SDK behind OpenTelemetry's API, exported as Prometheus text. Rooms create their instruments
// with metrics.getMeter('wherry') of @opentelemetry/api, after startTelemetry. Attributes must come from
// bounded sets (deployed functions, outcomes), never from call ids or raw input.

import { metrics, type Meter } from '@opentelemetry/api'
import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus'
import { MeterProvider } from '@opentelemetry/sdk-metrics'

/** Bucket bounds in seconds for calls and container starts; the SDK's defaults are for milliseconds. */
export const DURATION_BUCKETS_SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
]

export interface Telemetry {
  /** All metrics of this process as Prometheus text (exposition format 0.0.4). */
  scrape(): Promise<{ contentType: string; text: string }>
  stop(): Promise<void>
}

/** Starts metrics for the process SERVICENAME ("gateway") and installs them globally. */
export function startTelemetry({ serviceName }: { serviceName: string }): Telemetry {
  const exporter = new PrometheusExporter({ preventServerStart: true })
  const provider = new MeterProvider({ readers: [exporter] })
  metrics.setGlobalMeterProvider(provider)
  observeProcess(provider.getMeter('wherry'), serviceName)
  // No prefix, no timestamps, no resource labels, no target_info, no otel_scope_name on every series.
  const serializer = new PrometheusSerializer(undefined, false, undefined, true, true)
  let stopped = false
  return {
    async scrape() {
      const { resourceMetrics, errors } = await exporter.collect()
      if (errors.length > 0) throw new AggregateError(errors, 'reading a metric failed')
      return {
        contentType: 'text/plain; version=0.0.4; charset=utf-8',
        text: serializer.serialize(resourceMetrics),
      }
    },
    async stop() {
      if (stopped) return
      stopped = true
      metrics.disable()
      await provider.shutdown()
    },
  }
}

function observeProcess(meter: Meter, serviceName: string): void {
  const startedAtSeconds = Date.now() / 1000 - process.uptime()
  meter
    .createObservableGauge('process_resident_memory_bytes', { description: 'Resident memory of the process' })
    .addCallback((result) => result.observe(process.memoryUsage.rss()))
  meter
    .createObservableCounter('process_cpu_seconds', { description: 'CPU time the process used' })
    .addCallback((result) => {
      const { user, system } = process.cpuUsage()
      result.observe((user + system) / 1e6)
    })
  meter
    .createObservableGauge('process_start_time_seconds', {
      description: 'Start of the process since the Unix epoch',
    })
    .addCallback((result) => result.observe(startedAtSeconds))
  meter
    .createObservableGauge('wherry_process', {
      description: '1 for every process that is up; role and Node version as labels',
    })
    .addCallback((result) => result.observe(1, { role: serviceName, node: process.version }))
}
