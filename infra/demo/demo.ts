// `make demo`: the whole life of a Wherry in one run. It starts everything as a user would, creates and
// pushes an image, deploys two functions, calls them over HTTP (synchronously and asynchronously) and through
// a plain BullMQ queue, prints timings, stops everything, and checks that nothing remains.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Queue, QueueEvents } from 'bullmq'
import type { Addresses } from '../../services/cli/up/state.ts'
import type { CallRecord, CallResult, Phases } from '../../services/contract/call-record.ts'
import { findLeftovers, listLinks, subjectOf } from './census.ts'
import { makeBusyboxLayer, pushBusybox } from './image.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const PREFIX = '{wherry}'
const CALL_TIMEOUT_MS = 30_000
const POLL_MS = 20
const WAIT_STOP_MS = 60_000
const COLD_STARTS = 20

type JobResult = CallResult & { readonly outcome: string; readonly phases: Phases }

let stepNumber = 0

/** Run a step and print its name, result and duration. An error names the step. */
async function step<T>(
  what: string,
  run: () => T | Promise<T>,
  show: (value: T) => string = () => '',
): Promise<T> {
  const startedAt = performance.now()
  stepNumber += 1
  try {
    const value = await run()
    const shown = show(value)
    console.log(
      `${String(stepNumber).padStart(2)}. ${what}${shown === '' ? '' : `: ${shown}`}  (${(performance.now() - startedAt).toFixed(0)} ms)`,
    )
    return value
  } catch (err) {
    console.log(`${String(stepNumber).padStart(2)}. ${what}: failed`)
    throw new Error(`step ${stepNumber}, ${what}: ${(err as Error).message}`, { cause: err })
  }
}

async function startWherry(data: string): Promise<{ child: ChildProcess; addresses: Addresses }> {
  const free = ['--gateway', '127.0.0.1:0', '--registry', '127.0.0.1:0', '--worker', '127.0.0.1:0']
  const { WHERRY_REDIS_URL: _redis, ...env } = process.env // the demo starts a private Redis
  // If the demo is killed, the kernel sends SIGTERM to wherry up (setpriv(1), prctl(2) PR_SET_PDEATHSIG).
  const command = [
    '--pdeathsig',
    'SIGTERM',
    '--',
    join(ROOT, 'services/cli/wherry'),
    'up',
    '--json',
    '--data',
    data,
    ...free,
  ]
  const child = spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'pipe'], env })
  const words: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => {
    words.push(line)
    if (/^[✓!]/u.test(line)) console.log(`      ${line}`)
  })
  const ready = once(createInterface({ input: child.stdout }), 'line') as Promise<[string]>
  const ended = once(child, 'close').then(() => {
    throw new Error(`wherry up exited: ${words.slice(-5).join(' | ')}`)
  })
  const [line] = await Promise.race([ready, ended])
  ended.catch(() => {
    /* from here on, stop() waits for the exit */
  })
  return { child, addresses: JSON.parse(line) as Addresses }
}

async function expectStatus(reply: Response, status: number): Promise<Response> {
  if (reply.status !== status)
    throw new Error(`HTTP ${reply.status} instead of ${status}: ${(await reply.text()).slice(0, 2000)}`)
  return reply
}

async function deploy(gateway: string, image: string, example: string): Promise<string> {
  const spec = JSON.parse(readFileSync(join(ROOT, 'examples', example, 'function.json'), 'utf8')) as Record<
    string,
    unknown
  >
  const reply = await expectStatus(
    await fetch(`${gateway}/system/functions`, {
      method: 'POST',
      body: JSON.stringify({ ...spec, image }),
      headers: { 'content-type': 'application/json' },
    }),
    202,
  )
  const { imageDigest } = (await reply.json()) as { imageDigest: string }
  return imageDigest.slice(0, 19)
}

interface Shown {
  readonly text: string
  readonly timing: string
}
const showCall = ({ text, timing }: Shown): string => `${JSON.stringify(text)}  [${timing}]`

async function callSync(gateway: string, name: string, body: string): Promise<Shown> {
  const reply = await expectStatus(await fetch(`${gateway}/function/${name}`, { method: 'POST', body }), 200)
  const timing = (reply.headers.get('server-timing') ?? '').replaceAll(';dur=', ' ')
  return {
    text: (await reply.text()).trim(),
    timing: `${reply.headers.get('x-wherry-outcome')}; ms: ${timing}`,
  }
}

async function callAsync(gateway: string, name: string, body: string): Promise<Shown> {
  const queued = await expectStatus(
    await fetch(`${gateway}/async-function/${name}`, { method: 'POST', body }),
    202,
  )
  const callId = queued.headers.get('x-call-id')
  const giveUpAt = performance.now() + CALL_TIMEOUT_MS
  while (performance.now() < giveUpAt) {
    const record = (await (
      await expectStatus(await fetch(`${gateway}/system/calls/${callId}`), 200)
    ).json()) as CallRecord
    if (record.state === 'finished') return showResult(record.outcome ?? '', record.result, record.phases)
    await delay(POLL_MS)
  }
  throw new Error(`call ${callId} did not finish within ${CALL_TIMEOUT_MS / 1000} s`)
}

/** Call a function as any BullMQ producer can: without the gateway and without Wherry's code. */
async function callByQueue(redis: string, name: string, body: string): Promise<Shown> {
  const connection = { path: decodeURIComponent(new URL(redis).pathname) }
  const queue = new Queue(name, { connection, prefix: PREFIX })
  // Without lastEventId it starts to listen shortly after it reports ready.
  const events = new QueueEvents(name, { connection, prefix: PREFIX, lastEventId: '0' })
  try {
    await events.waitUntilReady()
    const job = await queue.add('invoke', body)
    const { outcome, phases, ...result } = (await job.waitUntilFinished(events, CALL_TIMEOUT_MS)) as JobResult
    return showResult(outcome, result, phases)
  } finally {
    await events.close()
    await queue.close()
  }
}

function showResult(outcome: string, result: CallResult | undefined, phases: Phases | undefined): Shown {
  if (outcome !== 'ok') throw new Error(`the outcome is ${outcome}`)
  const text = Buffer.from(result?.body ?? '', result?.encoding ?? 'utf8')
    .toString('utf8')
    .trim()
  return {
    text,
    timing: `ok; ms: ${Object.entries(phases ?? {})
      .map(([phase, ms]) => `${phase} ${Number(ms).toFixed(2)}`)
      .join(', ')}`,
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  const [code] = (await Promise.race([
    ended,
    delay(WAIT_STOP_MS, undefined, { ref: false }).then(() => {
      throw new Error('wherry up does not stop')
    }),
  ])) as [number | null]
  if (code !== 0) throw new Error(`wherry up exited with code ${code}`)
}

/** The median time to start a container, once code and files are cached. Each call starts a new one. */
async function measureColdStart(gateway: string): Promise<string> {
  const createMs: number[] = []
  for (let i = 0; i < COLD_STARTS; i++) {
    const { timing } = await callSync(gateway, 'upper', 'again')
    createMs.push(Number(/create ([\d.]+)/.exec(timing)?.[1]))
  }
  return `${createMs.sort((a, b) => a - b)[COLD_STARTS / 2]!.toFixed(2)} ms (median of ${COLD_STARTS} calls, a fresh container each)`
}

async function run(data: string): Promise<void> {
  const links = listLinks()
  const layer = await step(
    'create an image from this machine’s busybox',
    makeBusyboxLayer,
    (bytes) => `${(bytes.length / 1024).toFixed(0)} KiB, one layer`,
  )
  const { child, addresses } = await step('start Redis, registry, gateway and worker', () =>
    startWherry(data),
  )
  const { gateway, registry, redis } = addresses
  const subject = subjectOf(data, links)
  try {
    const image = await step(
      'push it',
      () => pushBusybox(registry, layer),
      (reference) => reference,
    )
    await step(
      'deploy upper',
      () => deploy(gateway, image, 'upper'),
      (digest) => digest,
    )
    await step(
      'deploy word-count',
      () => deploy(gateway, image, 'word-count'),
      (digest) => digest,
    )
    await step(
      'call upper over HTTP (its first call)',
      () => callSync(gateway, 'upper', 'hello from http'),
      showCall,
    )
    await step('call upper over HTTP again', () => callSync(gateway, 'upper', 'hello again'), showCall)
    await step(
      'measure the cold start of a container',
      () => measureColdStart(gateway),
      (text) => text,
    )
    await step(
      'call word-count asynchronously',
      () => callAsync(gateway, 'word-count', 'one two three'),
      showCall,
    )
    await step(
      'call word-count through a plain BullMQ queue',
      () => callByQueue(redis, 'word-count', 'four five'),
      showCall,
    )
    await step('stop everything', () => stop(child))
  } finally {
    if (child.exitCode === null) child.kill('SIGTERM')
  }
  await step(
    'check that no processes, mounts, cgroups or links remain',
    async () => {
      const left = await findLeftovers(subject)
      if (left.length > 0) throw new Error(`still present: ${left.join('; ')}`)
    },
    () => 'nothing',
  )
}

const data = mkdtempSync(join(tmpdir(), 'wherry-demo-'))
try {
  await run(data)
  console.log('demo: success')
} catch (err) {
  console.error(`demo: ${(err as Error).message}`)
  process.exitCode = 1
} finally {
  rmSync(data, { recursive: true, force: true })
}
