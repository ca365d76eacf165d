// One supervised child process: started, restarted when it dies (with growing pauses and a limit), and
// stopped. parts.ts says how to spawn it and how to tell that it is ready.

import type { ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import type { Fault } from '../../contract/errors.ts'
import { Failure, failureOf } from '../failure.ts'
import { identityOf, type ProcessIdentity } from '../../platform/process-identity.ts'

/** After more restarts than this within the window, the supervisor gives up. */
const RESTARTS_MAX = 5
const RESTART_WINDOW_MS = 30_000
const BACKOFF_MIN_MS = 100
const BACKOFF_MAX_MS = 5_000
/** Last lines of a child, shown if it fails to start. */
const TAIL_LINES_MAX = 8
const LINE_MAX = 8_192
/** Time from a child's exit to the end of its output. */
const LAST_WORDS_MS = 500

export interface PartSpec {
  readonly name: string
  readonly spawn: () => ChildProcess
  /** Resolves with the part's address once CHILD is ready.  It need not watch for CHILD's exit. */
  readonly ready: (child: ChildProcess, signal: AbortSignal) => Promise<string>
  readonly readyTimeoutMs: number
  /** From SIGTERM to SIGKILL. */
  readonly stopTimeoutMs: number
}

export interface PartEvents {
  /** A line of the child's output, once it has been ready for the first time. */
  readonly onLine: (name: string, line: string) => void
  /** It died and was restarted; WHY says how it died ("it was killed by SIGKILL"). */
  readonly onRestart: (name: string, why: string) => void
  /** It died too often. */
  readonly onGiveUp: (failure: Failure) => void
}

export interface Part {
  readonly name: string
  /** Resolves with the address once it is ready.  Throws Failure with the child's last output. */
  start(): Promise<string>
  stop(): Promise<void>
  /** SIGKILL, now. */
  kill(): void
  readonly identity: ProcessIdentity | undefined
}

/** One run of the child. */
interface Run {
  readonly child: ChildProcess
  /** How it ended: "exited with code 1". */
  readonly ended: Promise<string>
  readonly lastLines: string[]
}

export function createPart(spec: PartSpec, { onLine, onRestart, onGiveUp }: PartEvents): Part {
  const { name } = spec
  const stopping = new AbortController()
  const restarts: number[] = []
  let run: Run | undefined
  let served = false
  let identity: ProcessIdentity | undefined

  async function start(): Promise<string> {
    const current = launch(spec, (line) => {
      if (served) onLine(name, line)
    })
    run = current
    const address = await serving(spec, current)
    served = true
    identity = current.child.pid === undefined ? undefined : identityOf(current.child.pid)
    void current.ended.then((how) => keepAlive(how, current.lastLines))
    return address
  }

  /** Restarts the part after its end, until that works or has failed too often. */
  async function keepAlive(how: string, lastLines: readonly string[]): Promise<void> {
    let failure = new Failure(name, `it ${how}`, { faults: asFaults(lastLines) })
    while (!stopping.signal.aborted) {
      const now = performance.now()
      restarts.splice(0, restarts.length, ...restarts.filter((at) => now - at < RESTART_WINDOW_MS), now)
      if (restarts.length > RESTARTS_MAX) {
        onGiveUp(
          new Failure(
            name,
            `${failure.message}, for the ${restarts.length}th time in ${RESTART_WINDOW_MS / 1000} s`,
            { faults: failure.faults },
          ),
        )
        return
      }
      try {
        await delay(Math.min(BACKOFF_MIN_MS * 2 ** (restarts.length - 1), BACKOFF_MAX_MS), undefined, {
          signal: stopping.signal,
        })
        await start()
        onRestart(name, failure.message)
        return
      } catch (err) {
        if (stopping.signal.aborted) return
        failure = failureOf(name, err)
      }
    }
  }

  return {
    name,
    start,
    get identity() {
      return identity
    },
    kill() {
      run?.child.kill('SIGKILL')
    },
    async stop() {
      stopping.abort()
      if (run === undefined) return
      const { child, ended } = run
      child.kill('SIGTERM')
      const slow = setTimeout(() => child.kill('SIGKILL'), spec.stopTimeoutMs)
      await ended
      clearTimeout(slow)
    },
  }
}

function asFaults(lines: readonly string[]): Fault[] {
  return lines.map((line) => ({ path: '', problem: line }))
}

function launch(spec: PartSpec, onLine: (line: string) => void): Run {
  const child = spec.spawn()
  const lastLines: string[] = []
  for (const stream of [child.stdout, child.stderr]) {
    if (stream === null) continue
    createInterface({ input: stream, crlfDelay: Infinity }).on('line', (line) => {
      const text = line.slice(0, LINE_MAX)
      if (lastLines.push(text) > TAIL_LINES_MAX) lastLines.shift()
      onLine(text)
    })
  }
  return { child, lastLines, ended: endOf(child) }
}

/**
 * Resolves with the address once the child is ready. Otherwise kills it and throws a Failure with its last
 * output.
 */
async function serving(spec: PartSpec, { child, ended, lastLines }: Run): Promise<string> {
  const waiting = new AbortController()
  const slow = setTimeout(() => {
    waiting.abort(new Error(`was not ready within ${spec.readyTimeoutMs / 1000} s`))
  }, spec.readyTimeoutMs)
  try {
    return await Promise.race([
      spec.ready(child, waiting.signal),
      ended.then((how) => {
        throw new Error(how)
      }),
      new Promise<never>((_resolve, reject) => {
        waiting.signal.addEventListener('abort', () => {
          reject(waiting.signal.reason as Error)
        })
      }),
    ])
  } catch (err) {
    waiting.abort(err)
    child.kill('SIGKILL')
    await ended
    throw new Failure(spec.name, `it ${(err as Error).message}`, { faults: asFaults(lastLines), cause: err })
  } finally {
    clearTimeout(slow)
  }
}

/** Resolves with how the child ended, once its remaining output has been read. */
function endOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (err) => {
      resolve(`could not be run (${err.message})`)
    })
    child.once('exit', (code, signal) => {
      const how = signal === null ? `exited with code ${code}` : `was killed by ${signal}`
      // A process that inherited its pipes may keep them open; do not wait for that.
      const late = setTimeout(resolve, LAST_WORDS_MS, how)
      child.once('close', () => {
        clearTimeout(late)
        resolve(how)
      })
    })
  })
}
