// The gateway as one long-lived part: wires the function store, the producer, a registry client, metrics and
// the HTTP server, and starts and stops them in order. The server listens first, so that clients get a reason
// instead of a refused connection while Redis is away.

import { randomUUID } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import { InvalidRequest } from '../contract/errors.ts'
import { createPullReports } from '../functions/pull-reports.ts'
import { createFunctionStore } from '../functions/store.ts'
import { openRegistryClient } from '../registry/open-registry.ts'
import type { Reference } from '../registry/reference.ts'
import { isSigned, type PublicKey } from '../registry/signature.ts'
import { listenAddress, type Environment } from '../platform/config.ts'
import type { Running } from '../platform/lifecycle.ts'
import type { Log } from '../platform/log.ts'
import { openRedis } from '../platform/redis.ts'
import { startTelemetry } from '../platform/telemetry.ts'
import { createProducer } from '../queue/producer.ts'
import { allowEveryone } from './authenticate.ts'
import { addCallRoutes } from './call-routes.ts'
import type { GatewayConfig } from './config.ts'
import { addFunctionRoutes } from './function-routes.ts'
import { createGatewayMetrics } from './metrics.ts'
import { createReadiness } from './readiness.ts'
import { createServer } from './server.ts'
import { createSignatureCheck } from './signatures.ts'
import { addSystemRoutes } from './system-routes.ts'
import { wherryDialect } from './wherry-dialect.ts'

/** Share of the stop timeout for replies under way; the rest is for closing down. */
const DRAIN_SHARE = 0.8
/** Time for the last replies to reach callers who still wait then. */
const LAST_REPLIES_MS = 200
const LOOPBACK = /^(?:127(?:\.\d{1,3}){3}|::1|localhost)$/

/** The network as the gateway uses it; tests replace it. */
export interface Outside {
  /** The digest that a reference resolves to now.  Throws RegistryError. */
  readonly resolve: (reference: Reference) => Promise<string>
  /** Whether the image DIGEST is signed by one of KEYS.  Throws RegistryError. */
  readonly isSigned: (reference: Reference, digest: string, keys: readonly PublicKey[]) => Promise<boolean>
  close(): Promise<void>
}

/** The network: registries as CONFIG's files and ENV describe them.  Throws InvalidRequest. */
export function openOutside({ dataDir, registriesFile }: GatewayConfig, env: Environment): Outside {
  const registry = openRegistryClient({ env, dataDir, registriesFile })
  return {
    resolve: async (reference) => (await registry.resolve(reference)).digest,
    isSigned: (ref, digest, keys) => isSigned({ registry, ref, digest, keys }),
    close: () => registry.close(),
  }
}

/**
 * Starts a gateway; resolves once it listens, with its address.
 * Throws InvalidRequest if it cannot listen there.
 */
export async function startGateway(
  config: GatewayConfig,
  log: Log,
  outside: Outside = openOutside(config, {}),
): Promise<Running & { url: string }> {
  const { redisUrl, prefix, bodyMaxBytes, queueWaitMs } = config
  const checkSignature = createSignatureCheck({ file: config.signatures, isSigned: outside.isSigned, log })
  const stopping = new AbortController()
  const telemetry = startTelemetry({ serviceName: 'gateway' })
  const redis = openRedis(redisUrl, {
    temper: 'prompt',
    name: 'wherry-gateway',
    onError: (err) => log.warn({ err }, 'Redis is unreachable; calls get 503 until it is back'),
  })
  const functions = createFunctionStore({ redis, prefix, log })
  const producer = createProducer({ redisUrl, prefix, gatewayId: randomUUID(), log })
  const metrics = createGatewayMetrics({ functions, producer })

  const readiness = createReadiness({ redis, functions, producer, log })
  const requireReady = readiness.require
  const app = createServer({
    log,
    bodyMaxBytes,
    authenticate: allowEveryone,
    onReply: metrics.replied,
    addRoutes(app) {
      addCallRoutes(app, {
        dialects: [wherryDialect],
        functions,
        producer,
        metrics,
        queueWaitMs,
        bodyMaxBytes,
        requireReady,
      })
      addFunctionRoutes(app, {
        functions,
        producer,
        resolve: outside.resolve,
        checkSignature,
        pulls: createPullReports({ redis, prefix }),
        requireReady,
      })
      addSystemRoutes(app, { functions, producer, telemetry, requireReady, stopping: stopping.signal })
    },
  })

  let stopped: Promise<void> | undefined
  const stop = async (): Promise<void> => {
    stopping.abort()
    let cut: NodeJS.Timeout | undefined
    const hurry = setTimeout(() => {
      void producer.stop() // answers the callers that still wait
      cut = setTimeout(() => app.server.closeAllConnections(), LAST_REPLIES_MS)
    }, config.stopTimeoutMs * DRAIN_SHARE)
    await app.close()
    clearTimeout(hurry)
    clearTimeout(cut)
    metrics.stop()
    await Promise.all([readiness.stop(), outside.close(), telemetry.stop()])
    redis.disconnect()
  }

  const { host, port } = config.listen
  try {
    await app.listen({ host, port })
  } catch (err) {
    await stop()
    throw new InvalidRequest([
      { path: '--listen', problem: describeListenError(err, listenAddress.format(config.listen)) },
    ])
  }
  if (!LOOPBACK.test(host))
    log.warn(
      { host },
      'listening beyond this machine without authentication: everyone who can reach this address can deploy and call functions',
    )
  await readiness.start()
  return {
    url: urlOf(host, app.server.address()),
    stop() {
      stopped ??= stop()
      return stopped
    },
  }
}

function describeListenError(err: unknown, address: string): string {
  const code = err instanceof Error && 'code' in err ? err.code : undefined
  if (code === 'EADDRINUSE') return `${address} is in use by another process; stop it or choose another port`
  if (code === 'EACCES') return `no permission to listen on ${address}; choose a port above 1023`
  return `cannot listen on ${address}: ${err instanceof Error ? err.message : String(err)}`
}

function urlOf(host: string, address: AddressInfo | string | null): string {
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return `http://${listenAddress.format({ host, port })}`
}
