// Hooks that run in the runtime's own namespaces (OCI runtime spec, config.md, POSIX-platform Hooks).  Those
// that run in the container's are wherry-init's business.

import type { SpawnSyncReturns } from 'node:child_process'
import type { Hook, HookName } from '../contract/bundle-spec.ts'
import { OciError } from './failure.ts'

const STDERR_MAX_BYTES = 1 << 20
const QUOTE_MAX_BYTES = 4096

export interface HookInput {
  /** JSON, for its stdin. */
  readonly state: string
  /** The runtime's own, for hooks that name none. */
  readonly environment: Readonly<Record<string, string | undefined>>
}

/** What a hook said last; it may be much. */
const textOf = (output: Buffer | null): string =>
  output === null || output.length === 0 ? '' : `: ${output.subarray(-QUOTE_MAX_BYTES).toString().trim()}`

/** Why the hook that ENDED so has failed; undefined when it has not. */
function reasonOf(hook: Hook, { error, signal, status }: SpawnSyncReturns<Buffer>): string | undefined {
  switch (error && 'code' in error ? error.code : undefined) {
    case undefined:
    case 'EPIPE':
      break // it ended without having read its stdin, which is its right
    case 'ETIMEDOUT':
      return `killed after ${hook.timeoutMs / 1000} s`
    case 'ENOBUFS':
      return `killed, it wrote more than ${STDERR_MAX_BYTES} bytes of messages`
    default:
      return error?.message
  }
  return signal ? `killed by ${signal}` : status === 0 ? undefined : `exit code ${status}`
}

/**
 * Run HOOKS one after the other. Throws OciError at the first that fails, unless somebody else hears of it:
 * ONFAILED, and the others run.
 */
export function runHooks(
  name: HookName,
  hooks: readonly Hook[],
  { state, environment }: HookInput,
  onFailed = (failure: OciError): void => {
    throw failure
  },
): void {
  if (hooks.length === 0) return
  const { spawnSync } = process.getBuiltinModule('node:child_process') // loading it takes 4 ms, which few containers need
  for (const [i, hook] of hooks.entries()) {
    const ended = spawnSync(hook.path, hook.args.slice(1), {
      argv0: hook.args[0],
      input: state,
      stdio: ['pipe', 'ignore', 'pipe'],
      maxBuffer: STDERR_MAX_BYTES,
      killSignal: 'SIGKILL',
      env:
        hook.env === undefined
          ? environment
          : Object.fromEntries(
              hook.env.map((entry) => [entry.split('=', 1)[0]!, entry.slice(entry.indexOf('=') + 1)]),
            ),
      ...(hook.timeoutMs > 0 && { timeout: hook.timeoutMs }),
    })
    const why = reasonOf(hook, ended)
    if (why !== undefined)
      onFailed(new OciError(`hooks.${name}[${i}]: ${hook.path}: ${why}${textOf(ended.stderr)}`))
  }
}
