// wherry gateway and wherry worker: one process alone, in the foreground. It reads its own options; this
// command starts it, forwards signals, and exits with its exit code.

import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { exitCodeOf, type Context } from '../context.ts'

export function addGateway(program: Command, context: Context): void {
  addProcess(
    program,
    context,
    'gateway',
    'serves HTTP and queues calls',
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
    'takes calls from the queue and runs them in containers',
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
  role: string,
  examples: string,
): void {
  program
    .command(name)
    .summary(`run one ${name}, which ${role}`)
    .description(`Runs one ${name}, which ${role}, in the foreground.  wherry up starts everything at once.`)
    .argument('[options...]', `options of the ${name}; --print-config lists them all`)
    .allowUnknownOption()
    .passThroughOptions()
    .addHelpText('after', `${examples}\n\nExit codes: 0 stopped, 1 it failed to start or crashed.`)
    .action(async (options: string[]) => {
      const main = fileURLToPath(new URL(`../../${name}/main.ts`, import.meta.url))
      // Detached, because otherwise Ctrl-C would reach it twice: from the terminal and from here. If this
      // process is killed, the closed channel ends it.
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
