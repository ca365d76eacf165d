// Joins the parts of a worker, and starts and stops them in order: function store, images, container runtime,
// dispatcher, heartbeat, status server. Data flows one way: the dispatcher passes an invocation to execute,
// which returns a completion, and the dispatcher settles it.

import { mkdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { createPullReports } from '../functions/pull-reports.ts'
import { createFunctionStore, type FunctionStore } from '../functions/store.ts'
import { createLocalFirst } from '../images/local-first.ts'
import { openRegistryClient } from '../registry/open-registry.ts'
import { createPuller } from '../images/pull.ts'
import { createImageStore } from '../images/store.ts'
import type { Environment } from '../platform/config.ts'
import type { Running } from '../platform/lifecycle.ts'
import type { Log } from '../platform/log.ts'
import { openRedis, type RedisClient } from '../platform/redis.ts'
import { startTelemetry, type Telemetry } from '../platform/telemetry.ts'
import { createDispatcher, type Dispatcher } from '../queue/dispatcher.ts'
import { createHeartbeat } from '../queue/heartbeat.ts'
import { openRuntime } from '../runtime/open.ts'
import type { WorkerConfig } from './config.ts'
import { createStdioContract } from './contracts/stdio.ts'
import { createExecute } from './execute.ts'
import { createImageKeeper, type ImageKeeper } from './images.ts'
import { createWorkerMetrics } from './metrics.ts'
import { createPullProgress } from './pull-progress.ts'
import { createPrefetch, type Prefetch } from './prefetch.ts'
import { createRunningCalls, type RunningCalls } from './running.ts'
import { startStatusServer } from './status-server.ts'
import { createVolumes } from './volumes.ts'

/** The share of the stop timeout that running calls get; the rest is for closing down. */
const DRAIN_SHARE = 0.8

interface ReportingDeps {
  readonly config: WorkerConfig
  readonly log: Log
  readonly redis: RedisClient
  readonly telemetry: Telemetry
  readonly dispatcher: Dispatcher
  readonly running: RunningCalls
}

/** Start the status server, and prepare the heartbeat in Redis that names its address. */
async function startReporting({ config, log, redis, telemetry, dispatcher, running }: ReportingDeps) {
  const { workerName, slots, prefix } = config
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
  return {
    url: status.url,
    start: heartbeat.start,
    stopHeartbeat: heartbeat.stop,
    stopServer: status.stop,
  }
}

interface ImagesDeps {
  readonly config: WorkerConfig
  readonly log: Log
  readonly redis: RedisClient
  readonly env: Environment
}

/** The image store with the parts that fill it and keep it small. */
function openImages({ config, log, redis, env }: ImagesDeps) {
  const { dataDir, nativeDir, prefix, registriesFile, workerName } = config
  const store = createImageStore({ dir: join(dataDir, 'images'), onNote: (text) => log.warn(text) })
  const registry = openRegistryClient({ env, dataDir, registriesFile })
  const progress = createPullProgress()
  const puller = createPuller({
    store,
    registry: createLocalFirst({ store, registry }),
    nativeDir,
    onProgress: progress.report,
  })
  const images = createImageKeeper({ store, puller, high: config.imagesHigh, low: config.imagesLow, log })
  const prefetch = createPrefetch({
    workerName,
    puller,
    progress,
    reports: createPullReports({ redis, prefix }),
    onPulled: images.pulled,
    log,
  })
  return { store, registry, puller, prefetch, images }
}

/**
 * Pass the list of functions, now and after each change, to the parts that act on it.  The result ends it.
 */
function followFunctions(parts: {
  readonly functions: FunctionStore
  readonly dispatcher: Dispatcher
  readonly images: ImageKeeper
  readonly prefetch: Prefetch
}): () => void {
  const { functions, dispatcher, images, prefetch } = parts
  function changed(): void {
    const records = functions.list()
    dispatcher.watch(records.map((record) => record.spec.name))
    images.deploy(records.map((record) => record.imageDigest))
    prefetch.deployed(records)
  }
  // An empty list at the start may mean that Redis is away, and must not release images.
  if (functions.list().length > 0) changed()
  else prefetch.deployed([])
  return functions.onChange(changed)
}

/**
 * Start a worker.  ENV names the proxies and CAs for registries.  Resolves once the worker takes calls.
 * Throws Unsupported, InvalidRequest.
 */
export async function startWorker(
  config: WorkerConfig,
  log: Log,
  env: Environment,
): Promise<Running & { url: string }> {
  const { redisUrl, prefix, workerName, dataDir, nativeDir, slots, bodyMaxBytes } = config
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
  const { store, registry, puller, prefetch, images } = openImages({ config, log, redis, env })
  const execute = createExecute({
    find: functions.get,
    puller,
    images,
    contracts: { stdio: createStdioContract({ runtime, responseMaxBytes: bodyMaxBytes }) },
    volumes: createVolumes({ directory: join(dataDir, 'volumes') }),
    metrics,
    running,
    log,
  })
  const dispatcher = createDispatcher({
    redisUrl,
    prefix,
    workerName,
    callsMax: slots, // `stdio` has one container per call
    run: execute,
    log,
    bodyMaxBytes,
    onSettled: metrics.callSettled,
  })
  const reporting = await startReporting({ config, log, redis, telemetry, dispatcher, running })
  await functions.start()
  const endFollowing = followFunctions({ functions, dispatcher, images, prefetch })
  images.start()
  await dispatcher.start()
  await reporting.start()

  return {
    url: reporting.url,
    async stop() {
      endFollowing()
      prefetch.stop()
      await dispatcher.stop(config.stopTimeoutMs * DRAIN_SHARE)
      await reporting.stopHeartbeat()
      await functions.stop()
      await puller.stop()
      await images.stop()
      await Promise.all([runtime.close(), registry.close(), reporting.stopServer(), telemetry.stop()])
      redis.disconnect()
      store.close()
    },
  }
}
