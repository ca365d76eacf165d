// wherry gateway and wherry worker: one of our processes alone, in the foreground.  The process reads
// its own options; this only starts it, passes signals on, and ends as it ends.

import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { exitCodeOf, type Context } from '../context.ts'

export function addGateway(program: Command, context: Context): void {
  addProcess(
    program,
    context,
    'gateway',
    'serve HTTP and put calls on the queue',
    `
Examples:
  wherry gateway --print-config                  # every setting, its variable and its value
  wherry gateway --redis redis://10.0.0.5:6379 --listen 0.0.0.0:8080`,
  )
}

export function addWorker(program: Command, context: Context): void {
  addProcess(
    program,
    context,
    'worker',
    'take calls from the queue and run them in containers',
    `
Examples:
  wherry worker --print-config                   # every setting, its variable and its value
  wherry worker --redis redis://10.0.0.5:6379 --data /var/lib/wherry --slots 16`,
  )
}

function addProcess(
  program: Command,
  { env, onSignal, setExitCode }: Context,
  name: 'gateway' | 'worker',
  summary: string,
  examples: string,
): void {
  program
    .command(name)
    .summary(`run one ${name}: ${summary}`)
    .description(`Runs one ${name} in the foreground: ${summary}.  wherry up starts everything at once.`)
    .argument('[options...]', `options of the ${name}; --print-config lists them all`)
    .allowUnknownOption()
    .passThroughOptions()
    .addHelpText('after', `${examples}\n\nExit codes: 0 stopped in order, 1 it could not start or broke off.`)
    .action(async (options: string[]) => {
      const main = fileURLToPath(new URL(`../../${name}/main.ts`, import.meta.url))
      // Detached, or Ctrl-C would reach it twice: from the terminal and from here. The channel ends it should
      // this process be killed.
      const child = fork(main, options, {
        execArgv: [],
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        detached: true,
        env,
      })
      onSignal((signal) => {
        child.kill(signal === 'SIGHUP' ? 'SIGTERM' : signal)
      })
      setExitCode(await exitCodeOf(child))
    })
}
