// wherry list: all functions in a table that fits the terminal.

import type { Command } from 'commander'
import { addConnectOptions, connectGateway, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'
import type { FunctionStatus } from '../gateway-client.ts'
import { formatTable } from '../table.ts'
import { formatAge, terminalWidth } from '../terminal.ts'

const COLUMNS = [
  { title: 'NAME', shrinks: true },
  { title: 'IMAGE', shrinks: true },
  { title: 'CONTRACT' },
  { title: 'CALLS', right: true },
  { title: 'WAITING', right: true },
  { title: 'ACTIVE', right: true },
  { title: 'AGE', right: true },
]

export function addList(program: Command, context: Context): void {
  addConnectOptions(program.command('list'))
    .alias('ls')
    .summary('list functions')
    .description(
      'Lists all functions: image, contract, finished, waiting and active calls, and the time since each was deployed.',
    )
    .option('--json', 'print the gateway’s answer as JSON')
    .addHelpText(
      'after',
      `
Examples:
  wherry list
  wherry list --json | jq -r '.[].name'

Exit codes: 0 done, 1 the gateway is unreachable or returned an error, 2 wrong usage.`,
    )
    .action(async (flags: ConnectOptions & { json?: boolean }) => {
      const functions = (await connectGateway('list', flags, context).json({
        method: 'GET',
        path: '/system/functions',
      })) as FunctionStatus[]
      if (flags.json) {
        context.stdout.write(`${JSON.stringify(functions)}\n`)
        return
      }
      const rows = functions.map((f) => [
        f.name,
        f.image,
        f.contract,
        String(f.invocationCount),
        String(f.queue.waiting + f.queue.delayed),
        String(f.queue.active),
        formatAge(Date.now() - Date.parse(f.updatedAt)),
      ])
      context.stdout.write(
        formatTable(
          COLUMNS,
          rows.sort((a, b) => (a[0]! < b[0]! ? -1 : 1)),
          terminalWidth(context),
        ),
      )
      if (rows.length === 0)
        context.stderr.write('no functions yet; deploy one with: wherry deploy NAME --image REFERENCE\n')
    })
}
