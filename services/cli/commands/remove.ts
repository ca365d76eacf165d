// wherry remove: removes functions and the calls in their queues.

import type { Command } from 'commander'
import { addConnectOptions, connectGateway, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'

export function addRemove(program: Command, context: Context): void {
  addConnectOptions(program.command('remove'))
    .alias('rm')
    .summary('remove functions')
    .description('Removes functions, their logs and their waiting calls.  Volumes are kept.')
    .argument('<names...>', 'names of functions')
    .addHelpText(
      'after',
      `
Examples:
  wherry remove upper
  wherry remove upper count

Exit codes: 0 removed, 1 no such function or no gateway, 2 wrong usage.`,
    )
    .action(async (names: string[], flags: ConnectOptions) => {
      const gateway = connectGateway('remove', flags, context)
      for (const functionName of names) {
        await gateway.json({ method: 'DELETE', path: '/system/functions', json: { functionName } })
        context.stdout.write(`removed ${functionName}\n`)
      }
    })
}
