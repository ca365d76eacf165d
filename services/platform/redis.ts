// Connections to Redis: from a URL to a client that reconnects for ever, and from a client's error to
// the one question callers have: "is Redis away, or is this a bug?".  Two tempers: `patient` may wait
// for an answer (workers), `prompt` says no within a second (whoever has an HTTP caller waiting).
// With both, a command that was under way when the connection broke fails and is never sent twice
// behind its caller's back; the caller knows whether trying again is safe.  Knows no key and no script.

import { Redis, type RedisOptions } from 'ioredis'
import { AppError, InvalidRequest, Overloaded } from '../contract/errors.ts'

export type RedisClient = Redis
/** Where a Redis is and how to log in. */
export type RedisTarget = Omit<RedisOptions, 'replyMapping'>

export interface RedisFinding {
  /** `refuse`: do not start; `warn`: works, but loses something. */
  readonly level: 'refuse' | 'warn'
  readonly message: string
  readonly remedy: string
}

export interface OpenOptions {
  /**
   * `patient`: a command waits for the connection that is being made, and for its answer. `prompt`: neither,
   * COMMAND_TIMEOUT_MS at most.
   */
  readonly temper: 'patient' | 'prompt'
  /** Shown by CLIENT LIST. */
  readonly name: string
  /** The first error of each outage; the ones of further attempts are not told. */
  readonly onError: (error: Error) => void
}

const COMMAND_TIMEOUT_MS = 800
const CONNECT_TIMEOUT_MS = 2_000
const RECONNECT_MIN_MS = 50
const RECONNECT_MAX_MS = 2_000
const VERSION_WANTED = [6, 2] as const

/**
 * "redis://:secret@host" → "redis://:***@host"; a text that is no URL comes back without anything before an
 * "@".
 */
export function redactRedisUrl(url: string): string {
  return url.replace(/^([a-z]+:\/\/)[^@/]*@/, '$1***@')
}

/**
 * `redis://host:port[/db]`, `rediss://…` or `unix:///path.sock[?db=n]` as what ioredis wants. Throws
 * InvalidRequest.
 */
export function parseRedisUrl(url: string): RedisTarget {
  const wrong = (problem: string): InvalidRequest =>
    new InvalidRequest([{ path: 'redisUrl', problem: `"${redactRedisUrl(url)}" ${problem}` }])
  if (!URL.canParse(url))
    throw wrong('is not a URL; write redis://host:port, rediss://host:port or unix:///path.sock')
  const parsed = new URL(url)
  const credentials = {
    ...(parsed.username !== '' && { username: decodeURIComponent(parsed.username) }),
    ...(parsed.password !== '' && { password: decodeURIComponent(parsed.password) }),
  }
  const database =
    parsed.protocol === 'unix:' ? (parsed.searchParams.get('db') ?? '') : parsed.pathname.slice(1)
  if (!/^\d{0,5}$/.test(database)) throw wrong('names a database that is not a number')
  const common = { ...credentials, db: Number(database) }
  switch (parsed.protocol) {
    case 'unix:':
      if (parsed.pathname.length < 2) throw wrong('names no socket')
      return { path: decodeURIComponent(parsed.pathname), ...common }
    case 'redis:':
    case 'rediss:':
      if (parsed.hostname === '') throw wrong('names no host')
      return {
        host: parsed.hostname.replace(/^\[(.*)\]$/, '$1'),
        port: parsed.port === '' ? 6379 : Number(parsed.port),
        ...common,
        ...(parsed.protocol === 'rediss:' && { tls: {} }),
      }
    default:
      throw wrong('must begin with redis://, rediss:// or unix://')
  }
}

/**
 * A client for URL that connects at once, and again after every loss, at most RECONNECT_MAX_MS apart. Throws
 * InvalidRequest.
 */
export function openRedis(url: string, { temper, name, onError }: OpenOptions): RedisClient {
  const client = new Redis({
    ...parseRedisUrl(url),
    connectionName: name,
    connectTimeout: CONNECT_TIMEOUT_MS,
    retryStrategy: (attempt) => Math.min(RECONNECT_MIN_MS * 2 ** Math.min(attempt, 10), RECONNECT_MAX_MS),
    // Together: what was under way fails when the connection breaks. (With `null` retries and no resend,
    // ioredis 6 would forget such a command and its promise would never settle.)
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    ...(temper === 'prompt' && { enableOfflineQueue: false }),
  })
  if (temper === 'prompt') limitCommands(client)
  let told = false
  client.on('ready', () => {
    told = false
  })
  client.on('error', (error: Error) => {
    if (told) return
    told = true
    onError(new Error(`Redis at ${redactRedisUrl(url)}: ${error.message}`, { cause: error }))
  })
  return client
}

/**
 * Fails commands of CLIENT that are not answered in time. The client's own `commandTimeout` does, too, for
 * answers that have arrived while this process stood still: timers come before the network in its turn, so
 * one more turn decides.
 */
function limitCommands(client: RedisClient): void {
  const send = client.sendCommand.bind(client)
  client.sendCommand = (command, stream) => {
    let isLate: NodeJS.Immediate | undefined
    const timer = setTimeout(() => {
      isLate = setImmediate(() => command.reject(new Error('Command timed out')))
    }, COMMAND_TIMEOUT_MS)
    const settled = (): void => {
      clearTimeout(timer)
      clearImmediate(isLate)
    }
    command.promise.then(settled, settled)
    return send(command, stream)
  }
}

/** The client's own words for a connection that is not there say nothing more to a caller. */
const NOT_CONNECTED = /Connection is closed|isn't writeable|Reached the max retries/

/**
 * Why a transaction was refused stands in the answers to its commands. (Of a broken connection that list
 * holds the error itself.)
 */
function refusalOf(error: Error): Error | undefined {
  const answers: readonly unknown[] =
    'previousErrors' in error && Array.isArray(error.previousErrors) ? error.previousErrors : []
  return answers.find((answer): answer is Error => answer !== error && isRedisAway(answer))
}

/**
 * Did this fail because Redis is unreachable, starting, full or read-only, so that the same command can
 * succeed later?
 */
export function isRedisAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (error.message.startsWith('EXECABORT')) return refusalOf(error) !== undefined
  if (
    /^(?:LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MISCONF|OOM|NOAUTH|WRONGPASS|BUSY)\b/.test(
      error.message,
    )
  )
    return true
  if ('code' in error && typeof error.code === 'string' && /^E[A-Z]+$/.test(error.code)) return true
  return (
    error.name === 'MaxRetriesPerRequestError' ||
    error.name === 'AbortError' ||
    NOT_CONNECTED.test(error.message) ||
    /Command timed out|Command aborted/.test(error.message)
  )
}

/**
 * ERROR as what the gateway may answer: an AppError stays, Redis being away or full becomes Overloaded, the
 * rest stays (a bug).
 */
export function asOverloaded(error: unknown): unknown {
  if (error instanceof AppError || !isRedisAway(error) || !(error instanceof Error)) return error
  const { message } = error.message.startsWith('EXECABORT') ? (refusalOf(error) ?? error) : error
  if (message.startsWith('OOM'))
    return new Overloaded('Redis has no memory left; try again later', 'ERR_REDIS_FULL', error)
  const why = NOT_CONNECTED.test(message) ? '' : ` (${message})`
  return new Overloaded(`Redis is away${why}; try again later`, 'ERR_REDIS_AWAY', error)
}

function field(info: string, name: string): string | undefined {
  return new RegExp(`^${name}:(.*)$`, 'm').exec(info)?.[1]?.trim()
}

/** What is wrong with this Redis for our use; none is best.  Throws what the connection throws. */
export async function checkRedis(redis: RedisClient): Promise<RedisFinding[]> {
  const findings: RedisFinding[] = []
  const info = await redis.info()
  // Valkey says redis_version:7.2.4 beside its own; both count.
  const version = field(info, 'redis_version') ?? '0'
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major < VERSION_WANTED[0] || (major === VERSION_WANTED[0] && minor < VERSION_WANTED[1])) {
    findings.push({
      level: 'warn',
      message: `Redis ${version} is older than ${VERSION_WANTED.join('.')}`,
      remedy: 'upgrade Redis, or use Valkey',
    })
  }
  const policy = field(info, 'maxmemory_policy')
  if (policy !== undefined && policy !== 'noeviction') {
    findings.push({
      level: 'refuse',
      message: `Redis throws keys away when it is full (maxmemory-policy ${policy}); calls would vanish`,
      remedy: 'set maxmemory-policy noeviction',
    })
  }
  if (field(info, 'aof_enabled') === '0') {
    findings.push({
      level: 'warn',
      message: 'Redis keeps no append-only file; accepted calls are lost when it stops',
      remedy: 'set appendonly yes, and appendfsync always where no accepted call may be lost in a power cut',
    })
  }
  return findings
}
