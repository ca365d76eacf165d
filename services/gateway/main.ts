// The gateway process: reads settings, runs one gateway until SIGTERM.

import { describeConfig, readConfig, readFlags } from '../platform/config.ts'
import { describeStartFailure, runProcess } from '../platform/lifecycle.ts'
import { createLog } from '../platform/log.ts'
import { gatewaySettings } from './config.ts'
import { openOutside, startGateway } from './gateway.ts'

try {
  const { flags, printConfig } = readFlags(gatewaySettings, process.argv.slice(2))
  const config = readConfig(gatewaySettings, process.env, flags)
  if (printConfig) process.stdout.write(describeConfig(gatewaySettings, config))
  else {
    const log = createLog({ name: 'gateway', level: config.logLevel })
    await runProcess({
      name: 'gateway',
      log,
      stopTimeoutMs: config.stopTimeoutMs,
      start: () => startGateway(config, log, openOutside(config, process.env)),
      exit: (code) => process.exit(code),
    })
  }
} catch (err) {
  process.stderr.write(describeStartFailure('gateway', err))
  process.exitCode = 1
}
