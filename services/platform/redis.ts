// Connections to Redis: a client that reconnects for ever, and the test of its errors: is Redis away, or is
// this a bug? A `patient` client may wait for a reply (workers); a `prompt` one fails within a second (an
// HTTP caller waits). In both, a command under way when the connection breaks fails and is never resent,
// because only its caller knows whether repeating it is safe.

import { Redis, type RedisOptions } from 'ioredis'
import { AppError, InvalidRequest, Overloaded } from '../contract/errors.ts'

export type RedisClient = Redis
/** Address and credentials of a Redis. */
export type RedisTarget = Omit<RedisOptions, 'replyMapping'>

export interface RedisFinding {
  /** `refuse`: do not start; `warn`: works, but loses something. */
  readonly level: 'refuse' | 'warn'
  readonly message: string
  readonly remedy: string
}

export interface OpenOptions {
  /**
   * `patient` commands wait for the connection and for the reply; `prompt` ones at most COMMAND_TIMEOUT_MS.
   */
  readonly temper: 'patient' | 'prompt'
  /** Shown by CLIENT LIST. */
  readonly name: string
  /** Called with the first error of each outage; errors of further attempts are dropped. */
  readonly onError: (error: Error) => void
}

const COMMAND_TIMEOUT_MS = 800
const CONNECT_TIMEOUT_MS = 2_000
const RECONNECT_MIN_MS = 50
const RECONNECT_MAX_MS = 2_000
const VERSION_WANTED = [6, 2] as const

/** "redis://:secret@host" → "redis://***@host"; works on invalid URLs, too. */
export function redactRedisUrl(url: string): string {
  return url.replace(/^([a-z]+:\/\/)[^@/]*@/, '$1***@')
}

/**
 * `redis://host:port[/db]`, `rediss://…` or `unix:///path.sock[?db=n]` as options of ioredis. Throws
 * InvalidRequest.
 */
export function parseRedisUrl(url: string): RedisTarget {
  const wrong = (problem: string): InvalidRequest =>
    new InvalidRequest([{ path: 'redisUrl', problem: `"${redactRedisUrl(url)}" ${problem}` }])
  if (!URL.canParse(url))
    throw wrong('is not a URL; examples: redis://host:port, rediss://host:port, unix:///path.sock')
  const parsed = new URL(url)
  const credentials = {
    ...(parsed.username !== '' && { username: decodeURIComponent(parsed.username) }),
    ...(parsed.password !== '' && { password: decodeURIComponent(parsed.password) }),
  }
  const database =
    parsed.protocol === 'unix:' ? (parsed.searchParams.get('db') ?? '') : parsed.pathname.slice(1)
  if (!/^\d{0,5}$/.test(database)) throw wrong('must name the database by its number')
  const common = { ...credentials, db: Number(database) }
  switch (parsed.protocol) {
    case 'unix:':
      if (parsed.pathname.length < 2) throw wrong('has no socket path')
      return { path: decodeURIComponent(parsed.pathname), ...common }
    case 'redis:':
    case 'rediss:':
      if (parsed.hostname === '') throw wrong('has no host')
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

/** A client for URL that connects now and reconnects after every loss.  Throws InvalidRequest. */
export function openRedis(url: string, { temper, name, onError }: OpenOptions): RedisClient {
  const client = new Redis({
    ...parseRedisUrl(url),
    connectionName: name,
    connectTimeout: CONNECT_TIMEOUT_MS,
    retryStrategy: (attempt) => Math.min(RECONNECT_MIN_MS * 2 ** Math.min(attempt, 10), RECONNECT_MAX_MS),
    // Together these make commands under way fail when the connection breaks.  (With `null` retries and no
    // resend, ioredis 6 forgets such a command and its promise never settles.)
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    ...(temper === 'prompt' && { enableOfflineQueue: false }),
  })
  if (temper === 'prompt') limitCommands(client)
  let reported = false
  client.on('ready', () => {
    reported = false
  })
  client.on('error', (error: Error) => {
    if (reported) return
    reported = true
    onError(new Error(`Redis at ${redactRedisUrl(url)}: ${error.message}`, { cause: error }))
  })
  return client
}

/**
 * Fails commands of CLIENT that get no reply in time. Unlike the client's `commandTimeout`, it does not fail
 * commands whose reply arrived while this process was stalled: timers run before the network in a turn of the
 * event loop, so it waits for one more turn.
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

/** Messages of the client for a missing connection; they tell a caller nothing more. */
const NOT_CONNECTED = /Connection is closed|isn't writeable|Reached the max retries/

/**
 * Why a transaction was refused: its reason is among the replies to its commands. (After a broken connection
 * that list contains the error itself.)
 */
function refusalOf(error: Error): Error | undefined {
  const answers: readonly unknown[] =
    'previousErrors' in error && Array.isArray(error.previousErrors) ? error.previousErrors : []
  return answers.find((answer): answer is Error => answer !== error && isRedisAway(answer))
}

/**
 * Whether ERROR means that Redis is unreachable, starting, full or read-only: the same command can succeed
 * later.
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

/** ERROR, or Overloaded if its cause is that Redis is away or full. */
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

/** Problems with this Redis for our use.  Throws what the connection throws. */
export async function checkRedis(redis: RedisClient): Promise<RedisFinding[]> {
  const findings: RedisFinding[] = []
  const info = await redis.info()
  // Valkey reports redis_version:7.2.4 beside its own version; both count.
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
      message: `Redis evicts keys when it is full (maxmemory-policy ${policy}); calls would be lost`,
      remedy: 'set maxmemory-policy noeviction',
    })
  }
  if (field(info, 'aof_enabled') === '0') {
    findings.push({
      level: 'warn',
      message: 'Redis has no append-only file; accepted calls are lost when it stops',
      remedy: 'set appendonly yes, and appendfsync always if no accepted call may be lost in a power failure',
    })
  }
  return findings
}
