// The contract `stdio`: one call, one container. The body goes to stdin and the request into the environment;
// stdout is the response, stderr the log, an exit code other than 0 an error.

import type { Completion } from '../../contract/call-record.ts'
import { defined } from '../../contract/defined.ts'
import { formatBytes, formatDuration } from '../../contract/quantity.ts'
import type { RuntimeSpec } from '../../contract/runtime-spec.ts'
import type { Runtime } from '../../runtime/container.ts'
import { follow, type FollowedExit } from '../../runtime/follow.ts'
import { responseContentType } from './content-type.ts'
import type { Contract } from './contract.ts'
import { createHead, createTail } from './output.ts'
import { requestEnvironment } from './request-env.ts'

/** How much of the end of stderr is kept. */
const LOG_MAX_BYTES = 64 * 1024
const NO_BYTES = new Uint8Array(0)

export interface StdioCall {
  readonly spec: RuntimeSpec
  readonly body: Uint8Array
  readonly timeoutMs: number
  readonly responseMaxBytes: number
  readonly signal: AbortSignal
  /** Called once the program runs, with its pid on the host. */
  readonly onStarted?: (pid: number) => void
}

/** The completion of a call that ran, before the contract adds the content type, the image and the phases. */
export type StdioCompletion = Completion &
  Required<Pick<Completion, 'body' | 'log' | 'logTruncated' | 'usage' | 'endedAt'>> & {
    readonly createMs: number
    readonly runMs: number
  }

function judge(
  call: StdioCall,
  exit: FollowedExit,
  overflowed: boolean,
): Pick<Completion, 'outcome' | 'message'> {
  const { memory } = call.spec.linux.resources
  if (exit.usage.oomKills > 0)
    return {
      outcome: 'oom',
      message: `the function exceeded its memory limit of ${formatBytes(memory.limit)} and was killed`,
    }
  // Checked before the signal: the container was killed because of the overflow, unless it had already
  // exited.
  if (overflowed)
    return {
      outcome: 'too_large',
      message: `the function wrote more than ${formatBytes(call.responseMaxBytes)} to stdout`,
    }
  if (exit.timedOut)
    return {
      outcome: 'timeout',
      message: `the function was still running after ${formatDuration(call.timeoutMs)} and was killed`,
    }
  if (call.signal.aborted) return { outcome: 'cancelled', message: 'the call was cancelled while it ran' }
  if (exit.signal !== undefined)
    return { outcome: 'crash', message: `the function was killed by ${exit.signal}` }
  if (exit.exitCode !== 0)
    return { outcome: 'app_error', message: `the function exited with code ${exit.exitCode}` }
  return { outcome: 'ok' }
}

/**
 * Run CALL in a fresh container.  Throws what Runtime.start throws; from then on everything is a completion.
 */
export async function runStdio(runtime: Runtime, call: StdioCall): Promise<StdioCompletion> {
  const startedAt = performance.now()
  const container = runtime.start(call.spec)
  const runningAt = performance.now()
  call.onStarted?.(container.pid)
  const response = createHead(call.responseMaxBytes, container.kill)
  const log = createTail(LOG_MAX_BYTES)
  const exit = await follow(container, {
    body: call.body,
    timeoutMs: call.timeoutMs,
    signal: call.signal,
    onStdout: response.keep,
    onStderr: log.keep,
  })
  return {
    ...judge(call, exit, response.overflowed()),
    ...defined({ exitCode: exit.exitCode, signal: exit.signal }),
    usage: exit.usage,
    body: response.bytes(),
    log: log.text(),
    logTruncated: log.truncated(),
    endedAt: exit.endedAt,
    createMs: runningAt - startedAt,
    runMs: exit.endedAt - runningAt,
  }
}

/** SPEC with VARIABLES in its environment; they replace those of the same name. */
function withEnvironment(spec: RuntimeSpec, variables: Readonly<Record<string, string>>): RuntimeSpec {
  const kept = spec.process.env.filter((entry) => !Object.hasOwn(variables, entry.split('=', 1)[0]!))
  const env = [...kept, ...Object.entries(variables).map(([name, value]) => `${name}=${value}`)]
  return { ...spec, process: { ...spec.process, env } }
}

export function createStdioContract(deps: {
  readonly runtime: Runtime
  readonly responseMaxBytes: number
}): Contract {
  const { runtime, responseMaxBytes } = deps
  return {
    async start({ function: { timeoutMs, envVars }, image, container }) {
      return {
        async call(invocation, signal, onStarted) {
          const { createMs, runMs, ...completion } = await runStdio(runtime, {
            spec: withEnvironment(container, requestEnvironment(invocation)),
            body: invocation.request.body,
            timeoutMs,
            responseMaxBytes,
            signal,
            onStarted,
          })
          const requestType = invocation.request.headers['content-type']
          return {
            ...completion,
            body: completion.outcome === 'too_large' ? NO_BYTES : completion.body,
            contentType: responseContentType(envVars, requestType, completion.body),
            imageDigest: image.digest,
            start: 'cold',
            phases: { pull: 0, create: createMs, init: 0, run: runMs },
          }
        },
        async stop() {}, // the container ends with its call
      }
    },
  }
}
