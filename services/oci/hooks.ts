// Hooks that run in the runtime's own namespaces (OCI runtime spec, config.md, POSIX-platform Hooks).  Those
// that run in the container's are wherry-init's business.

import type { Hook, HookName } from '../contract/bundle-spec.ts'
import { OciError } from './failure.ts'

const STDERR_MAX_BYTES = 64 * 1024

/** Run HOOKS one after the other with STATE (JSON) on stdin.  Throws OciError at the first that fails. */
export function runHooks (name: HookName, hooks: readonly Hook[], state: string): void {
  if (hooks.length === 0) return
  const { spawnSync } = process.getBuiltinModule('node:child_process') // loading it takes 4 ms, which few containers need
  for (const [i, hook] of hooks.entries()) {
    const ended = spawnSync(hook.path, hook.args.slice(1), {
      argv0: hook.args[0], input: state, maxBuffer: STDERR_MAX_BYTES, killSignal: 'SIGKILL',
      env: Object.fromEntries(hook.env.map(entry => [entry.split('=', 1)[0]!, entry.slice(entry.indexOf('=') + 1)])),
      ...(hook.timeoutMs > 0 && { timeout: hook.timeoutMs }),
    })
    // EPIPE: it ended without having read its stdin, which is its right.
    const failed = ended.error !== undefined && (ended.error as NodeJS.ErrnoException).code !== 'EPIPE'
    const why = failed ? ended.error?.message : ended.signal ? `killed by ${ended.signal}` : ended.status === 0 ? undefined : `exit code ${ended.status}`
    if (why !== undefined) throw new OciError(`hooks.${name}[${i}]: ${hook.path}: ${why}${ended.stderr?.length > 0 ? `: ${ended.stderr.toString().trim()}` : ''}`)
  }
}
