// Which gateway a command uses: --gateway, --data, the environment, a running `wherry up`, or the default
// address, in that order.

import type { Command } from 'commander'
import type { Context } from './context.ts'
import { Failure, usageFailure } from './failure.ts'
import { createGatewayClient, type GatewayClient } from './gateway-client.ts'
import { readHolder, readState } from './up/state.ts'

export const DATA_DEFAULT = '/var/lib/wherry'
const GATEWAY_DEFAULT = 'http://127.0.0.1:8080'

export interface ConnectOptions {
  readonly gateway?: string
  readonly data?: string
}

/** Adds --gateway and --data to COMMAND. */
export function addConnectOptions(command: Command): Command {
  return command
    .option('--gateway <url>', `address of the gateway (or WHERRY_GATEWAY_URL; default ${GATEWAY_DEFAULT})`)
    .option('--data <dir>', 'data folder of the running wherry up whose gateway to use')
}

/** A client of the gateway that OPTIONS and the environment name, for the command WHAT. */
export function connectGateway(
  what: string,
  { gateway, data }: ConnectOptions,
  { env }: Context,
): GatewayClient {
  if (gateway === undefined && data !== undefined) {
    const running = runningGateway(data)
    if (running === undefined)
      throw new Failure(what, `no wherry up is running on ${data}`, {
        remedy: `start it with wherry up --data ${data}`,
      })
    return createGatewayClient(what, new URL(running))
  }
  const written =
    gateway ??
    (env.WHERRY_GATEWAY_URL || undefined) ??
    runningGateway(env.WHERRY_DATA || DATA_DEFAULT) ??
    GATEWAY_DEFAULT
  const full = written.includes('://') ? written : `http://${written}`
  const url = URL.canParse(full) ? new URL(full) : undefined
  if (url === undefined || !['http:', 'https:'].includes(url.protocol))
    throw usageFailure(what, `"${written}" is not the address of a gateway (http://host:port)`)
  return createGatewayClient(what, url)
}

function runningGateway(data: string): string | undefined {
  return readHolder(data) === undefined ? undefined : readState(data)?.gateway
}
