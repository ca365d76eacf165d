// wherry ps: the running containers of all workers.

import type { Command } from 'commander'
import { addConnectOptions, connectGateway, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'
import type { WorkerStatus } from '../gateway-client.ts'
import { formatTable } from '../table.ts'
import { formatAge, terminalWidth } from '../terminal.ts'

const COLUMNS = [
  { title: 'WORKER', shrinks: true },
  { title: 'FUNCTION', shrinks: true },
  { title: 'CALL', shrinks: true },
  { title: 'PID', right: true },
  { title: 'AGE', right: true },
]

export function addPs(program: Command, context: Context): void {
  addConnectOptions(program.command('ps'))
    .summary('show running containers and their workers')
    .description(
      'Shows the containers that are running on all workers, as of their last heartbeat (every 3 s).',
    )
    .option('--json', 'print the workers and their containers as JSON')
    .addHelpText(
      'after',
      `
Examples:
  wherry ps
  wherry ps --json | jq '.[].slots'

Exit codes: 0 done, 1 the gateway is unreachable or returned an error, 2 wrong usage.`,
    )
    .action(async (flags: ConnectOptions & { json?: boolean }) => {
      const workers = (await connectGateway('ps', flags, context).json({
        method: 'GET',
        path: '/system/workers',
      })) as WorkerStatus[]
      if (flags.json) {
        context.stdout.write(`${JSON.stringify(workers)}\n`)
        return
      }
      const rows = workers.flatMap((w) =>
        w.running.map((r) => [
          w.name,
          r.function,
          r.callId,
          String(r.pid),
          formatAge(Date.now() - r.startedAtMs),
        ]),
      )
      context.stdout.write(formatTable(COLUMNS, rows, terminalWidth(context)))
      const slots = workers.reduce((sum, w) => sum + w.slots, 0)
      context.stderr.write(
        `${rows.length} of ${slots} slots in use on ${workers.length} worker${workers.length === 1 ? '' : 's'}\n`,
      )
    })
}
