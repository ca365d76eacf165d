// Checks ports before anything listens: that they are free, and which one to use for port 0.

import { createServer, type Server } from 'node:net'
import type { ListenAddress } from '../../platform/config.ts'
import { Failure } from '../failure.ts'

export function formatAddress({ host, port }: ListenAddress): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}

export interface Probe {
  readonly part: string
  readonly option: string
  readonly address: ListenAddress
}

/**
 * The addresses of PROBES, all with different free ports; port 0 is replaced by one. Throws a Failure that
 * names the part whose port is taken. The ports are not reserved afterwards.
 */
export async function probePorts(probes: readonly Probe[]): Promise<ListenAddress[]> {
  const servers: Server[] = []
  try {
    const addresses: ListenAddress[] = []
    for (const probe of probes) addresses.push(await hold(probe, servers))
    return addresses
  } finally {
    await Promise.all(
      servers.map(
        (server) =>
          new Promise((resolve) => {
            server.close(resolve)
          }),
      ),
    )
  }
}

function hold({ part, option, address: { host, port } }: Probe, servers: Server[]): Promise<ListenAddress> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', (err: NodeJS.ErrnoException) => {
      const why =
        err.code === 'EADDRINUSE'
          ? `${formatAddress({ host, port })} is in use by another process`
          : err.code === 'EADDRNOTAVAIL' || err.code === 'ENOTFOUND'
            ? `${host} is not an address of this machine`
            : `cannot listen on ${formatAddress({ host, port })} (${err.message})`
      reject(
        new Failure(part, why, {
          remedy: `choose another with ${option} HOST:PORT (port 0 picks a free one), or stop the process that listens there`,
          cause: err,
        }),
      )
    })
    server.listen({ host, port, exclusive: true }, () => {
      servers.push(server)
      const bound = server.address()
      resolve({ host, port: typeof bound === 'object' && bound !== null ? bound.port : port })
    })
  })
}
