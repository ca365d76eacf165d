// Function definitions in Redis, their visibility in other processes, and the requirements for Redis.

import { execFileSync } from 'node:child_process'
import t from 'tap'
import type { FunctionRecord } from '../../services/contract/function-spec.ts'
import { parseDeployment } from '../../services/contract/deployment.ts'
import { createFunctionStore } from '../../services/functions/store.ts'
import {
  asOverloaded,
  checkRedis,
  openRedis,
  parseRedisUrl,
  redactRedisUrl,
} from '../../services/platform/redis.ts'
import { gate, log, until } from '../helpers/queue-rig.ts'
import { skipWithoutRedis, startRedis } from '../helpers/redis.ts'

if (skipWithoutRedis) {
  t.plan(0, skipWithoutRedis)
  process.exit(0)
}

const redis = await startRedis()
t.teardown(() => redis.close())
const client = redis.client()

function record(name: string, image = 'busybox'): FunctionRecord {
  return {
    spec: parseDeployment({
      service: name,
      image,
      volumes: [{ name: 'v', target: '/v' }],
      command: ['/bin/cat'],
    }),
    imageDigest: 'sha256:00',
    createdAtMs: 1,
    updatedAtMs: 2,
  }
}

async function openStore(
  t: { teardown(work: () => unknown): void },
  prefix: string,
  temper: 'patient' | 'prompt' = 'prompt',
) {
  const connection = openRedis(redis.url, { temper, name: 'store', onError: () => undefined })
  const store = createFunctionStore({ redis: connection, prefix, log })
  t.teardown(async () => {
    await store.stop()
    connection.disconnect()
  })
  await store.start()
  return store
}

t.test('one store', async (t) => {
  const store = await openStore(t, '{one}')
  t.same(store.list(), [])
  await store.put(record('b'))
  t.same(store.get('b'), record('b'), 'its writer reads it at once')
  await store.put(record('a'))
  await store.put(record('b', 'alpine'))
  t.same(
    store.list().map((r) => [r.spec.name, r.spec.image]),
    [
      ['a', 'busybox'],
      ['b', 'alpine'],
    ],
  )
  t.equal(await store.remove('b'), true)
  t.equal(await store.remove('b'), false)
  t.equal(store.get('b'), undefined)
  t.equal(store.get('__proto__'), undefined)
})

t.test('two stores see each other’s changes', async (t) => {
  const one = await openStore(t, '{two}')
  const two = await openStore(t, '{two}', 'patient')
  const changed = gate()
  const off = two.onChange(() => changed.resolve())
  await one.put(record('f'))
  await changed.promise
  t.same(two.get('f'), record('f'))
  const before = two.get('f')
  await one.put(record('g'))
  await until(() => two.get('g'))
  t.equal(two.get('f'), before, 'what did not change keeps its identity')
  off()
  await Promise.all([one.put(record('h')), two.put(record('i')), one.remove('f')])
  await until(() => one.list().length === 3 && two.list().length === 3)
  t.same(one.list(), two.list())
})

t.test('a store that starts later has all definitions at once', async (t) => {
  const one = await openStore(t, '{later}')
  await one.put(record('f'))
  const two = await openStore(t, '{later}')
  t.same(two.get('f'), record('f'))
})

t.test('invalid definitions are ignored', async (t) => {
  const good = record('good')
  const bad: Record<string, string> = {
    'no-json': '{',
    text: '"x"',
    null: 'null',
    empty: '{}',
    'other-name': JSON.stringify(good),
    digest: JSON.stringify({ ...record('digest'), imageDigest: 7 }),
    volumes: JSON.stringify({
      ...record('volumes'),
      spec: { ...record('volumes').spec, volumes: [{ name: 1 }] },
    }),
    outside: JSON.stringify({
      ...record('outside'),
      spec: { ...record('outside').spec, volumes: [{ name: '../../../etc', target: '/v', readonly: false }] },
    }),
    huge: JSON.stringify({
      ...record('huge'),
      spec: { ...record('huge').spec, limits: { memoryBytes: 2 ** 60, cpus: 1, pids: 1 } },
    }),
    limits: JSON.stringify({
      ...record('limits'),
      spec: { ...record('limits').spec, limits: { memoryBytes: -1, cpus: 1, pids: 1 } },
    }),
    env: JSON.stringify({ ...record('env'), spec: { ...record('env').spec, envVars: { a: 1 } } }),
  }
  await client.hset('{bad}:@functions', { ...bad, good: JSON.stringify(good) })
  const store = await openStore(t, '{bad}')
  t.same(store.list(), [good])
})

t.test(
  'while Redis is away it keeps its copy and rejects changes, and afterwards it catches up',
  async (t) => {
    const own = await startRedis({ durable: true })
    t.teardown(() => own.close())
    const connection = openRedis(own.url, { temper: 'prompt', name: 'store', onError: () => undefined })
    t.teardown(() => connection.disconnect())
    const store = createFunctionStore({ redis: connection, prefix: '{away}', log })
    t.teardown(() => store.stop())
    await store.start()
    await store.put(record('f'))
    await own.kill()
    await t.rejects(store.put(record('g')), { name: 'Overloaded', code: 'ERR_REDIS_AWAY' })
    await t.rejects(store.remove('f'), { code: 'ERR_REDIS_AWAY' })
    t.same(store.get('f'), record('f'))
    await own.restart()
    const other = own.client()
    // Publish as well: if both connections are already back, nothing else would trigger a load for 30
    // seconds.
    await other.hset('{away}:@functions', 'late', JSON.stringify(record('late')))
    await other.publish('{away}:@functions:changed', '')
    await until(() => store.get('late'))
    const late = createFunctionStore({ redis: connection, prefix: '{away}', log })
    await late.stop()
  },
)

t.test('Redis URLs', async (t) => {
  t.same(parseRedisUrl('redis://h:7000/3'), { host: 'h', port: 7000, db: 3 })
  t.same(parseRedisUrl('redis://u:p%40ss@[::1]'), {
    host: '::1',
    port: 6379,
    db: 0,
    username: 'u',
    password: 'p@ss',
  })
  t.same(parseRedisUrl('rediss://:secret@h'), { host: 'h', port: 6379, db: 0, password: 'secret', tls: {} })
  t.same(parseRedisUrl('unix:///run/a%20b.sock?db=2'), { path: '/run/a b.sock', db: 2 })
  for (const bad of [
    '',
    'localhost:6379',
    'http://h',
    'redis://',
    'unix://',
    'redis://h/db',
    'redis://:secret@h/x',
  ]) {
    t.throws(() => parseRedisUrl(bad), { code: 'ERR_INVALID_REQUEST' }, bad)
  }
  t.throws(() => parseRedisUrl('redis://:secret@h/x'), {
    message: /^redisUrl: "redis:\/\/\*\*\*@h\/x" (?!.*secret)/,
  })
  t.equal(redactRedisUrl('rediss://user:pass@h:1/2'), 'rediss://***@h:1/2')
  t.equal(redactRedisUrl('unix:///a.sock'), 'unix:///a.sock')
})

t.test('an outage of Redis is reported once, without its password', async (t) => {
  const errors: string[] = []
  const connection = openRedis('redis://:hush@127.0.0.1:1', {
    temper: 'patient',
    name: 'x',
    onError: (error) => errors.push(error.message),
  })
  t.teardown(() => connection.disconnect())
  let attempts = 0
  connection.on('reconnecting', () => {
    attempts++
  })
  await until(() => attempts >= 3)
  t.equal(errors.length, 1)
  t.match(errors[0], /^Redis at redis:\/\/\*\*\*@127\.0\.0\.1:1: .*ECONNREFUSED/)
})

t.test('after a stall of this process, Redis does not count as away', async (t) => {
  const connection = openRedis(redis.url, { temper: 'prompt', name: 'x', onError: () => undefined })
  t.teardown(() => connection.disconnect())
  await until(() => connection.status === 'ready')
  await new Promise((resolve) => {
    setImmediate(resolve)
  }) // the event loop now runs timers before network events
  const answers = [connection.get('{none}'), connection.multi().set('{still}', '1').get('{still}').exec()]
  // Longer than it waits for an answer, and until Redis has given it.
  const stillUntil = performance.now() + 1_000
  while (
    performance.now() < stillUntil ||
    !execFileSync('redis-cli', ['-s', redis.socketPath, 'GET', '{still}']).includes('1')
  ) {
    /* simulate a process that gets no CPU time */
  }
  t.same(await Promise.all(answers), [
    null,
    [
      [null, 'OK'],
      [null, '1'],
    ],
  ])
})

t.test('callers get the reason why Redis is away, not the wording of the client', async (t) => {
  for (const said of [
    "Stream isn't writeable and enableOfflineQueue options is false",
    'Connection is closed.',
    'Reached the max retries per request limit (which is 0). Refer to "maxRetriesPerRequest" option for details.',
  ]) {
    t.match(asOverloaded(new Error(said)), {
      code: 'ERR_REDIS_AWAY',
      message: /^Redis is away; try again later$/,
    })
  }
  t.match(asOverloaded(new Error('LOADING Redis is loading the dataset in memory')), {
    message: /^Redis is away \(LOADING Redis is loading/,
  })
  const refused = Object.assign(new Error('EXECABORT Transaction discarded because of previous errors.'), {
    previousErrors: [new Error('OOM command not allowed')],
  })
  t.match(asOverloaded(refused), { code: 'ERR_REDIS_FULL', message: /^Redis has no memory left/ })
  const bug = new Error('x is not a function')
  t.equal(asOverloaded(bug), bug)
})

t.test('checks the configuration of Redis', async (t) => {
  t.match(await checkRedis(client), [{ level: 'warn', message: /append-only/ }])
  await client.config('SET', 'maxmemory-policy', 'allkeys-lru')
  t.match(
    (await checkRedis(client)).find((finding) => finding.level === 'refuse'),
    { message: /allkeys-lru/, remedy: /noeviction/ },
  )
  await client.config('SET', 'maxmemory-policy', 'noeviction', 'appendonly', 'yes')
  await until(async () => (await checkRedis(client)).length === 0)
})
