// wherry down: asks a running `wherry up` to stop and waits until all of it is gone.

import { accessSync, constants } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { DATA_DEFAULT } from '../connect.ts'
import type { Context } from '../context.ts'
import { Failure } from '../failure.ts'
import { isAlive, signalProcess, waitUntilGone } from '../../platform/process-identity.ts'
import { readHolder, readState } from '../up/state.ts'

/** Gateway and worker may each finish running calls first (30 s by default), one after the other. */
const STOP_TIMEOUT_MS = 120_000
const PARTS_TIMEOUT_MS = 5_000

export function addDown(program: Command, { env, stderr }: Context): void {
  program
    .command('down')
    .summary('stop what wherry up started')
    .description(
      'Stops the wherry up that runs on a data folder: gateway, worker, registry, Redis.  Running calls may finish.',
    )
    .option('--data <dir>', `its data folder (or WHERRY_DATA; default ${DATA_DEFAULT})`)
    .addHelpText(
      'after',
      `
Examples:
  wherry down
  wherry down --data /tmp/w

Exit codes: 0 stopped, or nothing was running; 1 something is still there.`,
    )
    .action(async ({ data }: { data?: string }) => {
      const dir = resolve(data ?? (env.WHERRY_DATA || DATA_DEFAULT))
      refuseForeignDir(dir)
      const holder = readHolder(dir)
      const parts = readState(dir)?.parts.filter(isAlive) ?? []
      if (holder === undefined && parts.length === 0) {
        stderr.write(`nothing runs on ${dir}\n`)
        return
      }
      // Without its supervisor (killed) a part ends by itself, soon; asking makes it sooner.
      for (const process of holder === undefined ? parts : [holder]) signalProcess(process, 'SIGTERM')
      const supervisor = holder === undefined ? [] : await waitUntilGone([holder], STOP_TIMEOUT_MS)
      const left = supervisor.length > 0 ? parts : await waitUntilGone(parts, PARTS_TIMEOUT_MS)
      if (supervisor.length > 0 || left.length > 0) {
        const names = [
          ...supervisor.map((p) => `supervisor (pid ${p.pid})`),
          ...parts.filter(isAlive).map((p) => `${p.name} (pid ${p.pid})`),
        ]
        throw new Failure('down', `still running: ${names.join(', ')}`, {
          remedy: `look at ${dir}/log/up.log; kill -9 ends what does not stop`,
        })
      }
      stderr.write(`stopped ${dir}\n`)
    })
}

/** Of a folder that it may not read this user would hear that nothing runs there. */
function refuseForeignDir(dir: string): void {
  try {
    accessSync(dir, constants.R_OK | constants.X_OK)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EACCES') return // not there: nothing runs on it
    throw new Failure('down', `the data folder ${dir} may not be read by this user`, {
      remedy: 'run it as the user who ran wherry up (sudo)',
      cause: err,
    })
  }
}
