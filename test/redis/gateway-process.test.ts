// The gateway as a process: how it starts, stops and fails, and what it does while Redis is away.

import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { startGateway } from '../../services/gateway/gateway.ts'
import { configFor, httpClient, log, startTestGateway } from '../helpers/gateway.ts'
import { startRedis } from '../helpers/redis.ts'

const MAIN = fileURLToPath(new URL('../../services/gateway/main.ts', import.meta.url))

interface GatewayChild {
  readonly child: ChildProcess
  errors(): string
  ready(): Promise<{ url: string }>
}

/** The gateway's main.ts as a child with an IPC channel. */
function spawnGateway(t: Test, env: Record<string, string>, args: readonly string[] = []): GatewayChild {
  const child = fork(MAIN, [...args], {
    execArgv: [], // not the test runner's own loaders
    env: { PATH: process.env.PATH, WHERRY_GATEWAY_LISTEN: '127.0.0.1:0', ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  let text = ''
  child.stderr?.on('data', (chunk) => {
    text += String(chunk)
  })
  t.teardown(() => {
    child.kill('SIGKILL')
  })
  return {
    child,
    errors: () => text,
    async ready() {
      const [message] = await Promise.race([
        once(child, 'message'),
        once(child, 'close').then(() => {
          throw new Error(`the gateway ended: ${text}`)
        }),
      ])
      t.match(message, { ready: true, url: /^http:\/\/127\.0\.0\.1:[1-9]\d*$/ })
      return message
    },
  }
}

const redis = await startRedis()
t.teardown(() => redis.close())

t.test('the process', async (t) => {
  await t.test('sends its URL to its parent, and exits with 0 on SIGTERM', async (t) => {
    const { child, errors, ready } = spawnGateway(t, { WHERRY_REDIS_URL: redis.url, WHERRY_PREFIX: '{p1}' })
    const { url } = await ready()
    t.match(await httpClient(url).send('GET', '/healthz'), { status: 200 })
    child.kill('SIGTERM')
    t.same(await once(child, 'exit'), [0, null])
    for (const line of errors().trim().split('\n'))
      t.type(JSON.parse(line).msg, 'string', 'stderr is JSON lines')
  })
  await t.test('exits when its parent is gone', async (t) => {
    const { child, ready } = spawnGateway(t, { WHERRY_REDIS_URL: redis.url, WHERRY_PREFIX: '{p2}' })
    await ready()
    child.disconnect()
    t.same(await once(child, 'exit'), [0, null])
  })
  await t.test('waits for a running request; a second signal makes it exit at once with 1', async (t) => {
    const { child, errors, ready } = spawnGateway(t, { WHERRY_REDIS_URL: redis.url, WHERRY_PREFIX: '{p3}' })
    const { port, hostname } = new URL((await ready()).url)
    const slow = connect(Number(port), hostname)
    t.teardown(() => slow.destroy())
    slow
      .on('error', () => {})
      .write(
        'POST /system/functions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n',
      )
    await once(slow, 'data')
    child.kill('SIGTERM')
    while (!errors().includes('gateway is stopping')) await once(child.stderr!, 'data')
    child.kill('SIGTERM')
    t.same(await once(child, 'exit'), [1, null])
  })
  await t.test('warns when it listens on a public address', async (t) => {
    const { child, errors } = spawnGateway(t, {
      WHERRY_REDIS_URL: redis.url,
      WHERRY_PREFIX: '{p4}',
      WHERRY_GATEWAY_LISTEN: '0.0.0.0:0',
    })
    await once(child, 'message')
    while (!errors().includes('without authentication')) await once(child.stderr!, 'data')
    child.kill('SIGTERM')
    t.same(await once(child, 'exit'), [0, null])
  })
  await t.test('does not start on a port in use, with a one-line error', async (t) => {
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    t.teardown(() => other.close())
    const address = other.address()
    const port = typeof address === 'object' ? address?.port : 0
    const { child, errors } = spawnGateway(t, {
      WHERRY_REDIS_URL: redis.url,
      WHERRY_GATEWAY_LISTEN: `127.0.0.1:${port}`,
    })
    t.same(await once(child, 'close'), [1, null])
    t.match(
      errors(),
      new RegExp(
        `^wherry gateway: cannot start: --listen: 127\\.0\\.0\\.1:${port} is in use by another process; stop it or choose another port .*\\n$`,
      ),
    )
  })
  await t.test('does not start with invalid settings, and lists them all in one line', async (t) => {
    const { child, errors } = spawnGateway(t, { WHERRY_REDIS_URL: 'ftp://x', WHERRY_BODYMAX: '1' }, [
      '--queue-wait',
      'long',
    ])
    t.same(await once(child, 'close'), [1, null])
    t.match(
      errors(),
      /^wherry gateway: cannot start: (?=.*WHERRY_REDIS_URL)(?=.*WHERRY_BODYMAX)(?=.*--queue-wait).*\n$/,
    )
  })
  await t.test('--print-config prints the settings without the password', async (t) => {
    const { child } = spawnGateway(t, { WHERRY_REDIS_URL: 'redis://me:hunter2@h:1' }, ['--print-config'])
    let text = ''
    child.stdout?.on('data', (chunk) => {
      text += String(chunk)
    })
    t.same(await once(child, 'close'), [0, null])
    t.match(text, /^WHERRY_REDIS_URL=redis:\/\/me:\*\*\*@h:1 /m)
  })
})

t.test('Redis away', async (t) => {
  await t.test('at start: the gateway listens, replies 503, and works once Redis is up', async (t) => {
    const late = await startRedis()
    t.teardown(() => late.close())
    await late.kill()
    const { send, deploy } = await startTestGateway(t, late.url)
    for (const [method, path] of [
      ['GET', '/healthz'],
      ['GET', '/system/functions'],
      ['POST', '/function/echo'],
      ['POST', '/async-function/echo'],
      ['GET', '/system/logs?name=echo'],
    ] as const) {
      t.match(
        await send(method, path),
        { status: 503, headers: { 'retry-after': '1' }, text: /ERR_REDIS_AWAY/ },
        path,
      )
    }
    t.match(await send('POST', '/function/echo'), {
      headers: { 'x-call-id': String, 'x-wherry-outcome': 'no_capacity' },
    })
    t.equal((await send('GET', '/metrics')).status, 200)
    await late.restart()
    while ((await send('GET', '/healthz')).status !== 200);
    await deploy(t, 'echo')
  })
  await t.test(
    'while running: calls and deployments are 503, /metrics still works, and all recovers with Redis',
    async (t) => {
      const own = await startRedis({ durable: true })
      t.teardown(() => own.close())
      const { send } = await startTestGateway(t, own.url, { functions: ['echo'] })
      t.equal((await send('POST', '/function/echo')).status, 200)
      await own.kill()
      for (const [method, path] of [
        ['GET', '/healthz'],
        ['POST', '/function/echo'],
        ['POST', '/async-function/echo'],
        ['GET', '/system/functions'],
        ['GET', '/system/calls/x'],
        ['DELETE', '/system/functions/echo'],
      ] as const) {
        t.match(
          await send(method, path),
          { status: 503, headers: { 'retry-after': '1' }, text: /ERR_REDIS_AWAY/ },
          path,
        )
      }
      t.match(await send('POST', '/function/nope'), { status: 404 }, 'a lookup of a function needs no Redis')
      const metrics = await send('GET', '/metrics')
      t.equal(metrics.status, 200)
      t.notMatch(metrics.text, /^wherry_queue_depth\{/m)
      await own.restart()
      while ((await send('GET', '/healthz')).status !== 200);
      t.equal((await send('POST', '/function/echo')).status, 200)
    },
  )
  await t.test('a Redis that evicts keys is refused with the remedy', async (t) => {
    const evicting = await startRedis({ args: ['--maxmemory-policy', 'allkeys-lru'] })
    t.teardown(() => evicting.close())
    const { send } = await startTestGateway(t, evicting.url)
    t.match(await send('GET', '/healthz'), { status: 503, text: /maxmemory-policy noeviction/ })
  })
})

t.test('stop', async (t) => {
  await t.test('waits for a running call and takes no new one', async (t) => {
    const { send, gateway } = await startTestGateway(t, redis.url, { functions: ['echo'] })
    const calls = Array.from({ length: 5 }, () => send('POST', '/function/echo'))
    await Promise.race(calls)
    await gateway.stop()
    for (const call of calls) t.match(await call.catch(() => ({ status: 0 })), { status: 200 })
    await t.rejects(send('GET', '/healthz'), { code: 'ECONNREFUSED' })
  })
  await t.test(
    'does not wait for log followers or a hanging call, and a second stop joins the first',
    async (t) => {
      const { send, gateway } = await startTestGateway(t, redis.url, {
        functions: ['echo', 'hang'],
        stopTimeoutMs: 500,
      })
      const follower = send('GET', '/system/logs?name=echo&follow=true').catch(() => undefined)
      const hanging = send('POST', '/function/hang')
      while (JSON.parse((await send('GET', '/system/function/hang')).text).queue.active !== 1);
      t.equal(gateway.stop(), gateway.stop())
      await gateway.stop()
      t.match(await hanging, {
        status: 503,
        headers: { 'x-wherry-outcome': 'no_capacity', 'retry-after': '1' },
        text: /the gateway stopped while the call was waiting/,
      })
      await follower
      t.pass('all connections are closed')
    },
  )
  await t.test('a gateway that cannot listen leaves no connection open', async (t) => {
    const { gateway } = await startTestGateway(t, redis.url)
    const port = Number(new URL(gateway.url).port)
    await t.rejects(
      startGateway(configFor(redis.url, '{p9}', { listen: { host: '127.0.0.1', port } }), log),
      { code: 'ERR_INVALID_REQUEST', message: /in use/ },
    )
  })
})
