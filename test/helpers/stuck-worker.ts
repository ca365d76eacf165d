// A process with a dispatcher whose calls never end, for tests that kill a worker. Arguments: Redis URL, key
// prefix, function, lock duration and stalled interval in milliseconds. Prints "taken" for each call.

import { createLog } from '../../services/platform/log.ts'
import { createDispatcher } from '../../services/queue/dispatcher.ts'

const [redisUrl = '', prefix = '', name = '', lockDurationMs = '', stalledIntervalMs = ''] =
  process.argv.slice(2)
const dispatcher = createDispatcher({
  redisUrl,
  prefix,
  workerName: `stuck-${process.pid}`,
  callsMax: 4,
  log: createLog({ name: 'stuck', level: 'silent' }),
  leaseTimes: { lockDurationMs: Number(lockDurationMs), stalledIntervalMs: Number(stalledIntervalMs) },
  run: async () => {
    process.stdout.write('taken\n')
    return await new Promise(() => undefined)
  },
})
dispatcher.watch([name])
await dispatcher.start()
