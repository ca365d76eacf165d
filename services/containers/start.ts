// `start` (OCI runtime spec, runtime.md, Lifecycle steps 6 to 9): a created container runs its program.

import { rmSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { START_SOCKET, startContainer } from '../runtime/bundle/bundle.ts'
import { signalAll } from '../runtime/cgroup/tree.ts'
import type { Context } from './context.ts'
import { requireStatus } from './errors.ts'
import { runHooks } from './hooks.ts'
import { reportOf } from './status.ts'

/** Resolves when the container's program runs and its poststart hooks have ended. */
export async function startCreated(context: Context, id: string): Promise<void> {
  const { records, warn, environment } = context
  const record = records.load(id)
  requireStatus(reportOf(records, record), 'start', ['created'])
  const directory = records.directoryOf(id)
  const spec = records.loadConfig(record)
  await startContainer(context.native(), { directory, opNames: record.opNames, args: spec.process.args })
  rmSync(join(directory, START_SOCKET))
  const input = { state: JSON.stringify(reportOf(records, record, 'running')), environment }
  if (!spec.poststartStops)
    return runHooks('poststart', spec.hooks.poststart, input, (failure) => warn(failure.message))
  try {
    await runHooks('poststart', spec.hooks.poststart, input)
  } catch (err) {
    // Since version 1.3 of the spec, the failure stops the container.
    await signalAll(record.cgroup, constants.signals.SIGKILL)
    throw err
  }
}
