// wherry oci: the OCI runtime's command line under our own roof.  Everything behind it is wherry-oci's, its
// help included; engines take that program directly.

import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import type { Context } from '../context.ts'

const LAUNCHER = fileURLToPath(new URL('../../oci/wherry-oci', import.meta.url))
const BY_SIGNAL = 128

export function addOci (program: Command, { env, onSignal, setExitCode }: Context): void {
  program.command('oci')
    .summary('containers from OCI bundles, on the command line of the OCI runtimes')
    .description('Runs wherry-oci: create, start, state, kill, delete, run, exec, pause, resume, ps, list, features, spec.')
    .argument('[arguments...]', 'a command line of wherry-oci')
    .helpOption(false)
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (args: string[]) => {
      const child = spawn(LAUNCHER, args.length === 0 ? ['--help'] : args, { stdio: 'inherit', env })
      onSignal(signal => { child.kill(signal) })
      const ended = Promise.withResolvers<number>()
      child.once('error', ended.reject)
      child.once('exit', (code, signal) => { ended.resolve(code ?? BY_SIGNAL + (signal === null ? 0 : constants.signals[signal])) })
      setExitCode(await ended.promise)
    })
}
