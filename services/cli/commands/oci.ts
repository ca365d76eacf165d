// wherry oci: hands over to wherry-oci, including --help.  Container engines run that program directly.

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { exitCodeOf, type Context } from '../context.ts'

const LAUNCHER = fileURLToPath(new URL('../../oci/wherry-oci', import.meta.url))

export function addOci(program: Command, { env, onSignal, setExitCode }: Context): void {
  program
    .command('oci')
    .summary('run containers from OCI bundles with the command line of OCI runtimes')
    .description(
      'Runs wherry-oci: create, start, state, kill, delete, run, exec, pause, resume, ps, list, update, events, features, spec.',
    )
    .argument('[arguments...]', 'arguments of wherry-oci')
    .helpOption(false)
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (args: string[]) => {
      const child = spawn(LAUNCHER, args.length === 0 ? ['--help'] : args, { stdio: 'inherit', env })
      onSignal((signal) => {
        child.kill(signal)
      })
      setExitCode(await exitCodeOf(child))
    })
}
