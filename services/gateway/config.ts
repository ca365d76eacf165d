// The gateway's settings.

import { duration, listenAddress, sharedSettings, text, type Config, type Table } from '../platform/config.ts'

export const gatewaySettings = {
  ...sharedSettings,
  listen: {
    env: 'WHERRY_GATEWAY_LISTEN',
    flag: 'listen',
    ...listenAddress,
    default: { host: '127.0.0.1', port: 8080 },
    about: 'address for HTTP',
  },
  signatures: {
    env: 'WHERRY_SIGNATURES',
    flag: 'signatures',
    ...text(/^$|^\/[^\0\r\n]*$/, 'an absolute path'),
    default: '',
    about: 'policy file for image signatures; without one, every image may be deployed',
  },
  queueWaitMs: {
    env: 'WHERRY_QUEUE_WAIT',
    flag: 'queue-wait',
    ...duration({ min: 10, max: 3_600_000 }),
    default: 60_000,
    about: 'how long a caller waits for a worker to take the call',
  },
} satisfies Table

export type GatewayConfig = Config<typeof gatewaySettings>
