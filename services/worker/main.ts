// The worker process: settings in, one worker, out on SIGTERM.

import { describeConfig, readConfig, readFlags } from '../platform/config.ts'
import { keepHeapFlat } from '../platform/heap.ts'
import { describeStartFailure, runProcess } from '../platform/lifecycle.ts'
import { createLog } from '../platform/log.ts'
import { workerSettings } from './config.ts'
import { startWorker } from './worker.ts'

try {
  const { flags, printConfig } = readFlags(workerSettings, process.argv.slice(2))
  const config = readConfig(workerSettings, process.env, flags)
  if (printConfig) process.stdout.write(describeConfig(workerSettings, config))
  else {
    keepHeapFlat()
    const log = createLog({ name: 'worker', level: config.logLevel })
    await runProcess({
      name: 'worker',
      log,
      stopTimeoutMs: config.stopTimeoutMs,
      start: () => startWorker(config, log, process.env),
      exit: (code) => process.exit(code),
    })
  }
} catch (err) {
  process.stderr.write(describeStartFailure('worker', err))
  process.exitCode = 1
}
