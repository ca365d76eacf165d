// wherry logs: a function's stderr, call by call.

import { createInterface } from 'node:readline'
import { InvalidArgumentError, type Command } from 'commander'
import { defined } from '../../contract/defined.ts'
import { addConnectOptions, connectGateway, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'
import { failureOfReply } from '../gateway-client.ts'
import { printable } from '../terminal.ts'

export function addLogs(program: Command, context: Context): void {
  addConnectOptions(program.command('logs'))
    .summary('show a function’s stderr')
    .description('Shows the stderr of the function NAME, with the time and id of each call.')
    .argument('<name>', 'name of the function')
    .option('-f, --follow', 'keep showing new calls as they end, until Ctrl-C')
    .option('--tail <n>', 'only the last N entries', wholeNumber)
    .addHelpText(
      'after',
      `
Examples:
  wherry logs resize --tail 20
  wherry logs resize -f

Exit codes: 0 done, 1 no such function or no gateway, 2 wrong usage.`,
    )
    .action(async (name: string, flags: ConnectOptions & { follow?: boolean; tail?: string }) => {
      const query = new URLSearchParams({
        name,
        ...defined({ follow: flags.follow ? 'true' : undefined, tail: flags.tail }),
      })
      const gateway = connectGateway('logs', flags, context)
      const message = await gateway.open({ method: 'GET', path: `/system/logs?${query}`, patient: true })
      if (message.statusCode !== 200) {
        const body = Buffer.concat((await message.toArray()) as Buffer[])
        throw failureOfReply('logs', { status: message.statusCode ?? 0, headers: message.headers, body })
      }
      for await (const line of createInterface({ input: message, crlfDelay: Infinity })) {
        const { timestamp, instance, text } = JSON.parse(line) as {
          timestamp: string
          instance: string
          text: string
        } // as the gateway writes it
        for (const part of text.replace(/\n$/, '').split('\n'))
          context.stdout.write(`${printable(`${timestamp} ${instance} ${part}`)}\n`)
      }
    })
}

function wholeNumber(text: string): string {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('It must be a positive integer.')
  return text
}
