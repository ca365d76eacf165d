// `wherry up`: all parts on one machine, started in order, kept alive, and stopped in reverse. parts.ts says
// how a part is spawned, child.ts keeps one alive, and the caller shows the progress.

import { join } from 'node:path'
import type { ListenAddress } from '../../platform/config.ts'
import { identityOf, signalProcess, waitUntilGone } from '../../platform/process-identity.ts'
import { sweepDead } from '../../runtime/janitor.ts'
import { Failure } from '../failure.ts'
import { inspectRedis } from '../inspect-redis.ts'
import { createPart, type Part, type PartEvents, type PartSpec } from './child.ts'
import { ownPart, redisPart, registryPart, statusOf, type Environment } from './parts.ts'
import { formatAddress, probePorts } from './ports.ts'
import { lockDataDir, prepareDataDir, readState, writeState, type Addresses } from './state.ts'

export interface UpOptions {
  /** Absolute. */
  readonly data: string
  readonly gateway: ListenAddress
  readonly worker: ListenAddress
  /** Where to start one, or the URL of an existing one. */
  readonly registry: ListenAddress | URL
  /** An existing Redis; otherwise one is started. */
  readonly redis?: string
  readonly slots?: number
  readonly stopTimeoutMs: number
}

export interface UpEvents {
  /** A part is ready, after TOOKMS. */
  readonly onReady: (name: string, address: string, tookMs: number) => void
  readonly onNote: (text: string) => void
  readonly onLine: (name: string, line: string) => void
}

export interface Up {
  readonly addresses: Addresses
  /** Rejects when a part has died too often. */
  readonly failed: Promise<never>
  /** Stops gateway, worker, registry and redis, then unlocks the data folder. */
  stop(): Promise<void>
  /** Sends SIGKILL to all parts at once. */
  kill(): void
}

const INTERRUPTED = new Failure('up', 'stopped before everything was ready')
/** Time for the parts of a dead `up` to end by themselves. */
const ORPHANS_TIMEOUT_MS = 5_000

/**
 * Starts everything; SIGNAL aborts the start. Throws a Failure that names the part and what to do, after
 * stopping what was started.
 */
export async function startUp(
  options: UpOptions,
  env: Environment,
  signal: AbortSignal,
  events: UpEvents,
): Promise<Up> {
  if (process.getuid?.() !== 0)
    throw new Failure('up', 'containers need root', { remedy: 'run it as root (sudo wherry up)' })
  prepareDataDir(options.data)
  const lock = lockDataDir(options.data)
  const started: Part[] = []
  const giveUp = Promise.withResolvers<never>()
  giveUp.promise.catch(() => {
    /* `failed` reports it; before that, a failed start has more detail */
  })
  let addresses: Addresses | undefined

  const saveState = (): void => {
    if (addresses === undefined) return
    writeState(options.data, {
      ...addresses,
      supervisor: identityOf(process.pid)!,
      parts: started.flatMap((part) =>
        part.identity === undefined ? [] : [{ name: part.name, ...part.identity }],
      ),
    })
  }
  const partEvents: PartEvents = {
    onLine: events.onLine,
    onGiveUp: giveUp.reject,
    onRestart(name, why) {
      events.onNote(`${name}: ${why} and was restarted`)
      saveState()
    },
  }
  const startPart = async (spec: PartSpec): Promise<string> => {
    if (signal.aborted) throw INTERRUPTED
    const part = createPart(spec, partEvents)
    started.push(part)
    const breakOff = (): void => {
      void part.stop()
    }
    signal.addEventListener('abort', breakOff, { once: true })
    const startedAt = performance.now()
    const address = await part.start().finally(() => {
      signal.removeEventListener('abort', breakOff)
    })
    events.onReady(spec.name, address, performance.now() - startedAt)
    return address
  }
  const stop = async (): Promise<void> => {
    for (const name of ['gateway', 'worker', 'registry', 'redis'])
      await started.find((part) => part.name === name)?.stop()
    // A worker that was killed and not restarted has left its cgroups.
    await sweepDead(join(options.data, 'run'))
    lock.release()
  }
  const kill = (): void => {
    for (const part of started) part.kill()
  }

  try {
    await endOrphans(options.data, events)
    const { gateway, worker, registry } = await freeAddresses(options)
    // A missing program fails here, before anything is started.
    const redisFrom = options.redis ?? redisPart(options.data, env)
    const registryFrom = registry instanceof URL ? registry : registryPart(options.data, registry, env)
    const [redis, registryAddress] = await all([
      typeof redisFrom === 'string' ? existingRedis(redisFrom, events) : startPart(redisFrom),
      registryFrom instanceof URL ? existingRegistry(registryFrom) : startPart(registryFrom),
    ])
    const shared = { ...env, WHERRY_REDIS_URL: redis, WHERRY_DATA: options.data }
    const slots = options.slots === undefined ? {} : { WHERRY_WORKER_SLOTS: String(options.slots) }
    const [gatewayUrl, workerUrl] = await all([
      startPart(
        ownPart(
          'gateway',
          { ...shared, WHERRY_GATEWAY_LISTEN: formatAddress(gateway) },
          options.stopTimeoutMs,
        ),
      ),
      startPart(
        ownPart(
          'worker',
          { ...shared, ...slots, WHERRY_WORKER_LISTEN: formatAddress(worker) },
          options.stopTimeoutMs,
        ),
      ),
    ])
    addresses = {
      gateway: gatewayUrl,
      registry: registryAddress,
      redis,
      data: options.data,
      worker: workerUrl,
    }
    saveState()
    return { addresses, failed: giveUp.promise, stop, kill }
  } catch (err) {
    await stop()
    throw signal.aborted ? INTERRUPTED : err
  }
}

/** Like Promise.all, but waits for both even if one fails, so that nothing starts after the failure. */
async function all<A, B>(both: [A | Promise<A>, B | Promise<B>]): Promise<[A, B]> {
  const settled = await Promise.allSettled(both)
  for (const result of settled) if (result.status === 'rejected') throw result.reason
  return Promise.all(both)
}

/** All addresses with real ports.  A port that is taken fails here, before anything is started. */
async function freeAddresses({
  gateway,
  worker,
  registry,
}: UpOptions): Promise<{ gateway: ListenAddress; worker: ListenAddress; registry: ListenAddress | URL }> {
  const [first, second, third] = await probePorts([
    { part: 'gateway', option: '--gateway', address: gateway },
    { part: 'worker', option: '--worker', address: worker },
    ...(registry instanceof URL ? [] : [{ part: 'registry', option: '--registry', address: registry }]),
  ])
  return { gateway: first!, worker: second!, registry: third ?? registry }
}

async function existingRedis(url: string, { onNote }: UpEvents): Promise<string> {
  const findings = await inspectRedis(url)
  const refused = findings.find((finding) => finding.level === 'refuse')
  if (refused !== undefined) throw new Failure('redis', refused.message, { remedy: refused.remedy })
  for (const { message, remedy } of findings) onNote(`redis: ${message}; ${remedy}`)
  return url
}

async function existingRegistry(url: URL): Promise<string> {
  const status = await statusOf(new URL('/v2/', url).href)
  if (status !== 200 && status !== 401) {
    throw new Failure(
      'registry',
      `${url.origin} ${status === undefined ? 'does not answer' : `answers ${status} to GET /v2/`}`,
      { remedy: 'start it, or omit --registry to start one here' },
    )
  }
  return url.host
}

/**
 * Waits for the parts of a killed supervisor, which end by themselves soon: two Redis servers on one file
 * would be worse than a pause.
 */
async function endOrphans(dir: string, { onNote }: UpEvents): Promise<void> {
  const orphans = readState(dir)?.parts ?? []
  const left = await waitUntilGone(orphans, ORPHANS_TIMEOUT_MS)
  if (left.length === 0) return
  onNote(`killing processes of an earlier wherry up (pid ${left.map((p) => p.pid).join(', ')})`)
  for (const orphan of left) signalProcess(orphan, 'SIGKILL')
  const stuck = await waitUntilGone(left, ORPHANS_TIMEOUT_MS)
  if (stuck.length > 0)
    throw new Failure(
      'up',
      `processes of an earlier wherry up are still running (pid ${stuck.map((p) => p.pid).join(', ')})`,
    )
}
