// Jobs of plain BullMQ producers: how a dispatcher treats them, and that BullMQ's own features (attempts,
// delays, priorities, pauses, limits, schedulers) work although no BullMQ worker runs here.

import t from 'tap'
import type { Invocation } from '../../services/contract/invocation.ts'
import { completion, echo, gate, queueRig, until } from '../helpers/queue-rig.ts'
import { skipWithoutRedis, startRedis } from '../helpers/redis.ts'

if (skipWithoutRedis) {
  t.plan(0, skipWithoutRedis)
  process.exit(0)
}

const redis = await startRedis()
t.teardown(() => redis.close())
const client = redis.client()

t.test('forms of jobs', async (t) => {
  const rig = queueRig(t, redis)
  const seen: Invocation[] = []
  await rig.dispatcher(['f'], {
    run: async (invocation) => {
      seen.push(invocation)
      return completion({ body: invocation.request.body, contentType: 'text/x' })
    },
  })
  const queue = rig.queue('f')
  const run = async (name: string, data: unknown, options = {}): Promise<unknown> =>
    await rig.finished(await queue.add(name, data, options))

  t.test('a string is the body, and the return value has every field', async (t) => {
    const value = await run('invoke', 'grüße\n')
    t.match(value, {
      outcome: 'ok',
      status: 200,
      contentType: 'text/x',
      body: 'grüße\n',
      encoding: 'utf8',
      callId: 'f~1',
      phases: { create: 0.5, run: 1 },
    })
    t.match(Object.keys((value as { phases: object }).phases).sort(), [
      'create',
      'init',
      'pull',
      'queue',
      'run',
      'settle',
    ])
    t.match(seen.at(-1), {
      callId: 'f~1',
      function: 'f',
      attempt: 1,
      request: { method: 'POST', path: '/', query: '' },
    })
  })

  t.test('any other JSON value arrives as JSON', async (t) => {
    t.match(await run('whatever', { a: [1, null, 'x'] }), { body: '{"a":[1,null,"x"]}' })
    t.equal(seen.at(-1)?.request.headers['content-type'], 'application/json')
    t.match(await run('invoke', 42), { body: '42' })
    t.match(await run('invoke', ''), { body: '' })
  })

  t.test('a request job describes the whole request', async (t) => {
    await run('request', {
      method: 'put',
      path: '/a/b',
      query: '?x=1',
      headers: { 'X-Mine': 'yes' },
      body: 'text',
      unknown: true,
    })
    t.match(seen.at(-1)?.request, { method: 'PUT', path: '/a/b', query: 'x=1', headers: { 'x-mine': 'yes' } })
    t.match(await run('request', { bodyBase64: Buffer.from([0, 255, 1]).toString('base64') }), {
      encoding: 'base64',
      body: 'AP8B',
    })
  })

  t.test('a large body arrives and returns complete', async (t) => {
    const body = 'ä'.repeat(3 * 1024 ** 2)
    const value = (await run('invoke', body)) as { body: string }
    t.ok(seen.at(-1)?.request.body.byteLength === 6 * 1024 ** 2, '6 MiB reached the function')
    t.ok(value.body === body, 'and came back')
  })

  t.test('a body over the limit fails without running the function', async (t) => {
    const before = seen.length
    await t.rejects(run('invoke', 'x'.repeat(6 * 1024 ** 2 + 1), { attempts: 3 }), {
      message: /^too_large: /,
    })
    t.equal(seen.length, before)
  })

  t.test('call ids of jobs are safe whatever the job id is', async (t) => {
    t.match(await run('invoke', 'x', { jobId: 'a/../b c\n' }), { callId: 'f~a_.._b_c_' })
  })

  t.test('a scheduler adds its next job when one is taken', async () => {
    await queue.upsertJobScheduler('tick', { every: 100 }, { name: 'invoke', data: 'tick' })
    await until(() => seen.filter((i) => Buffer.from(i.request.body).toString() === 'tick').length >= 3)
    await queue.removeJobScheduler('tick')
  })
})

t.test('failing jobs', async (t) => {
  const rig = queueRig(t, redis)
  const attempts: number[] = []
  let answer = async (_attempt: number) => completion()
  await rig.dispatcher(['f'], {
    run: async (invocation) => {
      attempts.push(invocation.attempt)
      return await answer(invocation.attempt)
    },
  })
  const queue = rig.queue('f')
  t.beforeEach(() => {
    attempts.length = 0
  })

  t.test('the outcome is the first word of failedReason', async (t) => {
    answer = async () => completion({ outcome: 'oom', message: 'the function needed more than 64Mi' })
    await t.rejects(rig.finished(await queue.add('invoke', 'x')), {
      message: 'oom: the function needed more than 64Mi',
    })
    t.same(attempts, [1])
  })

  t.test('attempts and backoff of the job are BullMQ’s', async (t) => {
    answer = async (attempt) =>
      attempt < 3
        ? completion({ outcome: 'app_error', exitCode: attempt })
        : completion({ body: `attempt ${attempt}` })
    const job = await queue.add('invoke', 'x', { attempts: 5, backoff: { type: 'fixed', delay: 150 } })
    t.match(await rig.finished(job), { body: 'attempt 3' })
    t.same(attempts, [1, 2, 3])
    t.equal(await client.hget(`${rig.prefix}:f:${job.id}`, 'atm'), '3')
  })

  t.test('without backoff, attempts follow at once, and the last one fails the job', async (t) => {
    answer = async (attempt) =>
      completion({ outcome: 'crash', signal: 'SIGSEGV', message: `died ${attempt}` })
    await t.rejects(rig.finished(await queue.add('invoke', 'x', { attempts: 3 })), {
      message: 'crash: died 3',
    })
    t.same(attempts, [1, 2, 3])
  })

  t.test('between attempts the record has the last outcome', async (t) => {
    answer = async () => completion({ outcome: 'timeout' })
    const job = await queue.add('invoke', 'x', { attempts: 2, backoff: 60_000 })
    await until(async () => (await queue.getDelayedCount()) === 1)
    t.match(JSON.parse((await client.get(`${rig.prefix}:@call:f~${job.id}`)) ?? ''), {
      state: 'queued',
      outcome: 'timeout',
      attempt: 1,
    })
    t.equal(
      (await client.hget(`${rig.prefix}:@counts`, 'f')) ?? '0',
      String(2 + 1),
      'a call is counted once, when it finishes',
    )
    await job.remove()
  })

  t.test('an outcome that cannot change is not retried', async (t) => {
    answer = async () => completion({ outcome: 'too_large', message: 'the response is over its limit' })
    await t.rejects(rig.finished(await queue.add('invoke', 'x', { attempts: 3 })), { message: /^too_large/ })
    t.same(attempts, [1])
  })

  t.test('a thrown error fails the job without showing internals', async (t) => {
    answer = async () => {
      throw new TypeError('an internal detail')
    }
    await t.rejects(rig.finished(await queue.add('invoke', 'x')), { message: /^init_fail: internal error/ })
  })

  t.test('a job with an unknown backoff fails with the reason of its attempt', async (t) => {
    answer = async () => completion({ outcome: 'app_error', message: 'exit code 1' })
    await t.rejects(
      rig.finished(await queue.add('invoke', 'x', { attempts: 3, backoff: { type: 'lunar', delay: 5 } })),
      { message: 'app_error: exit code 1' },
    )
    t.same(attempts, [1])
  })
})

t.test('hostile jobs fail with a reason, and the dispatcher survives them', async (t) => {
  const rig = queueRig(t, redis)
  const ran: string[] = []
  await rig.dispatcher(['f'], {
    run: async (invocation) => {
      ran.push(invocation.callId)
      return await echo(invocation, { signal: new AbortController().signal })
    },
  })
  const queue = rig.queue('f')
  const requests: Array<[string, unknown]> = [
    ['not an object', ['x']],
    ['null', null],
    ['a string', 'GET /'],
    ['an invalid method', { method: 'GET / HTTP/1.1' }],
    ['a method that is not a string', { method: 7 }],
    ['a relative path', { path: 'etc/passwd' }],
    ['NUL in the path', { path: '/a\0b' }],
    ['headers that are not an object', { headers: [] }],
    ['a header that is not a string', { headers: { a: { b: 1 } } }],
    ['a header with NUL', { headers: { a: '\0' } }],
    ['a header name with a line break', { headers: { 'a\r\nb': 'x' } }],
    [
      'too many headers',
      { headers: Object.fromEntries(Array.from({ length: 101 }, (_, i) => [`h${i}`, 'x'])) },
    ],
    ['invalid base64', { bodyBase64: '%%%' }],
    ['two bodies', { body: 'a', bodyBase64: 'YQ==' }],
    ['a query of 17,000 characters', { query: 'x'.repeat(17_000) }],
  ]
  for (const [title, data] of requests) {
    t.test(title, async (t) => {
      await t.rejects(rig.finished(await queue.add('request', data, { attempts: 2 })), {
        message: /^init_fail: the job's data is not a request: ./,
      })
    })
  }

  /** Adds a job by hand, past BullMQ's checks. */
  const plant = async (id: string, fields: Record<string, string>): Promise<void> => {
    await client.hset(`${rig.prefix}:f:${id}`, {
      name: 'invoke',
      data: '"x"',
      opts: '{}',
      timestamp: '1',
      delay: '0',
      priority: '0',
      ...fields,
    })
    await client.lpush(`${rig.prefix}:f:wait`, id)
    await client.zadd(`${rig.prefix}:f:marker`, 0, '0')
  }
  const failedWith = async (id: string): Promise<string> => {
    await until(() => client.zscore(`${rig.prefix}:f:failed`, id))
    return (await client.hget(`${rig.prefix}:f:${id}`, 'failedReason')) ?? ''
  }

  t.test('data that is not JSON', async (t) => {
    await plant('bad-json', { data: '{"a":' })
    t.match(await failedWith('bad-json'), /^init_fail: the job cannot be read: /)
  })
  t.test('options that are not JSON', async (t) => {
    await plant('bad-opts', { opts: '][' })
    t.match(await failedWith('bad-opts'), /^init_fail: the job cannot be read: /)
  })
  t.test('__proto__ in data, headers and options pollutes nothing', async (t) => {
    await plant('proto', {
      name: 'request',
      data: '{"__proto__":{"polluted":1},"headers":{"__proto__":"x"},"constructor":{"prototype":{"polluted":1}}}',
      opts: '{"__proto__":{"polluted":1,"attempts":99}}',
    })
    await until(() => client.zscore(`${rig.prefix}:f:completed`, 'proto'))
    t.notOk('polluted' in {})
  })
  t.test('ids with separators, dots and NUL', async (t) => {
    const before = ran.length
    for (const id of ['a:b', '../../x', 'n\0l', '@functions']) {
      await plant(id, {})
      await until(() => client.zscore(`${rig.prefix}:f:completed`, id))
    }
    t.same(ran.slice(before), ['f~a_b', 'f~.._.._x', 'f~n_l', 'f~_functions'])
  })
  t.test('an id in the wait list that has no job', async () => {
    await client.lpush(`${rig.prefix}:f:wait`, 'ghost')
    await client.zadd(`${rig.prefix}:f:marker`, 0, '0')
    await until(
      async () =>
        (await client.llen(`${rig.prefix}:f:active`)) === 0 &&
        (await client.llen(`${rig.prefix}:f:wait`)) === 0,
    )
  })
  t.test('JSON nested 100,000 levels deep', async () => {
    await plant('deep', { data: `${'['.repeat(1e5)}${']'.repeat(1e5)}` })
    await until(
      async () =>
        (await client.zscore(`${rig.prefix}:f:failed`, 'deep')) ??
        (await client.zscore(`${rig.prefix}:f:completed`, 'deep')),
    )
  })
  t.test('a valid job still runs', async (t) => {
    t.match(await rig.finished(await queue.add('invoke', 'hello')), { body: 'hello' })
  })
})

t.test('BullMQ’s own features', async (t) => {
  t.test('delayed jobs wait, priorities sort, LIFO goes first', async (t) => {
    const rig = queueRig(t, redis)
    const queue = rig.queue('f')
    const order: string[] = []
    await queue.add('invoke', 'low', { priority: 9 })
    await queue.add('invoke', 'high', { priority: 1 })
    await queue.add('invoke', 'plain')
    await queue.add('invoke', 'last in', { lifo: true })
    let lateAtMs = 0
    await rig.dispatcher(['f'], {
      callsMax: 1,
      run: async ({ request }) => {
        order.push(Buffer.from(request.body).toString())
        if (order.at(-1) === 'late') lateAtMs = Date.now()
        return completion()
      },
    })
    await until(() => order.length === 4)
    t.same(order, ['last in', 'plain', 'high', 'low'])
    const late = await queue.add('invoke', 'late', { delay: 300 })
    await until(() => lateAtMs > 0)
    t.ok(lateAtMs - late.timestamp >= 300, 'not before it is due')
  })

  t.test('a paused queue waits until it is resumed', async (t) => {
    const rig = queueRig(t, redis)
    const queue = rig.queue('f')
    await queue.pause()
    let ran = 0
    await rig.dispatcher(['f', 'g'], {
      run: async () => {
        ran++
        return completion()
      },
    })
    const job = await queue.add('invoke', 'x')
    await rig.finished(await rig.queue('g').add('invoke', 'x')) // the dispatcher is running
    t.equal(ran, 1)
    await queue.resume()
    await rig.finished(job)
    t.equal(ran, 2)
  })

  t.test('global concurrency holds across two dispatchers, and all jobs finish', async (t) => {
    const rig = queueRig(t, redis)
    const queue = rig.queue('f')
    await queue.setGlobalConcurrency(2)
    let now = 0
    let most = 0
    let ended = 0
    const run = async () => {
      most = Math.max(most, ++now)
      await new Promise((resolve) => setTimeout(resolve, 5))
      now--
      ended++
      return completion()
    }
    // With one sweep in ten minutes, only the end of a call can start the next.
    const leaseTimes = { lockDurationMs: 15_000, stalledIntervalMs: 600_000 }
    await rig.dispatcher(['f'], { run, workerName: 'a', leaseTimes })
    await rig.dispatcher(['f'], { run, workerName: 'b', leaseTimes })
    await queue.addBulk(Array.from({ length: 30 }, () => ({ name: 'invoke', data: 'x' })))
    await until(() => ended === 30)
    t.equal(most, 2)
  })

  t.test('a global rate limit holds and does not stall the queue', async (t) => {
    const rig = queueRig(t, redis)
    const queue = rig.queue('f')
    await queue.setGlobalRateLimit(3, 300)
    const starts: number[] = []
    await rig.dispatcher(['f'], {
      run: async () => {
        starts.push(Date.now())
        return completion()
      },
    })
    const added = Date.now()
    await queue.addBulk(Array.from({ length: 9 }, () => ({ name: 'invoke', data: 'x' })))
    await until(() => starts.length === 9)
    t.ok(starts.at(-1)! - added >= 590, 'the third window begins after two full ones')
  })
})

t.test('slots and sharing', async (t) => {
  t.test('two dispatchers share the jobs and never exceed their slots', async (t) => {
    const rig = queueRig(t, redis)
    const most = { a: 0, b: 0 }
    const now = { a: 0, b: 0 }
    const done = { a: 0, b: 0 }
    const run = (name: 'a' | 'b') => async () => {
      most[name] = Math.max(most[name], ++now[name])
      await new Promise((resolve) => setTimeout(resolve, 3))
      now[name]--
      done[name]++
      return completion()
    }
    await rig.dispatcher(['f', 'g'], { callsMax: 3, run: run('a'), workerName: 'a' })
    await rig.dispatcher(['f', 'g'], { callsMax: 2, run: run('b'), workerName: 'b' })
    for (const name of ['f', 'g'])
      await rig.queue(name).addBulk(Array.from({ length: 50 }, () => ({ name: 'invoke', data: 'x' })))
    await until(() => done.a + done.b === 100)
    t.same([most.a, most.b], [3, 2])
    t.ok(done.a > 10 && done.b > 10, `both worked: ${done.a} and ${done.b}`)
  })

  t.test('a busy function does not starve another', async (t) => {
    const rig = queueRig(t, redis)
    const order: string[] = []
    await rig.queue('busy').addBulk(Array.from({ length: 60 }, () => ({ name: 'invoke', data: 'x' })))
    await rig.queue('quiet').addBulk(Array.from({ length: 3 }, () => ({ name: 'invoke', data: 'x' })))
    await rig.dispatcher(['busy', 'quiet'], {
      callsMax: 1,
      run: async (invocation) => {
        order.push(invocation.function)
        return completion()
      },
    })
    await until(() => order.length === 63)
    t.ok(order.lastIndexOf('quiet') < 10, `the last quiet call was number ${order.lastIndexOf('quiet')}`)
  })

  t.test('the number of connections does not depend on the number of functions', async (t) => {
    const rig = queueRig(t, redis)
    const count = async (): Promise<number> =>
      String(await client.client('LIST'))
        .split('\n')
        .filter((line) => line.includes('name=wherry-worker-many')).length
    const dispatcher = await rig.dispatcher(['f0'], { workerName: 'many' })
    await rig.finished(await rig.queue('f0').add('invoke', 'x'))
    const before = await count()
    dispatcher.watch(Array.from({ length: 300 }, (_, i) => `f${i}`))
    for (const i of [0, 7, 150, 299]) await rig.finished(await rig.queue(`f${i}`).add('invoke', 'x'))
    t.equal(before, 2)
    t.equal(await count(), before)
  })

  t.test('a function that is no longer watched is not served until it is watched again', async (t) => {
    const rig = queueRig(t, redis)
    const dispatcher = await rig.dispatcher(['f', 'g'])
    dispatcher.watch(['g'])
    const job = await rig.queue('f').add('invoke', 'x')
    await rig.finished(await rig.queue('g').add('invoke', 'x'))
    t.equal(await job.getState(), 'waiting')
    dispatcher.watch(['f', 'g'])
    await rig.finished(job)
  })

  t.test('a stopping dispatcher waits for running calls, and gives back those that do not end', async (t) => {
    const rig = queueRig(t, redis)
    const began = gate()
    const stopping = gate()
    const aborted: string[] = []
    const stuck = await rig.dispatcher(['f', 'g'], {
      workerName: 'a',
      run: async (invocation, { signal }) => {
        if (invocation.function === 'g') {
          await stopping.promise
          return completion({ body: 'a' })
        }
        began.resolve()
        await new Promise((_resolve, reject) =>
          signal.addEventListener('abort', () => {
            aborted.push(invocation.callId)
            reject(signal.reason)
          }),
        )
        return completion()
      },
    })
    const slow = await rig.queue('g').add('invoke', 'x')
    const job = await rig.queue('f').add('invoke', 'x')
    await began.promise
    const slowEnd = rig.finished(slow)
    await until(async () => (await slow.getState()) === 'active')
    const stopped = stuck.stop(2_000)
    stopping.resolve()
    await stopped
    t.match(await slowEnd, { body: 'a' })
    t.same(aborted, [`f~${job.id}`])
    t.equal(await job.getState(), 'waiting', 'given back at once, not after the lease')
    await stuck.stop(400)
    await rig.dispatcher(['f'], {
      workerName: 'b',
      run: async ({ attempt }) => completion({ body: `b, attempt ${attempt}` }),
    })
    t.match(await rig.finished(job), { body: 'b, attempt 2' })
  })

  t.test('a dispatcher that was never started can be stopped', async () => {
    const { createDispatcher } = await import('../../services/queue/dispatcher.ts')
    const { log } = await import('../helpers/queue-rig.ts')
    await createDispatcher({
      redisUrl: redis.url,
      prefix: '{x}',
      workerName: 'x',
      callsMax: 1,
      run: echo,
      log,
    }).stop(10)
  })
})
