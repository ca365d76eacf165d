// wherry invoke: one call of a function. stdout is the function's answer, byte for byte; errors, timing and
// usage go to stderr.

import { fstatSync, readFileSync } from 'node:fs'
import type { Readable } from 'node:stream'
import type { Command } from 'commander'
import type { CallRecord, Usage } from '../../contract/call-record.ts'
import { formatBytes } from '../../contract/quantity.ts'
import { addConnectOptions, connectGateway, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'
import { Failure, usageFailure } from '../failure.ts'
import { errorOfReply, failureOfReply, type GatewayClient, type Reply } from '../gateway-client.ts'
import { formatTable } from '../table.ts'
import { formatMs, printable } from '../terminal.ts'

interface Flags extends ConnectOptions {
  readonly body?: string
  readonly method: string
  readonly header?: string[]
  readonly path: string
  readonly async?: boolean
  readonly include?: boolean
  readonly timing?: boolean
  readonly json?: boolean
}

/** Limit for stdin and files. The gateway's limit is lower and has the better message. */
const BODY_MAX_BYTES = 256 * 1024 ** 2
const LOG_LINES_MAX = 20
const TIMING_COLUMNS = [{ title: 'PHASE' }, { title: 'TIME', right: true }]
const USAGE_COLUMNS = [{ title: 'USED' }, { title: '', right: true }]

export function addInvoke(program: Command, context: Context): void {
  addConnectOptions(program.command('invoke'))
    .summary('call a function')
    .description(
      'Calls the function NAME and prints its answer.  The body comes from -d, or from stdin if that is a file or a pipe.',
    )
    .argument('<name>', 'name of the function')
    .option('-d, --body <text>', 'body of the call; @file reads a file, @- stdin')
    .option('-X, --method <method>', 'HTTP method of the request', 'POST')
    .option(
      '-H, --header <name: value>',
      'header of the request; repeatable',
      (value: string, before: string[] | undefined) => [...(before ?? []), value],
    )
    .option('--path <path>', 'path and query after the function’s name', '/')
    .option('--async', 'do not wait: print the call’s id as soon as it is queued')
    .option('-i, --include', 'print status and headers before the answer')
    .option('--timing', 'show on stderr how long each phase took and what the call used')
    .option('--json', 'print the call’s record (outcome, phases, result …) instead of the answer')
    .addHelpText(
      'after',
      `
Examples:
  wherry invoke upper -d hello
  wherry invoke upper <letter.txt >LETTER.TXT
  wherry invoke resize -d @photo.jpg -H 'Content-Type: image/jpeg' --path '/thumb?w=200' >thumb.jpg
  wherry invoke upper -d hello --timing
  id=$(wherry invoke upper -d hello --async); curl -s http://127.0.0.1:8080/system/calls/$id

Exit codes: 0 the outcome is ok, 1 it is not (stderr has the reason) or the call was rejected, 2 wrong usage.`,
    )
    .action(async (name: string, flags: Flags) => {
      const gateway = connectGateway('invoke', flags, context)
      const path = flags.path.startsWith('/') ? flags.path : `/${flags.path}`
      const startedAt = performance.now()
      const reply = await gateway.send({
        method: flags.async ? 'POST' : flags.method.toUpperCase(),
        path: `/${flags.async ? 'async-function' : 'function'}/${encodeURIComponent(name)}${path === '/' ? '' : path}`,
        headers: parseHeaders(flags.header ?? []),
        body: await readBody(flags.body, context),
        patient: true,
      })
      const tookMs = performance.now() - startedAt
      if (flags.async) showQueued(reply, flags, context)
      else await showReply(name, reply, { flags, gateway, context, tookMs })
    })
}

function parseHeaders(lines: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    lines.map((line) => {
      const match = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)$/.exec(line)
      if (!match) throw usageFailure('invoke', `-H "${line}" must be "Name: value"`)
      return [match[1]!, match[2]!]
    }),
  )
}

async function readBody(written: string | undefined, { stdin }: Context): Promise<Uint8Array> {
  if (written === undefined) return hasInput(stdin) ? readStream(stdin) : Buffer.alloc(0)
  if (written === '@-') return readStream(stdin)
  if (!written.startsWith('@')) return Buffer.from(written)
  try {
    return readFileSync(written.slice(1))
  } catch (err) {
    throw new Failure('invoke', `the body cannot be read (${(err as Error).message})`, { cause: err })
  }
}

/** Whether stdin is a file, a pipe or a socket, rather than a terminal, /dev/null or closed. */
function hasInput({ fd, isTTY }: Context['stdin']): boolean {
  if (fd === undefined || isTTY) return fd === undefined
  try {
    const stat = fstatSync(fd)
    return stat.isFile() || stat.isFIFO() || stat.isSocket()
  } catch {
    return false // stdin is closed
  }
}

async function readStream(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length
    if (sizeBytes > BODY_MAX_BYTES)
      throw new Failure('invoke', `the body is larger than ${BODY_MAX_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function showQueued(reply: Reply, { json }: Flags, { stdout }: Context): void {
  if (reply.status !== 202) throw failureOfReply('invoke', reply)
  const callId = String(reply.headers['x-call-id'])
  stdout.write(json ? `${JSON.stringify({ callId, location: reply.headers.location })}\n` : `${callId}\n`)
}

interface Shown {
  readonly flags: Flags
  readonly gateway: GatewayClient
  readonly context: Context
  readonly tookMs: number
}

async function showReply(
  name: string,
  reply: Reply,
  { flags, gateway, context, tookMs }: Shown,
): Promise<void> {
  const { stdout, stderr } = context
  const outcome = reply.headers['x-wherry-outcome']
  const error = outcome === 'ok' ? undefined : errorOfReply(reply)
  const record =
    flags.json || flags.timing || (outcome !== undefined && outcome !== 'ok')
      ? await findRecord(gateway, reply)
      : undefined

  if (flags.include)
    stdout.write(
      `HTTP/1.1 ${reply.status}\r\n${Object.entries(reply.headers)
        .map(([key, value]) => `${key}: ${String(value)}\r\n`)
        .join('')}\r\n`,
    )
  if (flags.json && outcome !== undefined)
    stdout.write(`${JSON.stringify(record ?? describeReply(name, reply))}\n`)
  else if (!flags.json && error === undefined) stdout.write(reply.body)
  if (flags.timing) {
    // On a terminal the table starts on a new line even if the answer has no newline at its end.
    if (stdout.isTTY === true && !flags.json && error === undefined && reply.body.at(-1) !== 0x0a)
      stderr.write('\n')
    stderr.write(
      formatTable(TIMING_COLUMNS, timingRows(String(reply.headers['server-timing'] ?? ''), tookMs)),
    )
    if (record?.usage) stderr.write(formatTable(USAGE_COLUMNS, usageRows(record.usage)))
  }

  if (outcome === 'ok') return
  if (outcome === undefined) throw failureOfReply('invoke', reply)
  const log = (record?.log ?? error?.log ?? '')
    .split('\n')
    .filter((line) => line !== '')
    .slice(-LOG_LINES_MAX)
  throw new Failure(
    'invoke',
    `${name}: ${String(outcome)}: ${record?.message ?? error?.message ?? `the gateway answered ${reply.status}`}`,
    {
      faults: log.map((line) => ({ path: '', problem: printable(line) })),
    },
  )
}

/**
 * The record of the call that REPLY belongs to; undefined if none was stored, because the call was rejected
 * before it was queued or Redis is unreachable.
 */
async function findRecord(gateway: GatewayClient, { headers }: Reply): Promise<CallRecord | undefined> {
  const callId = headers['x-call-id']
  if (callId === undefined) return undefined
  const found = await gateway.send({
    method: 'GET',
    path: `/system/calls/${encodeURIComponent(String(callId))}`,
  })
  // As the gateway writes it.
  return found.status === 200 ? (JSON.parse(found.body.toString('utf8')) as CallRecord) : undefined
}

function describeReply(name: string, { status, headers, body }: Reply): Record<string, unknown> {
  return {
    callId: headers['x-call-id'],
    function: name,
    outcome: headers['x-wherry-outcome'],
    status,
    result: { contentType: headers['content-type'], body: body.toString('base64'), encoding: 'base64' },
  }
}

/** Server-Timing ("queue;dur=0.41, …") and the time measured here, as rows of a table. */
function timingRows(serverTiming: string, tookMs: number): readonly string[][] {
  const phases = [...serverTiming.matchAll(/([a-z]+);dur=([\d.]+)/g)].map(([, phase, ms]) => [
    phase!,
    formatMs(Number(ms)),
  ])
  return [...phases, ['total here', formatMs(tookMs)]]
}

/** USAGE as rows of a table; what the host does not count is omitted. */
function usageRows(usage: Usage): readonly string[][] {
  const {
    cpuMs,
    cpuThrottledMs,
    cpuThrottledPeriods,
    cpuPeriods,
    memoryPeakBytes,
    oomKills,
    pidsPeak,
    ioReadBytes,
    ioWriteBytes,
  } = usage
  return [
    ['cpu', formatMs(cpuMs)],
    ...(cpuThrottledPeriods > 0
      ? [['throttled', `${formatMs(cpuThrottledMs)} in ${cpuThrottledPeriods} of ${cpuPeriods} periods`]]
      : []),
    ['memory peak', formatBytes(memoryPeakBytes)],
    ...(oomKills > 0 ? [['OOM kills', String(oomKills)]] : []),
    ...(pidsPeak !== undefined ? [['processes', String(pidsPeak)]] : []),
    ...(ioReadBytes !== undefined ? [['disk read', formatBytes(ioReadBytes)]] : []),
    ...(ioWriteBytes !== undefined ? [['disk written', formatBytes(ioWriteBytes)]] : []),
  ]
}
