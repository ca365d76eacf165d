// The worker's HTTP server for monitoring: /healthz and /metrics.

import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { InvalidRequest } from '../contract/errors.ts'
import { listenAddress, type ListenAddress } from '../platform/config.ts'
import type { Telemetry } from '../platform/telemetry.ts'

export interface StatusServer {
  readonly url: string
  stop(): Promise<void>
}

export interface StatusDeps {
  readonly listen: ListenAddress
  readonly telemetry: Telemetry
  /** The content of /healthz; its status is 503 if `ok` is false. */
  readonly health: () => { readonly ok: boolean; readonly [fact: string]: unknown }
}

const REQUEST_TIMEOUT_MS = 10_000
const CONNECTIONS_MAX = 64

function answer(response: ServerResponse, status: number, contentType: string, body: string): void {
  response
    .writeHead(status, { 'content-type': contentType, 'content-length': Buffer.byteLength(body) })
    .end(body)
}

/** Resolves once it listens.  Throws InvalidRequest if it cannot listen on the address. */
export async function startStatusServer({ listen, telemetry, health }: StatusDeps): Promise<StatusServer> {
  const server = createServer(
    { requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS },
    (request, response) => {
      const json = (status: number, value: unknown): void =>
        answer(response, status, 'application/json; charset=utf-8', JSON.stringify(value))
      if (request.method !== 'GET' && request.method !== 'HEAD')
        return json(405, { error: { code: 'ERR_METHOD_NOT_ALLOWED', message: 'only GET' } })
      if (request.url === '/healthz') {
        const { ok, ...facts } = health()
        return json(ok ? 200 : 503, { status: ok ? 'ok' : 'unavailable', ...facts })
      }
      if (request.url !== '/metrics')
        return json(404, {
          error: {
            code: 'ERR_NOT_FOUND',
            message: 'this worker serves only /healthz and /metrics; send calls to a gateway',
          },
        })
      telemetry.scrape().then(
        ({ contentType, text }) => answer(response, 200, contentType, text),
        (err: unknown) => json(500, { error: { code: 'ERR_INTERNAL', message: String(err) } }),
      )
    },
  )
  server.maxConnections = CONNECTIONS_MAX
  const written = listenAddress.format(listen)
  await new Promise<void>((resolve, reject) => {
    server.once('error', (err: NodeJS.ErrnoException) =>
      reject(
        new InvalidRequest([
          {
            path: '--listen',
            problem:
              err.code === 'EADDRINUSE'
                ? `${written} is in use by another process; stop it or choose another port`
                : `cannot listen on ${written}: ${err.message}`,
          },
        ]),
      ),
    )
    server.listen(listen.port, listen.host, resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    url: `http://${listenAddress.format({ host: listen.host, port })}`,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
