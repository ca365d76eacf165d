// Hooks in the runtime's namespaces (OCI runtime spec, config.md, POSIX-platform Hooks). wherry-init runs
// those in the container's namespaces. Time and output of a hook are bounded, and the event loop runs on.

import type { ChildProcess } from 'node:child_process'
import type { Hook, HookName } from '../contract/bundle-spec.ts'
import { ContainerError } from './errors.ts'

const STDERR_MAX_BYTES = 1 << 20
const QUOTE_MAX_BYTES = 4096

export interface HookInput {
  /** The container's state as JSON, for the hook's stdin. */
  readonly state: string
  /** Environment of hooks that declare none. */
  readonly environment: Readonly<Record<string, string | undefined>>
}

/** Collect the exit of CHILD. Resolves with the reason of its failure, undefined for success. */
function follow(child: ChildProcess, hook: Hook, state: string): Promise<string | undefined> {
  let tail = Buffer.alloc(0)
  let bytes = 0
  let stopped: string | undefined
  const stop = (why: string): void => {
    stopped ??= why
    child.kill('SIGKILL')
    child.stderr!.destroy() // its children may keep the pipe open
  }
  const timer =
    hook.timeoutMs > 0
      ? setTimeout(() => stop(`killed after ${hook.timeoutMs / 1000} s`), hook.timeoutMs)
      : undefined
  child.stderr!.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    tail = Buffer.from(Buffer.concat([tail, chunk]).subarray(-QUOTE_MAX_BYTES))
    if (bytes > STDERR_MAX_BYTES) stop(`killed: it wrote more than ${STDERR_MAX_BYTES} bytes to stderr`)
  })
  child.stderr!.on('error', () => {})
  child.stdin!.on('error', () => {}) // EPIPE: a hook need not read its stdin
  child.stdin!.end(state)
  return new Promise((resolve) => {
    const settle = (why: string | undefined): void => {
      clearTimeout(timer)
      const text = tail.toString().trim()
      resolve(why === undefined || text === '' ? why : `${why}: ${text}`)
    }
    child.once('error', (err) => settle(err.message))
    child.once('close', (code, signal) => {
      settle(stopped ?? (signal ? `killed by ${signal}` : code === 0 ? undefined : `exit code ${code}`))
    })
  })
}

/** Run HOOK. Resolves with the reason of its failure, undefined for success. */
async function runHook(hook: Hook, { state, environment }: HookInput): Promise<string | undefined> {
  // Loaded on demand: it takes 4 ms, and few containers have hooks.
  const { spawn } = process.getBuiltinModule('node:child_process')
  const env =
    hook.env === undefined
      ? environment
      : Object.fromEntries(
          hook.env.map((entry) => [entry.split('=', 1)[0]!, entry.slice(entry.indexOf('=') + 1)]),
        )
  try {
    const child = spawn(hook.path, hook.args.slice(1), {
      argv0: hook.args[0]!,
      stdio: ['pipe', 'ignore', 'pipe'],
      env,
    })
    return await follow(child, hook, state)
  } catch (err) {
    return err instanceof Error ? err.message : String(err) // E2BIG and its like are thrown at once
  }
}

/**
 * Run HOOKS in order. Rejects with ContainerError at the first failure. With ONFAILED, failures go there and
 * the remaining hooks run.
 */
export async function runHooks(
  name: HookName,
  hooks: readonly Hook[],
  input: HookInput,
  onFailed = (failure: ContainerError): void => {
    throw failure
  },
): Promise<void> {
  for (const [i, hook] of hooks.entries()) {
    const why = await runHook(hook, input)
    if (why !== undefined) onFailed(new ContainerError('hook', `hooks.${name}[${i}]: ${hook.path}: ${why}`))
  }
}
