// A gateway with a real Redis and a real dispatcher; only containers and the registry are replaced, through
// arguments. Each gateway has a unique key prefix, so that many can share one Redis.

import { once } from 'node:events'
import { request, type IncomingHttpHeaders } from 'node:http'
import { Readable } from 'node:stream'
import type { Test } from 'tap'
import type { Completion } from '../../services/contract/call-record.ts'
import { RegistryError } from '../../services/contract/errors.ts'
import type { Invocation } from '../../services/contract/invocation.ts'
import { isOutcome } from '../../services/contract/outcome.ts'
import { gatewaySettings, type GatewayConfig } from '../../services/gateway/config.ts'
import { startGateway, type Outside } from '../../services/gateway/gateway.ts'
import { readConfig } from '../../services/platform/config.ts'
import { createLog } from '../../services/platform/log.ts'
import { createDispatcher } from '../../services/queue/dispatcher.ts'

export const log = createLog({ name: 'test', level: 'silent' })
export const DIGEST = `sha256:${'a'.repeat(64)}`
export const BODY_MAX_BYTES = 64 * 1024
const NO_CONTAINER = {
  start: 'cold',
  phases: { pull: 0, create: 1, init: 0, run: 2 },
  contentType: 'text/plain',
  log: '',
  logTruncated: false,
} as const

/**
 * Replaces the container: "ends-<outcome>" returns that outcome, "echo" returns its request, "hang" runs
 * until it is aborted.
 */
async function run(invocation: Invocation, { signal }: { signal: AbortSignal }): Promise<Completion> {
  const { function: name, request } = invocation
  const end = { ...NO_CONTAINER, endedAt: performance.now() }
  if (name === 'hang') {
    await once(signal, 'abort')
    return { ...end, outcome: 'cancelled', body: new Uint8Array() }
  }
  const outcome = name.replace(/^ends-/, '')
  if (isOutcome(outcome))
    return {
      ...end,
      outcome,
      message: `it was ${outcome}`,
      body: new Uint8Array(),
      log: 'last words\n',
      exitCode: 1,
    }
  if (request.path === '/bytes')
    return { ...end, outcome: 'ok', contentType: 'application/octet-stream', body: request.body }
  if (request.path === '/fail')
    return {
      ...end,
      outcome: 'app_error',
      message: 'exit code 3',
      exitCode: 3,
      body: Buffer.from('no such order'),
    }
  const seen = { ...request, body: Buffer.from(request.body).toString() }
  return {
    ...end,
    outcome: 'ok',
    contentType: 'application/json',
    body: Buffer.from(JSON.stringify(seen)),
    log: request.path === '/log' ? 'a line\n' : '',
  }
}

const outside: Outside = {
  async resolve({ registry, repository, digest }) {
    if (repository === 'missing')
      throw new RegistryError(`registry ${registry} does not have image missing (MANIFEST_UNKNOWN)`, {
        registryCode: 'MANIFEST_UNKNOWN',
        retryable: false,
      })
    return digest ?? DIGEST
  },
  async isSigned() {
    return false
  },
  async close() {},
}

export interface Reply {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  readonly text: string
}

/** A client of the gateway at URL. */
export function httpClient(url: string) {
  const send = (
    method: string,
    path: string,
    { body, headers = {} }: { body?: string | Buffer | Readable; headers?: Record<string, string> } = {},
  ): Promise<Reply> =>
    new Promise((resolve, reject) => {
      // Node's client sends the body of a DELETE only if its length is given.
      const length =
        body === undefined || body instanceof Readable
          ? {}
          : { 'content-length': String(Buffer.byteLength(body)) }
      const req = request(
        new URL(path, url),
        { method, headers: { ...length, ...headers }, agent: false },
        (res) => {
          void res
            .toArray()
            .catch(() => [])
            .then((chunks) => {
              const bytes = Buffer.concat(chunks)
              resolve({
                status: res.statusCode ?? 0,
                headers: res.headers,
                body: bytes,
                text: bytes.toString(),
              })
            })
        },
      )
      req.on('error', reject)
      if (body instanceof Readable) body.pipe(req)
      else req.end(body)
    })
  const deploy = async (t: Test, service: string, more = {}): Promise<void> => {
    const reply = await send('POST', '/system/functions', {
      body: JSON.stringify({ service, image: 'localhost:5000/x:1', ...more }),
    })
    t.equal(reply.status, 202, reply.text)
  }
  return { send, deploy }
}

/** Settings of a gateway on a free port with key prefix PREFIX. */
export function configFor(
  redisUrl: string,
  prefix: string,
  more: Partial<GatewayConfig> = {},
): GatewayConfig {
  return {
    ...readConfig(gatewaySettings, {}),
    redisUrl,
    prefix,
    listen: { host: '127.0.0.1', port: 0 },
    bodyMaxBytes: BODY_MAX_BYTES,
    ...more,
  }
}

let prefixes = 0

/** Start a gateway with a new key prefix, and a dispatcher for FUNCTIONS. */
export async function startTestGateway(
  t: Test,
  redisUrl: string,
  { functions = [], ...more }: { functions?: readonly string[] } & Partial<GatewayConfig> = {},
) {
  const prefix = `{gw${++prefixes}}`
  const gateway = await startGateway(configFor(redisUrl, prefix, more), log, outside)
  t.teardown(() => gateway.stop())
  const client = httpClient(gateway.url)
  for (const name of functions) await client.deploy(t, name)
  if (functions.length > 0) {
    const dispatcher = createDispatcher({ redisUrl, prefix, workerName: 'w', callsMax: 8, run, log })
    dispatcher.watch(functions)
    await dispatcher.start()
    t.teardown(() => dispatcher.stop(0))
  }
  return { ...client, gateway, prefix, url: gateway.url }
}
