// wherry down: stops a running `wherry up` and waits until all of its processes have ended.

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
    .option('--data <dir>', `data folder of the wherry up (or WHERRY_DATA; default ${DATA_DEFAULT})`)
    .addHelpText(
      'after',
      `
Examples:
  wherry down
  wherry down --data /tmp/w

Exit codes: 0 stopped, or nothing was running; 1 something is still running.`,
    )
    .action(async ({ data }: { data?: string }) => {
      const dir = resolve(data ?? (env.WHERRY_DATA || DATA_DEFAULT))
      refuseForeignDir(dir)
      const holder = readHolder(dir)
      const parts = readState(dir)?.parts.filter(isAlive) ?? []
      if (holder === undefined && parts.length === 0) {
        stderr.write(`nothing is running on ${dir}\n`)
        return
      }
      // The parts of a killed supervisor end by themselves soon; the signal makes it sooner.
      for (const process of holder === undefined ? parts : [holder]) signalProcess(process, 'SIGTERM')
      const supervisor = holder === undefined ? [] : await waitUntilGone([holder], STOP_TIMEOUT_MS)
      const left = supervisor.length > 0 ? parts : await waitUntilGone(parts, PARTS_TIMEOUT_MS)
      if (supervisor.length > 0 || left.length > 0) {
        const names = [
          ...supervisor.map((p) => `supervisor (pid ${p.pid})`),
          ...parts.filter(isAlive).map((p) => `${p.name} (pid ${p.pid})`),
        ]
        throw new Failure('down', `still running: ${names.join(', ')}`, {
          remedy: `see ${dir}/log/up.log; kill -9 ends processes that do not stop`,
        })
      }
      stderr.write(`stopped ${dir}\n`)
    })
}

/** Without permission to read the folder, the answer would be that nothing is running there. */
function refuseForeignDir(dir: string): void {
  try {
    accessSync(dir, constants.R_OK | constants.X_OK)
  } catch (err) {
    // A folder that does not exist has nothing running on it.
    if ((err as NodeJS.ErrnoException).code !== 'EACCES') return
    throw new Failure('down', `this user may not read the data folder ${dir}`, {
      remedy: 'run it as the user who ran wherry up (sudo)',
      cause: err,
    })
  }
}
