// The gateway's control plane and its endpoints for operators, over HTTP with a real Redis.

import { once } from 'node:events'
import { request } from 'node:http'
import t from 'tap'
import { startGateway } from '../../services/gateway/gateway.ts'
import { createHeartbeat } from '../../services/queue/heartbeat.ts'
import { configFor, DIGEST, httpClient, log, startTestGateway } from '../helpers/gateway.ts'
import { startRedis } from '../helpers/redis.ts'

const redis = await startRedis()
t.teardown(() => redis.close())
const client = redis.client()

t.test('functions', async (t) => {
  const { send, deploy, prefix } = await startTestGateway(t, redis.url)
  const kept = {
    image: 'busybox',
    command: ['/bin/sh', '-c'],
    args: ['cat'],
    envVars: { A: 'b' },
    limits: { memory: '64Mi', cpu: '500m', pids: 9 },
    timeout: '90s',
    volumes: [{ name: 'cache', target: '/cache' }],
    user: '1000:1000',
    workingDir: '/w',
    labels: { a: 'b' },
  }
  const spec = { service: 'resize', namespace: 'openfaas-fn', network: '', ...kept }

  await t.test('PUT of an unknown function is 404, as faas-cli expects', async (t) => {
    const reply = await send('PUT', '/system/functions', { body: JSON.stringify(spec) })
    t.match(reply, { status: 404, text: /ERR_FUNCTION_NOT_FOUND/ })
  })
  await t.test('POST resolves the image, stores the function, and returns it', async (t) => {
    const reply = await send('POST', '/system/functions', {
      body: JSON.stringify(spec),
      headers: { 'content-type': 'text/plain' },
    })
    t.equal(reply.status, 202)
    t.match(JSON.parse(reply.text), {
      name: 'resize',
      image: 'busybox',
      imageDigest: DIGEST,
      timeout: '1m30s',
      limits: { memory: '64Mi', cpu: '0.5', pids: 9 },
    })
  })
  await t.test('GET lists it in OpenFaaS’s shape, with the values as deployed', async (t) => {
    const reply = await send('GET', '/system/functions')
    const [status] = JSON.parse(reply.text)
    t.match(status, {
      ...kept,
      limits: { memory: '64Mi', cpu: '0.5', pids: 9 },
      timeout: '1m30s',
      name: 'resize',
      namespace: 'openfaas-fn',
      replicas: 0,
      availableReplicas: 0,
      invocationCount: 0,
      createdAt: /^\d{4}-.*Z$/,
      queue: { waiting: 0, active: 0, delayed: 0 },
    })
    t.same(JSON.parse((await send('GET', '/system/function/resize')).text), status)
    t.match(await send('GET', '/system/function/nope'), { status: 404, text: /ERR_FUNCTION_NOT_FOUND/ })
    t.match(JSON.parse((await send('GET', '/system/function/resize?tag=now')).text), {
      tagDigest: DIGEST,
      tagMoved: false,
    })
    t.same(JSON.parse((await send('GET', '/system/function/resize/pulls')).text), {
      imageDigest: DIGEST,
      workers: [],
    })
    t.match(await send('GET', '/system/function/nope/pulls'), { status: 404, text: /ERR_FUNCTION_NOT_FOUND/ })
  })
  await t.test('PUT and POST replace it and keep its creation time', async (t) => {
    const before = JSON.parse((await send('GET', '/system/function/resize')).text)
    const put = await send('PUT', '/system/functions', {
      body: JSON.stringify({ service: 'resize', image: `busybox@sha256:${'b'.repeat(64)}` }),
    })
    t.equal(put.status, 200)
    t.match(JSON.parse(put.text), {
      imageDigest: `sha256:${'b'.repeat(64)}`,
      createdAt: before.createdAt,
      envVars: {},
    })
    await deploy(t, 'resize')
    t.match(JSON.parse((await send('GET', '/system/function/resize')).text), {
      imageDigest: DIGEST,
      createdAt: before.createdAt,
    })
  })
  await t.test('DELETE removes it, in both forms; a second DELETE is 404', async (t) => {
    t.equal((await send('DELETE', '/system/functions', { body: '{"functionName":"resize"}' })).status, 202)
    t.equal((await send('DELETE', '/system/functions', { body: '{"functionName":"resize"}' })).status, 404)
    await deploy(t, 'resize')
    t.equal((await send('DELETE', '/system/functions/resize')).status, 202)
    t.same(JSON.parse((await send('GET', '/system/functions')).text), [])
    t.match(await send('DELETE', '/system/functions', { body: '{}' }), { status: 400, text: /functionName/ })
  })
  await t.test('all faults are reported at once, field by field, and nothing is stored', async (t) => {
    const bad = {
      image: 'UPPER:case:tag',
      limits: { memory: '1Mi', cpu: -1, disk: 1 },
      timeout: 'soon',
      envvars: {},
      volumes: [{ name: 'a', target: 'b' }],
    }
    const reply = await send('POST', '/system/functions', { body: JSON.stringify(bad) })
    t.equal(reply.status, 400)
    const { error } = JSON.parse(reply.text)
    t.equal(error.code, 'ERR_INVALID_REQUEST')
    const paths = error.faults.map((f: { path: string }) => f.path).sort()
    t.same(paths, [
      'envvars',
      'image',
      'limits.cpu',
      'limits.disk',
      'limits.memory',
      'service',
      'timeout',
      'volumes[0].target',
    ])
    t.match(await send('POST', '/system/functions', { body: '{"service":"a","image":"A B"}' }), {
      status: 400,
      text: /ERR_INVALID_REFERENCE/,
    })
    t.same(await client.keys(`${prefix}:*`), [])
  })
  await t.test('a body that is not a function is 400 with the reason', async (t) => {
    for (const [body, reason] of [
      ['', /empty/],
      ['{"service":', /not JSON/],
      ['[]', /JSON object/],
      ['null', /JSON object/],
      ['['.repeat(100_000), /nested deeper/],
      ['{"service":"a","image":"b","__proto__":{"x":1}}', /__proto__/],
    ] as const) {
      t.match(
        await send('POST', '/system/functions', { body }),
        { status: 400, text: reason },
        body.slice(0, 20),
      )
    }
    t.match(
      await send('POST', '/system/functions', { body: '{}', headers: { 'content-encoding': 'gzip' } }),
      { status: 415 },
    )
    t.match(await send('POST', '/system/functions', { body: `"${'x'.repeat(1024 ** 2)}"` }), {
      status: 413,
      text: /ERR_TOO_LARGE/,
    })
    t.equal((await send('GET', '/healthz')).status, 200, 'the gateway is healthy')
  })
  await t.test(
    'an image unknown to its registry is 502 with the registry’s code, and nothing is stored',
    async (t) => {
      const reply = await send('POST', '/system/functions', {
        body: '{"service":"a","image":"localhost:5000/missing"}',
      })
      t.match(JSON.parse(reply.text), { error: { code: 'ERR_REGISTRY', registryCode: 'MANIFEST_UNKNOWN' } })
      t.equal(reply.status, 502)
      t.match(await send('GET', '/system/function/a'), { status: 404 })
    },
  )
  await t.test('a registry that is down is 502 UNREACHABLE', async (t) => {
    const gateway = await startGateway(configFor(redis.url, '{down}'), log)
    t.teardown(() => gateway.stop())
    const reply = await httpClient(gateway.url).send('POST', '/system/functions', {
      body: '{"service":"a","image":"127.0.0.1:1/x"}',
    })
    t.match(reply, { status: 502, text: /"registryCode":"UNREACHABLE"/ })
  })
  await t.test('a web page of another origin changes nothing', async (t) => {
    const body = '{"service":"a","image":"b"}'
    t.match(await send('POST', '/system/functions', { body, headers: { origin: 'http://evil.example' } }), {
      status: 403,
      text: /ERR_FOREIGN_ORIGIN/,
    })
    t.match(await send('POST', '/system/functions', { body, headers: { origin: 'null' } }), { status: 403 })
    t.match(
      await send('POST', '/system/functions', {
        body,
        headers: { origin: 'http://me.example', host: 'me.example' },
      }),
      { status: 202 },
    )
  })
})

t.test('endpoints for operators', async (t) => {
  const { send, deploy, prefix, url } = await startTestGateway(t, redis.url, { functions: ['echo'] })

  await t.test('/healthz counts live workers', async (t) => {
    t.same(JSON.parse((await send('GET', '/healthz')).text), { status: 'ok', workers: 0, functions: 1 })
    const worker = {
      name: 'w',
      pid: 1,
      host: 'h',
      url: 'http://127.0.0.1:1',
      slots: 4,
      startedAtMs: 1,
      running: [],
    }
    const heartbeat = createHeartbeat({ redis: client, prefix, read: () => worker, log })
    await heartbeat.start()
    t.teardown(() => heartbeat.stop())
    while (JSON.parse((await send('GET', '/healthz')).text).workers !== 1);
    t.same(JSON.parse((await send('GET', '/system/workers')).text), [worker])
    t.match(JSON.parse((await send('GET', '/system/function/echo')).text), {
      replicas: 1,
      availableReplicas: 1,
    })
  })
  await t.test('/system/info has OpenFaaS’s shape', async (t) => {
    t.match(JSON.parse((await send('GET', '/system/info')).text), {
      provider: { provider: 'wherry', version: { release: /^\d+\.\d+\.\d+$/ } },
      arch: String,
    })
  })
  await t.test('/system/logs has the stderr of calls, line by line', async (t) => {
    const { headers } = await send('POST', '/function/echo/log')
    const reply = await send('GET', '/system/logs?name=echo&tail=10')
    t.match(reply.headers, { 'content-type': 'application/x-ndjson' })
    t.match(
      reply.text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line)),
      [{ name: 'echo', namespace: '', instance: headers['x-call-id'], timestamp: /Z$/, text: 'a line' }],
    )
    t.match(await send('GET', '/system/logs?name=nope'), { status: 404 })
    const wrong = JSON.parse((await send('GET', '/system/logs?tail=many&since=x&follow=perhaps')).text)
    t.same(
      wrong.error.faults.map((f: { path: string }) => f.path),
      ['name', 'tail', 'since', 'follow'],
    )
  })
  await t.test('/system/logs?follow=true sends lines as they arrive', async (t) => {
    const quiet = request(new URL('/system/logs?name=echo&follow=true&since=2100-01-01T00:00:00Z', url), {
      agent: false,
    })
    quiet.end()
    const [silent] = await once(quiet, 'response')
    t.equal(silent.statusCode, 200, 'the headers do not wait for a line')
    const live = request(new URL('/system/logs?name=echo&follow=true', url), { agent: false })
    live.end()
    const [response] = await once(live, 'response')
    const called = send('POST', '/function/echo/log')
    let text = ''
    for await (const chunk of response) {
      text += String(chunk)
      if (text.includes((await called).headers['x-call-id'] as string)) break
    }
    t.match(text, /a line/)
    quiet.destroy()
    live.destroy()
  })
  await t.test('/metrics is Prometheus text without series for names that callers invent', async (t) => {
    await deploy(t, 'idle')
    await send('POST', '/function/echo')
    await send('POST', '/function/made-up-name')
    await send('GET', '/made/up/path')
    const reply = await send('GET', '/metrics')
    t.match(reply.headers['content-type'], /^text\/plain; version=0\.0\.4/)
    for (const line of reply.text.trim().split('\n'))
      t.match(line, /^(?:# (?:HELP|TYPE|UNIT) \w+ .+|\w+(?:\{(?:\w+="[^"\n]*",?)*\})? [-+\d.eEInfNa]+)$/)
    t.match(reply.text, /^wherry_calls_total\{function="echo",outcome="ok"\} [1-9]/m)
    t.match(reply.text, /^wherry_call_duration_seconds_bucket\{function="echo",le="0\.001"\} /m)
    t.match(reply.text, /^wherry_queue_depth\{function="idle",state="waiting"\} 0$/m)
    t.match(reply.text, /^wherry_http_requests_total\{route="unknown",code="404"\} /m)
    t.notMatch(reply.text, /made.up/)
  })
  await t.test('unknown paths are 404, wrong methods 405 with Allow', async (t) => {
    t.match(await send('GET', '/nothing'), { status: 404, text: /ERR_NOT_FOUND/ })
    t.match(await send('POST', '/healthz'), {
      status: 405,
      text: /ERR_METHOD_NOT_ALLOWED/,
      headers: { allow: /GET/ },
    })
    t.match(await send('PATCH', '/system/functions'), { status: 405, headers: { allow: /POST/ } })
  })
})
