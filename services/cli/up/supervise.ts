// `wherry up`: all parts on one machine, started in order, kept alive, stopped in reverse.
// Knows which part needs which; refuses to know how a part is spawned (parts.ts), how one child is kept
// alive (child.ts) and how progress looks (the caller shows it).

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
  /** Where to start one, or the URL of one that is there. */
  readonly registry: ListenAddress | URL
  /** An existing Redis; otherwise one is started. */
  readonly redis?: string
  readonly slots?: number
  readonly stopTimeoutMs: number
}

export interface UpEvents {
  /** A part serves, after TOOKMS. */
  readonly onReady: (name: string, address: string, tookMs: number) => void
  readonly onNote: (text: string) => void
  readonly onLine: (name: string, line: string) => void
}

export interface Up {
  readonly addresses: Addresses
  /** Rejects when a part cannot be kept alive. */
  readonly failed: Promise<never>
  /** Gateway, worker, registry, redis; then the data folder is free again. */
  stop(): Promise<void>
  /** No more waiting: SIGKILL to all. */
  kill(): void
}

const INTERRUPTED = new Failure('up', 'it was stopped before everything served')
/** What a dead `up` left running gets this long to notice that it is gone. */
const ORPHANS_TIMEOUT_MS = 5_000

/**
 * Starts everything; SIGNAL breaks the start off.
 * Throws Failure that names the part and what to do; whatever was started is stopped then.
 */
export async function startUp(
  options: UpOptions,
  env: Environment,
  signal: AbortSignal,
  events: UpEvents,
): Promise<Up> {
  if (process.getuid?.() !== 0)
    throw new Failure('up', 'containers need root', { remedy: 'run it as root (sudo npx wherry up)' })
  prepareDataDir(options.data)
  const lock = lockDataDir(options.data)
  const started: Part[] = []
  const giveUp = Promise.withResolvers<never>()
  giveUp.promise.catch(() => {
    /* whoever waits on `failed` hears of it; before that, a failed start tells more */
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
      events.onNote(`${name}: ${why} and was started again`)
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
    // A worker that was killed and has no successor left its cgroups to us.
    await sweepDead(join(options.data, 'run'))
    lock.release()
  }
  const kill = (): void => {
    for (const part of started) part.kill()
  }

  try {
    await endOrphans(options.data, events)
    const { gateway, worker, registry } = await freeAddresses(options)
    // A program that is missing fails here, before anything was started.
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

/** Like Promise.all, but waits for all of them also when one fails: nothing may start behind our back. */
async function all<A, B>(both: [A | Promise<A>, B | Promise<B>]): Promise<[A, B]> {
  const settled = await Promise.allSettled(both)
  for (const result of settled) if (result.status === 'rejected') throw result.reason
  return Promise.all(both)
}

/** All addresses with real ports.  A port that is taken fails here, before anything was started. */
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
      { remedy: 'start it, or leave --registry out to have one started' },
    )
  }
  return url.host
}

/**
 * A supervisor that was killed leaves parts that end by themselves, soon; two Redis on one file would be
 * worse than a pause.
 */
async function endOrphans(dir: string, { onNote }: UpEvents): Promise<void> {
  const orphans = readState(dir)?.parts ?? []
  const left = await waitUntilGone(orphans, ORPHANS_TIMEOUT_MS)
  if (left.length === 0) return
  onNote(`ending what an earlier wherry up left running (pid ${left.map((p) => p.pid).join(', ')})`)
  for (const orphan of left) signalProcess(orphan, 'SIGKILL')
  const stuck = await waitUntilGone(left, ORPHANS_TIMEOUT_MS)
  if (stuck.length > 0)
    throw new Failure(
      'up',
      `processes of an earlier wherry up do not end (pid ${stuck.map((p) => p.pid).join(', ')})`,
    )
}
