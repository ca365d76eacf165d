// HEALTHCHECK's arguments in the form of an image's config (Docker image spec v1.3, "Healthcheck").

import { didYouMean, quoted } from './build-failure.ts'
import type { Node } from './nodes.ts'

/** Durations in nanoseconds; 0 is the default of the base image or the engine. */
export interface Healthcheck {
  /** ["NONE"], ["CMD", program, …] or ["CMD-SHELL", text]. */
  readonly test: readonly string[]
  readonly intervalNs: number
  readonly timeoutNs: number
  readonly startPeriodNs: number
  readonly startIntervalNs: number
  readonly retries: number
}

const UNITS_NS: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  μs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
}
const SHORTEST_NS = 1e6
const RETRIES_MAX = 2 ** 31 - 1

/** "1m30s", "500ms", "1.5h", "0" (Go's time.ParseDuration) → nanoseconds. */
function parseGoDurationNs(text: string): number | undefined {
  if (/^[+-]?0$/.test(text)) return 0
  if (!/^\+?(?:(?:\d{1,15}(?:\.\d{0,9})?|\.\d{1,9})(?:ns|us|µs|μs|ms|s|m|h)){1,8}$/.test(text))
    return undefined
  let totalNs = 0
  for (const [, amount, unit] of text.matchAll(/(\d*\.?\d*)(ns|us|µs|μs|ms|s|m|h)/g))
    totalNs += Math.round(Number(amount) * UNITS_NS[unit!]!)
  return Number.isSafeInteger(totalNs) ? totalNs : undefined
}

function durationOf(node: Node, flag: string): number {
  const text = node.flags.text(flag)
  if (text === undefined || text === '') return 0
  const ns = parseGoDurationNs(text)
  if (ns === undefined)
    throw node.fault(`--${flag}=${text} is not a valid duration`, {
      mark: text,
      hint: 'examples: 30s, 1m30s, 500ms',
    })
  if (ns !== 0 && ns < SHORTEST_NS) throw node.fault(`--${flag} must be at least 1ms`, { mark: text })
  return ns
}

/**
 * Parses NODE, a HEALTHCHECK, with JSONARGUMENTS for the arguments of CMD. Throws InvalidRequest
 * ERR_INVALID_DOCKERFILE.
 */
export function parseHealthcheck(
  node: Node,
  jsonArguments: (text: string) => readonly string[] | undefined,
): Healthcheck {
  const [written = ''] = /^\S*/.exec(node.rest) ?? []
  const kind = written.toUpperCase()
  const rest = node.rest.slice(written.length).trim()
  if (kind === 'NONE') {
    if (rest !== '') throw node.fault('HEALTHCHECK NONE takes no arguments', { mark: rest })
    return { test: ['NONE'], intervalNs: 0, timeoutNs: 0, startPeriodNs: 0, startIntervalNs: 0, retries: 0 }
  }
  if (kind !== 'CMD') {
    throw node.fault(
      kind === '' ? 'HEALTHCHECK needs CMD or NONE' : `HEALTHCHECK has CMD or NONE, not ${quoted(written)}`,
      {
        mark: written || node.written,
        hint: didYouMean(kind, ['CMD', 'NONE']) ?? 'write HEALTHCHECK CMD command',
      },
    )
  }
  const argv = jsonArguments(rest)
  if (argv === undefined ? rest === '' : argv.length === 0)
    throw node.fault('HEALTHCHECK CMD needs a command', { mark: written })
  const retriesText = node.flags.text('retries') ?? ''
  const retries = retriesText === '' ? 0 : Number(/^\d{1,10}$/.test(retriesText) ? retriesText : NaN)
  if (!(retries <= RETRIES_MAX))
    throw node.fault(`--retries=${retriesText} is not a valid number of retries`, { mark: retriesText })
  return {
    test: argv === undefined ? ['CMD-SHELL', rest] : ['CMD', ...argv],
    intervalNs: durationOf(node, 'interval'),
    timeoutNs: durationOf(node, 'timeout'),
    startPeriodNs: durationOf(node, 'start-period'),
    startIntervalNs: durationOf(node, 'start-interval'),
    retries,
  }
}
