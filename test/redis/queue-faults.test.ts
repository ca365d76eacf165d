// Faults of the queue: killed workers, lost leases, a Redis that is killed, hangs or is full.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createFunctionQueues } from '../../services/queue/function-queues.ts'
import { createLeases } from '../../services/queue/leases.ts'
import { createMarkers } from '../../services/queue/markers.ts'
import { completion, gate, invocation, log, queueRig, until, type Rig } from '../helpers/queue-rig.ts'
import { skipWithoutRedis, startRedis, type TestRedis } from '../helpers/redis.ts'

if (skipWithoutRedis) {
  t.plan(0, skipWithoutRedis)
  process.exit(0)
}

/** Short, but long enough that no lease is lost while its process waits for a CPU. */
const QUICK = { lockDurationMs: 2_000, stalledIntervalMs: 300 }
const patient = { timeoutMs: 100_000, queueWaitMs: 100_000 }
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString()

/**
 * The URL of a proxy to REDIS that breaks its connection once, in the middle of a command: right after the
 * string BEHIND. `broken` resolves when Redis has closed its side.
 */
async function breakBehind(
  t: Test,
  redis: TestRedis,
  behind: string,
): Promise<{ url: string; broken: Promise<unknown> }> {
  const folder = mkdtempSync(join(tmpdir(), 'wherry-test-'))
  const broken = gate()
  const server = createServer((client) => {
    const upstream = connect(redis.socketPath)
    upstream
      .on('error', () => client.destroy())
      .on('close', () => client.destroy())
      .pipe(client)
    client.on('error', () => upstream.destroy()).on('close', () => upstream.destroy())
    let seen = ''
    client.on('data', (chunk) => {
      const bytes = String(chunk)
      const at = (seen + bytes).indexOf(behind)
      if (at < 0) {
        upstream.write(chunk)
        seen = (seen + bytes).slice(-behind.length)
        return
      }
      client.removeAllListeners('data').removeAllListeners('close')
      upstream.on('close', broken.resolve).end((seen + bytes).slice(seen.length, at + behind.length))
    })
  }).listen(join(folder, 's'))
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return { url: `unix://${join(folder, 's')}`, broken: broken.promise }
}

/** A worker process that has taken a call and never ends it. */
async function stuckWorker(t: Test, redis: TestRedis, rig: Rig, name: string): Promise<ChildProcess> {
  const script = new URL('../helpers/stuck-worker.ts', import.meta.url).pathname
  const child = spawn(
    process.execPath,
    [script, redis.url, rig.prefix, name, String(QUICK.lockDurationMs), String(QUICK.stalledIntervalMs)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  return child
}

t.test('workers that fall silent', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.close())
  const client = redis.client()

  t.test('a call of a killed worker runs once more, on another worker', async (t) => {
    const rig = queueRig(t, redis)
    const producer = await rig.producer()
    const ended = producer.call(invocation('f', { body: 'x' }), patient)
    const child = await stuckWorker(t, redis, rig, 'f')
    const attempts: number[] = []
    await rig.dispatcher(['f'], {
      leaseTimes: QUICK,
      run: async ({ attempt }) => {
        attempts.push(attempt)
        return completion({ body: 'rescued' })
      },
    })
    // The stuck worker renews its lease as long as it lives.
    await new Promise((resolve) => setTimeout(resolve, 2 * QUICK.lockDurationMs))
    t.same(attempts, [])
    child.kill('SIGKILL')
    t.equal(text((await ended).body), 'rescued')
    t.same(attempts, [2])
  })

  t.test('a call that stalled too often fails for good', async (t) => {
    const rig = queueRig(t, redis)
    let ran = false
    await client.hset(`${rig.prefix}:f:poison`, {
      name: 'invoke',
      data: '"x"',
      opts: '{"attempts":5}',
      timestamp: '1',
      delay: '0',
      priority: '0',
      defa: 'job stalled more than allowable limit',
    })
    await client.lpush(`${rig.prefix}:f:wait`, 'poison')
    await rig.dispatcher(['f'], {
      leaseTimes: QUICK,
      run: async () => {
        ran = true
        return completion()
      },
    })
    await until(() => client.zscore(`${rig.prefix}:f:failed`, 'poison'))
    t.match(await client.hget(`${rig.prefix}:f:poison`, 'failedReason'), /^crash: /)
    t.notOk(ran)
  })

  t.test('work whose marker was lost is found by the sweep', async (t) => {
    const rig = queueRig(t, redis)
    await rig.dispatcher(['f'], { leaseTimes: QUICK })
    const queue = rig.queue('f')
    await rig.finished(await queue.add('invoke', 'x'))
    await client.hset(`${rig.prefix}:f:lost`, {
      name: 'invoke',
      data: '"x"',
      opts: '{}',
      timestamp: '1',
      delay: '0',
      priority: '0',
    })
    await client.lpush(`${rig.prefix}:f:wait`, 'lost') // as if a worker had popped the marker and died
    await until(() => client.zscore(`${rig.prefix}:f:completed`, 'lost'))
    await client.hset(`${rig.prefix}:f:later`, {
      name: 'invoke',
      data: '"x"',
      opts: '{}',
      timestamp: '1',
      delay: '200',
      priority: '0',
    })
    await client.zadd(`${rig.prefix}:f:delayed`, (Date.now() + 500) * 0x1000, 'later')
    await until(() => client.zscore(`${rig.prefix}:f:completed`, 'later'))
  })

  t.test('a call whose lease was taken over is aborted, and its end does not count', async (t) => {
    const rig = queueRig(t, redis)
    const began = gate()
    const settled: unknown[] = []
    const dispatcher = await rig.dispatcher(['f'], {
      leaseTimes: QUICK,
      onSettled: (record) => settled.push(record),
      run: async (_call, { signal }) => {
        began.resolve()
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        return completion()
      },
    })
    const job = await rig.queue('f').add('invoke', 'x')
    await began.promise
    await client.set(`${rig.prefix}:f:${job.id}:lock`, 'of another worker', 'PX', 60_000)
    await until(() => dispatcher.running === 0)
    t.equal(await client.get(`${rig.prefix}:f:${job.id}:lock`), 'of another worker')
    t.equal(await job.getState(), 'active')
    t.same(settled, [])
    t.equal(await client.exists(`${rig.prefix}:@call:f~${job.id}`), 0)
  })

  t.test('the marker of a function that is no longer watched is put back, with an expiry', async (t) => {
    const rig = queueRig(t, redis)
    const marker = `${rig.prefix}:f:marker`
    let hidden = false
    const commands = Object.create(client, {
      status: { get: () => (hidden ? 'connecting' : client.status) },
    }) as typeof client
    const markers = createMarkers({
      redisUrl: redis.url,
      prefix: rig.prefix,
      workerName: 'w',
      commands,
      onReady: () => undefined,
      log,
    })
    t.teardown(() => markers.stop())
    markers.watch(['f'])
    markers.start()
    const next = markers.next()
    hidden = true // so that watch() does not wake it
    markers.watch([])
    hidden = false
    await client.zadd(marker, 7, '1')
    t.equal(await next, undefined)
    await until(() => client.exists(marker))
    t.same(await client.zrange(marker, '0', '-1', 'WITHSCORES'), ['1', '7'])
    t.ok((await client.pttl(marker)) > 0)
    markers.raise('f')
    t.same(await client.zrange(marker, '0', '-1'), ['1'], 'nor is its marker raised again')
  })

  t.test(
    'a call whose connection breaks while it is accepted is stored as a whole or not at all',
    async (t) => {
      const rig = queueRig(t, redis)
      const way = await breakBehind(t, redis, 'the end of the body')
      const producer = await rig.producer({ redisUrl: way.url })
      await until(() =>
        producer.workers().then(
          () => true,
          () => false,
        ),
      )
      const call = invocation('f', { callId: 'half', body: `${'x'.repeat(100_000)}the end of the body` })
      await t.rejects(producer.enqueue(call), { code: 'ERR_REDIS_AWAY' })
      await way.broken
      t.equal(await client.exists(`${rig.prefix}:f:half`, `${rig.prefix}:@body:half`), 0)
      t.ok((await client.pttl(`${rig.prefix}:@call:half`)) <= 60_000, 'its id is soon free again')
      await (await rig.producer()).enqueue(invocation('f', { callId: 'whole', body: call.request.body }))
      t.equal(await client.exists(`${rig.prefix}:f:whole`, `${rig.prefix}:@body:whole`), 2)
      t.ok((await client.pttl(`${rig.prefix}:@call:whole`)) > 60_000)
    },
  )

  t.test('a call that is settled during a renewal does not lose its lease', async (t) => {
    const rig = queueRig(t, redis)
    const queue = await createFunctionQueues(client, {
      prefix: rig.prefix,
      workerName: 'w',
      times: QUICK,
    }).get('f')
    let renewals = 0
    const commands = Object.assign(Object.create(client) as typeof client, {
      disconnect() {
        /* a busy machine may well be slower than these leases */
      },
      pipeline() {
        if (renewals++ === 0) void settle() // sent before the commands of the renewal
        return client.pipeline()
      },
    })
    const leases = createLeases({ commands, lockDurationMs: 300, log })
    t.teardown(() => leases.stop())
    const settled = leases.hold(queue, 'settled', 'token')
    const lost = leases.hold(queue, 'lost', 'token')
    await client.lpush(`${rig.prefix}:f:active`, 'settled')
    async function settle(): Promise<void> {
      await client.lrem(`${rig.prefix}:f:active`, 1, 'settled')
      // As long as an attempt takes to release its lease.
      for (let step = 0; step < 10; step++) await Promise.resolve()
      leases.release(settled)
    }
    leases.start()
    await until(() => renewals > 1)
    t.ok(lost.signal.aborted, 'a lost lease aborts its call')
    t.notOk(settled.signal.aborted)
  })

  t.test('the late end of a call that runs elsewhere is refused', async (t) => {
    const rig = queueRig(t, redis)
    const began = gate()
    const go = gate()
    const settled: unknown[] = []
    const dispatcher = await rig.dispatcher(['f'], {
      onSettled: (record) => settled.push(record),
      run: async () => {
        began.resolve()
        await go.promise
        return completion({ body: 'late' })
      },
    })
    const job = await rig.queue('f').add('invoke', 'x')
    await began.promise
    await client.set(`${rig.prefix}:f:${job.id}:lock`, 'of another worker', 'PX', 60_000)
    go.resolve()
    await until(() => dispatcher.running === 0)
    t.same(settled, [])
    t.equal(await job.getState(), 'active')
  })

  t.test('an expired lock that no worker took is retaken, and the end counts', async (t) => {
    const rig = queueRig(t, redis)
    const began = gate()
    const go = gate()
    await rig.dispatcher(['f'], {
      run: async () => {
        began.resolve()
        await go.promise
        return completion({ body: 'kept' })
      },
    })
    const job = await rig.queue('f').add('invoke', 'x')
    await began.promise
    await client.del(`${rig.prefix}:f:${job.id}:lock`)
    go.resolve()
    t.match(await rig.finished(job), { body: 'kept' })
  })
})

t.test('Redis is killed and restarted', async (t) => {
  const redis = await startRedis({ durable: true })
  t.teardown(() => redis.close())
  const rig = queueRig(t, redis)
  const producer = await rig.producer()
  const runs = new Map<string, number>()
  const began = gate()
  const go = gate()
  const dispatcher = await rig.dispatcher(['f', 'held'], {
    leaseTimes: QUICK,
    callsMax: 2,
    run: async (call) => {
      runs.set(call.callId, (runs.get(call.callId) ?? 0) + 1)
      if (call.function !== 'held') return completion({ body: call.request.body })
      began.resolve()
      await go.promise
      return completion({ body: 'held through' })
    },
  })
  const held = producer.call(invocation('held', { callId: 'held-1' }), patient)
  await began.promise
  const queue = rig.queue('f')
  await queue.pause()
  const accepted = Array.from({ length: 40 }, (_, i) => invocation('f', { callId: `a${i}` }))
  for (const call of accepted) await producer.enqueue(call)

  await redis.kill()
  const askedAtMs = Date.now()
  await t.rejects(producer.enqueue(invocation('f')), {
    name: 'Overloaded',
    code: 'ERR_REDIS_AWAY',
    statusCode: 503,
  })
  await t.rejects(producer.call(invocation('f'), patient), { code: 'ERR_REDIS_AWAY' })
  await t.rejects(producer.find('a1'), { code: 'ERR_REDIS_AWAY' })
  await t.rejects(producer.workers(), { code: 'ERR_REDIS_AWAY' })
  await t.rejects(producer.depths(['f']), { code: 'ERR_REDIS_AWAY' })
  await t.rejects(producer.forget('f'), { code: 'ERR_REDIS_AWAY' })
  await t.rejects(
    (async () => {
      for await (const _entry of producer.logs('f', {})) t.fail('no line can arrive')
    })(),
    { code: 'ERR_REDIS_AWAY' },
  )
  t.ok(Date.now() - askedAtMs < 30_000, 'seven requests fail at once, not by a timeout of their own')
  go.resolve() // the held call ends while Redis is away
  await new Promise((resolve) => setTimeout(resolve, 3 * QUICK.lockDurationMs))

  await redis.restart()
  const backAtMs = Date.now()
  await t.resolveMatch(held, { outcome: 'ok', callId: 'held-1' })
  t.equal(text((await held).body), 'held through')
  t.equal(runs.get('held-1'), 1, 'a call that ran through the outage does not run again')
  await until(() =>
    producer.workers().then(
      () => true,
      () => false,
    ),
  )
  await queue.resume()
  await until(async () =>
    (await Promise.all(accepted.map((call) => producer.find(call.callId)))).every(
      (record) => record?.outcome === 'ok',
    ),
  )
  t.ok(Date.now() - backAtMs < 60_000, 'all accepted calls finish soon')
  t.same(
    accepted.map((call) => runs.get(call.callId)),
    accepted.map(() => 1),
  )
  t.equal(text((await producer.call(invocation('f', { body: 'after' }), patient)).body), 'after')
  await until(() => dispatcher.running === 0)
})

t.test('Redis is away at the start', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.close())
  await redis.kill()
  const rig = queueRig(t, redis)
  const producer = await rig.producer()
  await rig.dispatcher(['f'])
  await t.rejects(producer.enqueue(invocation('f')), { code: 'ERR_REDIS_AWAY' })
  await redis.restart()
  await until(() =>
    producer.workers().then(
      () => true,
      () => false,
    ),
  )
  t.equal(text((await producer.call(invocation('f', { body: 'there' }), patient)).body), 'there')
})

t.test('Redis hangs', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.close())
  const rig = queueRig(t, redis)
  const producer = await rig.producer()
  await rig.dispatcher(['f'], { leaseTimes: QUICK })
  await producer.call(invocation('f'), patient)
  process.kill(redis.pid, 'SIGSTOP')
  await t.rejects(producer.enqueue(invocation('f')), { code: 'ERR_REDIS_AWAY' })
  process.kill(redis.pid, 'SIGCONT')
  await until(() =>
    producer.call(invocation('f'), patient).then(
      () => true,
      () => false,
    ),
  )
})

t.test('a full Redis refuses calls until it has room', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.close())
  const client = redis.client()
  const rig = queueRig(t, redis)
  const producer = await rig.producer()
  await rig.dispatcher(['f'])
  await producer.call(invocation('f'), patient)
  await client.config('SET', 'maxmemory', '1')
  await t.rejects(producer.enqueue(invocation('f')), {
    name: 'Overloaded',
    code: 'ERR_REDIS_FULL',
    statusCode: 503,
  })
  await client.config('SET', 'maxmemory', '0')
  t.match(await producer.call(invocation('f'), patient), { outcome: 'ok' })

  t.test('a call that ends while Redis is full is settled later and does not run again', async (t) => {
    await rig.dispatcher(['full'], {
      run: async () => {
        await client.config('SET', 'maxmemory', '1')
        return completion({ body: 'once' })
      },
    })
    const call = invocation('full')
    const ended = producer.call(call, patient)
    await until(async () => /errorstat_EXECABORT:count=[1-9]/.test(await client.info('errorstats')))
    await client.config('SET', 'maxmemory', '0')
    t.match(await ended, { outcome: 'ok' })
    t.match(await producer.find(call.callId), { attempt: 1 })
  })
})
