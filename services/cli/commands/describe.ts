// wherry describe: everything that is known of one function.

import type { Command } from 'commander'
import { addConnectOptions, connectGateway, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'
import { printable } from '../terminal.ts'

export function addDescribe (program: Command, context: Context): void {
  addConnectOptions(program.command('describe'))
    .summary('show one function in full')
    .description('Shows the function NAME in full: its spec with all defaults, the image’s digest, counters and queue.')
    .argument('<name>', 'name of the function')
    .option('--json', 'print it as JSON')
    .addHelpText('after', `
Examples:
  wherry describe upper
  wherry describe upper --json | jq .limits

Exit codes: 0 shown, 1 no such function or no gateway, 2 wrong usage.`)
    .action(async (name: string, flags: ConnectOptions & { json?: boolean }) => {
      const status = await connectGateway('describe', flags, context).json({ method: 'GET', path: `/system/function/${encodeURIComponent(name)}` }) as object
      if (flags.json) context.stdout.write(`${JSON.stringify(status)}\n`)
      else context.stdout.write(printable(`${describeFields(status, '').join('\n')}\n`))
    })
}

/** VALUE's fields, one a line, inner ones indented; what is empty is left out. */
function describeFields (value: object, indent: string): string[] {
  const entries = Object.entries(value).filter(([, field]) => field !== '' && field !== null && !(typeof field === 'object' && Object.keys(field as object).length === 0))
  const width = Math.max(0, ...entries.map(([key]) => key.length))
  return entries.flatMap(([key, field]: [string, unknown]) => {
    if (typeof field !== 'object' || field === null) return [`${indent}${`${key}:`.padEnd(width + 1)} ${String(field)}`]
    if (Array.isArray(field)) return [`${indent}${`${key}:`.padEnd(width + 1)} ${JSON.stringify(field)}`]
    return [`${indent}${key}:`, ...describeFields(field, `${indent}  `)]
  })
}
