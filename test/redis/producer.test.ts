// Calls as a gateway makes them: accepted, awaited, taken back, refused, looked up.

import t from 'tap'
import { completion, echo, gate, invocation, queueRig, until } from '../helpers/queue-rig.ts'
import { skipWithoutRedis, startRedis } from '../helpers/redis.ts'

if (skipWithoutRedis) {
  t.plan(0, skipWithoutRedis)
  process.exit(0)
}

const redis = await startRedis()
t.teardown(() => redis.close())
const client = redis.client()
const patient = { timeoutMs: 60_000, queueWaitMs: 60_000 }
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString()

t.test('an awaited call', async (t) => {
  const rig = queueRig(t, redis)
  const producer = await rig.producer()
  let answer = echo
  await rig.dispatcher(['f'], {
    run: async (call, context) => await answer(call, context),
    workerName: 'w-7',
  })

  t.test('returns its reply and the bytes of its result', async (t) => {
    answer = async (call) =>
      completion({
        body: call.request.body,
        contentType: 'text/x',
        exitCode: 0,
        imageDigest: 'sha256:ab',
        usage: {
          cpuMs: 1,
          cpuPeriods: 1,
          cpuThrottledPeriods: 0,
          cpuThrottledMs: 0,
          memoryPeakBytes: 2,
          oomKills: 0,
        },
        log: 'warned\n',
      })
    const call = invocation('f', { body: 'hello' })
    const ended = await producer.call(call, patient)
    t.match(ended, {
      callId: call.callId,
      outcome: 'ok',
      status: 200,
      exitCode: 0,
      result: { contentType: 'text/x', body: '' },
    })
    t.equal(ended.log, undefined, 'only the reply to a failure carries the log')
    t.equal(text(ended.body), 'hello')
    t.ok(ended.phases!.queue >= 0 && ended.phases!.queue < 60_000 && ended.phases!.settle < 60_000)
    t.match(await producer.find(call.callId), {
      function: 'f',
      state: 'finished',
      outcome: 'ok',
      attempt: 1,
      worker: 'w-7',
      imageDigest: 'sha256:ab',
      start: 'cold',
      usage: { cpuMs: 1 },
      log: 'warned\n',
      result: { body: 'hello', encoding: 'utf8' },
    })
  })

  t.test('reaches the function with method, path, query and headers', async (t) => {
    let seen
    answer = async (call) => {
      seen = call
      return completion()
    }
    const request = {
      method: 'PATCH',
      path: '/a',
      query: 'b=c',
      headers: { 'x-y': 'z', __proto__x: '1' },
      body: Buffer.from([0xff, 0x00]),
    }
    const call = invocation('f', { request })
    await producer.call(call, patient)
    t.match(seen, { callId: call.callId, request: { ...request } })
  })

  t.test('a body of 6 MiB goes both ways outside the job', async (t) => {
    answer = echo
    const body = Buffer.alloc(6 * 1024 ** 2, 'wherry\xff', 'latin1')
    const call = invocation('f', { body })
    const ended = await producer.call(call, patient)
    t.ok(body.equals(ended.body))
    t.ok((await client.strlen(`${rig.prefix}:@call:${call.callId}`)) < 2_000, 'the record is small')
    const { data = '', returnvalue = '' } = await client.hgetall(`${rig.prefix}:f:${call.callId}`)
    t.ok(data.length < 2_000 && returnvalue.length < 2_000, 'the job is small')
    t.match(JSON.parse(returnvalue), { outcome: 'ok', bodyStored: true })
    const found = await producer.find(call.callId)
    t.ok(found?.result?.encoding === 'base64' && Buffer.from(found.result.body, 'base64').equals(body))
    t.equal(
      await client.exists(`${rig.prefix}:@body:${call.callId}`),
      0,
      'the stored body is deleted with the call',
    )
  })

  t.test('the stored body of a failed call lives as long as its record', async (t) => {
    answer = async () => completion({ outcome: 'app_error' })
    const call = invocation('f', { body: 'x'.repeat(20_000) })
    await producer.call(call, patient)
    const lives = await client.pttl(`${rig.prefix}:@body:${call.callId}`)
    t.ok(lives > 0 && lives <= 3_600_000, `${lives} ms`)
  })

  t.test('a request that is invalid for the worker fails at once', async (t) => {
    const call = invocation('f', {
      request: {
        method: 'POST',
        path: `/${'p'.repeat(20_000)}`,
        query: '',
        headers: {},
        body: new Uint8Array(),
      },
    })
    t.match(await producer.call(call, patient), {
      callId: call.callId,
      outcome: 'init_fail',
      message: /path: must be a string/,
    })
  })

  t.test('a failure returns its outcome and the output of the function', async (t) => {
    answer = async () =>
      completion({ outcome: 'app_error', exitCode: 3, message: 'exit code 3', body: 'sorry' })
    const ended = await producer.call(invocation('f'), patient)
    t.match(ended, { outcome: 'app_error', status: 500, exitCode: 3, message: 'exit code 3' })
    t.equal(text(ended.body), 'sorry')
  })

  t.test('fifty concurrent calls each return their own result', async (t) => {
    answer = echo
    const bodies = Array.from({ length: 50 }, (_, i) => `body ${i}`)
    const ended = await Promise.all(bodies.map((body) => producer.call(invocation('f', { body }), patient)))
    t.same(
      ended.map((call) => text(call.body)),
      bodies,
    )
  })

  t.test('two gateways receive only their own replies', async (t) => {
    answer = echo
    const other = await rig.producer()
    const [one, two] = await Promise.all([
      producer.call(invocation('f', { body: '1' }), patient),
      other.call(invocation('f', { body: '2' }), patient),
    ])
    t.same([text(one.body), text(two.body)], ['1', '2'])
  })
})

t.test('calls without an answer', async (t) => {
  const rig = queueRig(t, redis)
  const producer = await rig.producer()

  t.test('without a worker a call ends as no_capacity, and its job is deleted', async (t) => {
    const call = invocation('idle', { body: 'x'.repeat(20_000) })
    t.match(await producer.call(call, { timeoutMs: 10, queueWaitMs: 50 }), {
      outcome: 'no_capacity',
      status: 503,
      message: /no worker took the call within 50ms/,
    })
    t.match(await producer.find(call.callId), { state: 'finished', outcome: 'no_capacity' })
    t.same(await client.keys(`${rig.prefix}:idle:${call.callId}*`), [])
    t.equal(await client.exists(`${rig.prefix}:@body:${call.callId}`), 0)
  })

  t.test('when the caller goes away, a waiting call is taken back', async (t) => {
    const caller = new AbortController()
    const call = invocation('idle')
    const ended = producer.call(call, { ...patient, signal: caller.signal })
    await until(() => client.exists(`${rig.prefix}:idle:${call.callId}`))
    caller.abort()
    t.match(await ended, { outcome: 'cancelled', status: 499 })
    t.equal(await client.llen(`${rig.prefix}:idle:wait`), 0)
  })

  t.test('a call that a worker took in time is awaited beyond the queue wait', async (t) => {
    const go = gate()
    await rig.dispatcher(['slow'], {
      run: async () => {
        await go.promise
        return completion({ body: 'late' })
      },
    })
    const queueWaitMs = 1_500
    const ended = producer.call(invocation('slow'), { ...patient, queueWaitMs })
    await new Promise((resolve) => setTimeout(resolve, queueWaitMs + 100))
    go.resolve()
    t.equal(text((await ended).body), 'late')
  })

  t.test('a gateway that stops answers its waiting callers', async (t) => {
    const stopping = await rig.producer()
    const call = invocation('idle')
    const ended = stopping.call(call, patient)
    await until(() => client.exists(`${rig.prefix}:idle:${call.callId}`))
    await stopping.stop()
    t.match(await ended, { outcome: 'no_capacity', message: /gateway stopped/ })
    await stopping.stop()
  })

  t.test('a lost reply is found after a reconnect', async (t) => {
    const own = await rig.producer({ gatewayId: 'deaf' })
    const began = gate()
    const go = gate()
    await rig.dispatcher(['f'], {
      run: async () => {
        began.resolve()
        await go.promise
        return completion({ body: 'heard' })
      },
    })
    const ended = own.call(invocation('f'), patient)
    await began.promise
    const subscribers = String(await client.client('LIST'))
      .split('\n')
      .filter((line) => line.includes('name=wherry-gateway-replies'))
    await client.client('PAUSE', 300, 'WRITE') // no call is settled before all subscribers are disconnected
    for (const line of subscribers) await client.client('KILL', 'ID', /id=(\d+)/.exec(line)![1]!)
    go.resolve()
    t.equal(text((await ended).body), 'heard')
  })
})

t.test('async calls', async (t) => {
  const rig = queueRig(t, redis)
  const producer = await rig.producer()

  t.test('the record is queued, then active, then finished', async (t) => {
    const call = invocation('f', { body: 'x' })
    await producer.enqueue(call)
    t.match(await producer.find(call.callId), {
      callId: call.callId,
      function: 'f',
      state: 'queued',
      attempt: 1,
    })
    t.same((await producer.depths(['f'])).get('f'), { waiting: 1, active: 0, delayed: 0, failed: 0 })
    const began = gate()
    const go = gate()
    await rig.dispatcher(['f'], {
      workerName: 'w',
      run: async () => {
        began.resolve()
        await go.promise
        return completion()
      },
    })
    await began.promise
    t.match(await producer.find(call.callId), {
      state: 'active',
      worker: 'w',
      attempt: 1,
      startedAtMs: Number,
    })
    t.same((await producer.depths(['f', 'other'])).get('f'), { waiting: 0, active: 1, delayed: 0, failed: 0 })
    go.resolve()
    await until(async () => (await producer.find(call.callId))?.state === 'finished')
    t.same(
      await producer.counts(['f', 'other']),
      new Map([
        ['f', 1],
        ['other', 0],
      ]),
    )
    t.ok((await client.pttl(`${rig.prefix}:@call:${call.callId}`)) <= 3_600_000)
    t.equal(await producer.find('nobody'), undefined)
  })

  t.test('a call that waits too long ends as expired and never runs', async (t) => {
    const call = invocation('old')
    await producer.enqueue(call, { expiresInMs: 20 })
    await until(async () => Date.now() > (await producer.find(call.callId))!.enqueuedAtMs + 50)
    let ran = false
    await rig.dispatcher(['old'], {
      run: async () => {
        ran = true
        return completion()
      },
    })
    await until(async () => (await producer.find(call.callId))?.state === 'finished')
    t.match(await producer.find(call.callId), { outcome: 'expired', status: 410 })
    t.notOk(ran)
  })

  t.test('a call whose stored body was deleted ends as expired', async (t) => {
    const call = invocation('bodyless', { body: 'x'.repeat(20_000) })
    await producer.enqueue(call)
    await client.del(`${rig.prefix}:@body:${call.callId}`)
    await rig.dispatcher(['bodyless'])
    await until(async () => (await producer.find(call.callId))?.state === 'finished')
    t.match(await producer.find(call.callId), { outcome: 'expired', message: /body/ })
  })

  t.test('a call id is used only once, even for another function and after the call has ended', async (t) => {
    const call = invocation('idle', { callId: 'mine-1' })
    await producer.enqueue(call)
    await t.rejects(producer.enqueue(call), { name: 'Conflict', code: 'ERR_CALL_EXISTS' })
    await t.rejects(producer.enqueue({ ...call, function: 'another' }), { code: 'ERR_CALL_EXISTS' })
    t.equal(await client.exists(`${rig.prefix}:another:wait`), 0, 'nothing was queued')
    await client.del(`${rig.prefix}:@call:mine-1`)
    await t.rejects(
      producer.enqueue(call),
      { code: 'ERR_CALL_EXISTS' },
      'the job exists even without its record',
    )
    t.equal(await client.llen(`${rig.prefix}:idle:wait`), 1)
  })

  t.test('call ids that could escape their key are refused', async (t) => {
    for (const callId of ['', 'a:b', '../x', '12345', 'a\0', 'x'.repeat(201)])
      await t.rejects(producer.enqueue(invocation('f', { callId })), { code: 'ERR_INVALID_REQUEST' })
  })

  t.test('a full queue refuses a call and stores nothing of it', async (t) => {
    const small = await rig.producer({ queueMax: 3 })
    for (let i = 0; i < 3; i++) await small.enqueue(invocation('full'))
    const call = invocation('full')
    await t.rejects(small.enqueue(call), { code: 'ERR_QUEUE_FULL', statusCode: 503, retryable: true })
    t.equal(await small.find(call.callId), undefined)
    await small.enqueue(invocation('roomy'))
  })
})

t.test('logs, workers and removal', async (t) => {
  const rig = queueRig(t, redis)
  const producer = await rig.producer()
  const collect = async (query: Parameters<typeof producer.logs>[1]): Promise<string[]> => {
    const lines: string[] = []
    for await (const entry of producer.logs('f', query)) lines.push(entry.text)
    return lines
  }

  t.test('stderr is stored by line, and can be tailed and followed', async (t) => {
    await rig.dispatcher(['f'], { run: async ({ request }) => completion({ log: text(request.body) }) })
    await producer.call(invocation('f', { body: 'one\ntwo\n' }), patient)
    await producer.call(invocation('f', { body: '' }), patient)
    await producer.call(invocation('f', { body: 'three' }), patient)
    t.same(await collect({}), ['one', 'two', 'three'])
    t.same(await collect({ tail: 2 }), ['two', 'three'])
    t.same(await collect({ sinceMs: Date.now() + 60_000 }), [])
    const reader = new AbortController()
    const followed: string[] = []
    const first = gate()
    const following = (async () => {
      for await (const entry of producer.logs('f', { tail: 1, follow: true, signal: reader.signal })) {
        followed.push(entry.text)
        first.resolve()
        if (followed.length === 3) reader.abort()
      }
    })()
    await first.promise
    const call = invocation('f', { body: 'four\nfive' })
    await producer.call(call, patient)
    await following
    t.same(followed, ['three', 'four', 'five'])
    await until(async () => !String(await client.client('LIST')).includes('name=wherry-gateway-logs'))
  })

  t.test('a worker is listed while it sends heartbeats', async (t) => {
    const { createHeartbeat } = await import('../../services/queue/heartbeat.ts')
    const { openRedis } = await import('../../services/platform/redis.ts')
    const { log } = await import('../helpers/queue-rig.ts')
    const connection = openRedis(redis.url, { temper: 'patient', name: 'beat', onError: () => undefined })
    t.teardown(() => connection.disconnect())
    const running = Array.from({ length: 1_500 }, (_, i) => ({
      callId: `c${i}`,
      function: 'f',
      pid: i,
      startedAtMs: 1,
    }))
    const heartbeat = createHeartbeat({
      redis: connection,
      prefix: rig.prefix,
      log,
      read: () => ({ name: 'w', pid: 1, host: 'h', url: 'http://x', slots: 4, startedAtMs: 5, running }),
    })
    await heartbeat.stop()
    await heartbeat.start()
    await until(async () => (await producer.workers()).length === 1)
    const [worker] = await producer.workers()
    t.match(worker, { name: 'w', slots: 4, startedAtMs: 5 })
    t.equal(worker?.running.length, 1_000)
    await heartbeat.stop()
    await heartbeat.stop()
    t.same(await producer.workers(), [])
  })

  t.test('forgetting a function cancels its calls and leaves no key', async (t) => {
    const began = gate()
    const aborted = gate()
    const settled: string[] = []
    await rig.dispatcher(['gone'], {
      callsMax: 1,
      leaseTimes: { lockDurationMs: 3_000, stalledIntervalMs: 200 },
      run: async (_call, { signal }) => {
        began.resolve()
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        aborted.resolve()
        return completion()
      },
      onSettled: (record) => settled.push(record.callId),
    })
    const running = producer.call(invocation('gone'), patient)
    await began.promise
    const waiting = producer.call(invocation('gone'), patient)
    const stored = invocation('gone', { body: 'x'.repeat(20_000) })
    await producer.enqueue(stored)
    await until(async () => (await producer.depths(['gone'])).get('gone')?.waiting === 2)
    await rig.queue('gone').add('invoke', 'of another producer', { delay: 60_000 })
    await producer.forget('gone')
    t.match(await Promise.all([running, waiting]), [{ outcome: 'cancelled' }, { outcome: 'cancelled' }])
    t.match(await producer.find(stored.callId), {
      state: 'finished',
      outcome: 'cancelled',
      message: /was removed/,
    })
    await aborted.promise
    t.same(settled, [])
    const left = (await client.keys(`${rig.prefix}:*`)).filter(
      (key) => key.includes(':gone') || key.includes('@body'),
    )
    t.same(left, [])
    await producer.forget('never-there')
  })
})
