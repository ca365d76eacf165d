// wherry describe: one function in full.

import type { Command } from 'commander'
import { addConnectOptions, connectGateway, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'
import { formatFields } from '../table.ts'
import { printable } from '../terminal.ts'

export function addDescribe(program: Command, context: Context): void {
  addConnectOptions(program.command('describe'))
    .summary('show one function in full')
    .description(
      'Shows the function NAME in full: its spec with all defaults, the image’s digest, whether its tag has moved since, counters and queue.',
    )
    .argument('<name>', 'name of the function')
    .option('--json', 'print as JSON')
    .addHelpText(
      'after',
      `
Examples:
  wherry describe upper
  wherry describe upper --json | jq .limits

Exit codes: 0 done, 1 no such function or no gateway, 2 wrong usage.`,
    )
    .action(async (name: string, flags: ConnectOptions & { json?: boolean }) => {
      const status = (await connectGateway('describe', flags, context).json({
        method: 'GET',
        path: `/system/function/${encodeURIComponent(name)}?tag=now`,
      })) as object
      if (flags.json) context.stdout.write(`${JSON.stringify(status)}\n`)
      else context.stdout.write(printable(`${formatFields(status).join('\n')}\n`))
      if ('tagMoved' in status && status.tagMoved === true)
        context.stderr.write('the tag points to another image now; deploy again to run it\n')
    })
}
