// Output of `wherry up`: a line per part that is ready, and the JSON log lines of the parts in readable form.

import { formatMs, printable } from '../terminal.ts'

const LEVELS: Readonly<Record<number, string>> = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'warn',
  50: 'error',
  60: 'fatal',
}
const NAME_WIDTH = 9
/** Fields of every line that are of no use on a single machine. */
const DULL_FIELDS = new Set(['level', 'time', 'pid', 'hostname', 'name', 'msg'])

/** "✓ redis     unix:///var/lib/wherry/redis/redis.sock   31.2 ms" */
export function formatReady(name: string, address: string, tookMs: number): string {
  return `✓ ${name.padEnd(NAME_WIDTH)} ${address}  ${formatMs(tookMs)}`
}

/** A child's LINE: JSON as "gateway   info  message field=value", anything else unchanged. */
export function formatChildLine(name: string, line: string): string {
  const prefix = name.padEnd(NAME_WIDTH)
  let entry: unknown
  try {
    entry = JSON.parse(line)
  } catch {
    return `${prefix} ${printable(line)}` // not a JSON log line
  }
  if (typeof entry !== 'object' || entry === null || !('level' in entry) || !('msg' in entry))
    return `${prefix} ${printable(line)}`
  const fields = Object.entries(entry)
    .filter(([key]) => !DULL_FIELDS.has(key))
    .map(([key, value]) => `${key}=${describeField(value)}`)
  return printable(
    `${prefix} ${LEVELS[Number(entry.level)] ?? String(entry.level)} ${String(entry.msg)} ${fields.join(' ')}`.trimEnd(),
  )
}

function describeField(value: unknown): string {
  if (typeof value === 'object' && value !== null && 'message' in value && typeof value.message === 'string')
    return value.message
  return typeof value === 'string' ? value : JSON.stringify(value)
}
