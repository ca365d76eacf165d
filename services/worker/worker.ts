// The worker as one long-lived part: function store, images, container runtime, dispatcher, heartbeat,
// status server, in the order they start and stop.  Data flows one way: the dispatcher hands over an
// invocation, execute gives a completion back, the dispatcher settles it.

import { mkdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { createPullReports } from '../functions/pull-reports.ts'
import { createFunctionStore } from '../functions/store.ts'
import { createLocalFirst } from '../images/local-first.ts'
import { openRegistryClient } from '../registry/open-registry.ts'
import { createPuller } from '../images/pull.ts'
import { createImageStore } from '../images/store.ts'
import type { Environment } from '../platform/config.ts'
import type { Running } from '../platform/lifecycle.ts'
import type { Log } from '../platform/log.ts'
import { openRedis } from '../platform/redis.ts'
import { startTelemetry } from '../platform/telemetry.ts'
import { createDispatcher } from '../queue/dispatcher.ts'
import { createHeartbeat } from '../queue/heartbeat.ts'
import { openRuntime } from '../runtime/open.ts'
import type { WorkerConfig } from './config.ts'
import { createExecute } from './execute.ts'
import { createImageKeeper } from './images.ts'
import { createWorkerMetrics } from './metrics.ts'
import { createPrefetch } from './prefetch.ts'
import { createRunningCalls } from './running.ts'
import { startStatusServer } from './status-server.ts'
import { createVolumes } from './volumes.ts'

/** Of the process's stop timeout, what running calls may use; the rest is for closing down. */
const DRAIN_SHARE = 0.8

/**
 * Starts a worker; ENV is where proxies and CAs for registries are named. Resolves once it takes calls.
 * Throws Unsupported, InvalidRequest.
 */
export async function startWorker(
  config: WorkerConfig,
  log: Log,
  env: Environment,
): Promise<Running & { url: string }> {
  const { redisUrl, prefix, workerName, dataDir, nativeDir, slots, bodyMaxBytes, registriesFile } = config
  mkdirSync(dataDir, { recursive: true, mode: 0o711 })
  const telemetry = startTelemetry({ serviceName: 'worker' })
  const runtime = await openRuntime({ nativeDir, dataDir, slots, log })
  const running = createRunningCalls()
  const metrics = createWorkerMetrics({ running: () => runtime.running, slots })
  const redis = openRedis(redisUrl, {
    temper: 'patient',
    name: `wherry-worker-${workerName}`,
    onError: (err) => log.warn({ err }, 'Redis is away; waiting for it'),
  })
  const functions = createFunctionStore({ redis, prefix, log })
  const store = createImageStore({ dir: join(dataDir, 'images'), onNote: (text) => log.warn(text) })
  const registry = openRegistryClient({ env, dataDir, registriesFile })
  const puller = createPuller({
    store,
    registry: createLocalFirst({ store, registry }),
    nativeDir,
    onProgress: (progress) => prefetch.onProgress(progress),
  })
  const prefetch = createPrefetch({
    workerName,
    puller,
    reports: createPullReports({ redis, prefix }),
    onPulled: () => images.pulled(),
    log,
  })
  const images = createImageKeeper({ store, puller, high: config.imagesHigh, low: config.imagesLow, log })
  const execute = createExecute({
    find: functions.get,
    puller,
    images,
    runtime,
    volumes: createVolumes({ directory: join(dataDir, 'volumes') }),
    metrics,
    running,
    responseMaxBytes: bodyMaxBytes,
    log,
  })
  const dispatcher = createDispatcher({
    redisUrl,
    prefix,
    workerName,
    slots,
    run: execute,
    log,
    bodyMaxBytes,
    onSettled: metrics.callSettled,
  })
  const watch = (): void => dispatcher.watch(functions.list().map((record) => record.spec.name))
  // Only after a change that was loaded: a list that is empty because Redis is away says nothing.
  const tellImages = (): void => images.deploy(functions.list().map((record) => record.imageDigest))
  const startedAtMs = Date.now()

  const status = await startStatusServer({
    listen: config.listen,
    telemetry,
    health: () => ({
      ok: redis.status === 'ready',
      worker: workerName,
      redis: redis.status,
      running: dispatcher.running,
      slots,
    }),
  })
  const heartbeat = createHeartbeat({
    redis,
    prefix,
    log,
    read: () => ({
      name: workerName,
      pid: process.pid,
      host: hostname(),
      url: status.url,
      slots,
      startedAtMs,
      running: running.list(),
    }),
  })
  await functions.start()
  const endWatch = functions.onChange(watch)
  const endTelling = functions.onChange(tellImages)
  const endPrefetch = functions.onChange(() => prefetch.deployed(functions.list()))
  prefetch.deployed(functions.list())
  if (functions.list().length > 0) tellImages()
  watch()
  images.start()
  await dispatcher.start()
  await heartbeat.start()

  return {
    url: status.url,
    async stop() {
      endWatch()
      endTelling()
      endPrefetch()
      prefetch.stop()
      await dispatcher.stop(config.stopTimeoutMs * DRAIN_SHARE)
      await heartbeat.stop()
      await functions.stop()
      await puller.stop()
      await images.stop()
      await Promise.all([runtime.close(), registry.close(), status.stop(), telemetry.stop()])
      redis.disconnect()
      store.close()
    },
  }
}
