// The worker's parts by themselves: the request as environment, volumes, and which faults of an attempt are
// outcomes.  Containers and registries are values here; test/root/ has the real ones.

import { existsSync, statSync } from 'node:fs'
import t, { type Test } from 'tap'
import { parseDeployment } from '../../services/contract/deployment.ts'
import { RegistryError, RuntimeFull, StartError } from '../../services/contract/errors.ts'
import type { Image } from '../../services/contract/image.ts'
import type { Invocation } from '../../services/contract/invocation.ts'
import { createLog } from '../../services/platform/log.ts'
import type { Contract } from '../../services/worker/contracts/contract.ts'
import { createHead, createTail } from '../../services/worker/contracts/output.ts'
import { requestEnvironment } from '../../services/worker/contracts/request-env.ts'
import { createExecute } from '../../services/worker/execute.ts'
import { createRunningCalls } from '../../services/worker/running.ts'
import { createVolumes } from '../../services/worker/volumes.ts'

const log = createLog({ name: 'test', level: 'silent' })
const DIGEST = `sha256:${'a'.repeat(64)}`

function invocation(headers: Record<string, string> = {}): Invocation {
  return {
    callId: 'c-1',
    function: 'f',
    attempt: 2,
    enqueuedAtMs: 1,
    request: { method: 'PUT', path: '/a', query: 'b=c', headers, body: Buffer.from('abc') },
  }
}

t.test('the request as environment', async (t) => {
  t.match(requestEnvironment(invocation({ 'x-forwarded-for': '::1', 'content-type': 'text/x' })), {
    Http_Method: 'PUT',
    Http_Path: '/a',
    Http_Query: 'b=c',
    Http_ContentLength: '3',
    Http_X_Forwarded_For: '::1',
    Http_Content_Type: 'text/x',
    WHERRY_CALL_ID: 'c-1',
    WHERRY_ATTEMPT: '2',
  })
  for (const name of ['proxy', 'Proxy', 'PROXY'])
    t.notOk('Http_Proxy' in requestEnvironment(invocation({ [name]: 'http://evil' })), `${name} sets nothing`)
  t.same(
    Object.keys(requestEnvironment(invocation({ 'a b': '1', 'a=b': '1', ä: '1', '': '1' }))).filter((name) =>
      /[^A-Za-z_]/.test(name),
    ),
    [],
    'a name that is no header name makes no variable',
  )
  t.equal(requestEnvironment(invocation({ a: 'x\0y' }))['Http_A'], 'xy')
  t.equal(requestEnvironment(invocation({ 'content-length': '99' }))['Http_Content_Length'], '3')
})

t.test('a response of exactly the limit is whole, one byte more is an overflow', async (t) => {
  let overflows = 0
  const head = createHead(8, () => overflows++)
  head.keep(Buffer.from('12345'))
  head.keep(Buffer.from('678'))
  t.equal(head.bytes().toString(), '12345678')
  t.equal(head.overflowed(), false)
  head.keep(Buffer.from('9'))
  head.keep(Buffer.from('0'))
  t.equal(head.bytes().toString(), '12345678')
  t.equal(overflows, 1, 'told once')
  const tail = createTail(4)
  for (const chunk of ['ab', 'cdefg', 'h']) tail.keep(Buffer.from(chunk))
  t.equal(tail.text(), 'efgh')
  t.equal(tail.truncated(), true)
})

t.test('volumes', async (t) => {
  const directory = `${t.testdir()}/volumes`
  const volumes = createVolumes({ directory })
  t.equal(statSync(directory).mode & 0o777, 0o700, 'only root reaches into them')
  const user = { uid: process.getuid!(), gid: process.getgid!(), additionalGids: [] }
  const paths = volumes.paths([{ name: 'v', target: '/v', readonly: false }], user)
  t.same([...paths], [['v', `${directory}/v`]])
  t.ok(existsSync(`${directory}/v`))
  t.same(
    [...createVolumes({ directory }).paths([{ name: 'v', target: '/w', readonly: true }], user)],
    [...paths],
  )
})

const image = {
  digest: DIGEST,
  layers: [],
  config: { entrypoint: [], cmd: ['/bin/cat'], env: [], user: '', workingDir: '' },
} as unknown as Image

function setup(t: Test, contract: Contract, ensure = async () => ({ image, pulled: false })) {
  const retained: string[] = []
  const spec = parseDeployment({ service: 'f', image: 'busybox' })
  const running = createRunningCalls()
  const execute = createExecute({
    find: (name) =>
      name === 'f' ? { spec, imageDigest: DIGEST, createdAtMs: 1, updatedAtMs: 1 } : undefined,
    puller: {
      ensure,
      retain: (digest: string) => retained.push(digest),
      release: (digest: string) => retained.splice(retained.indexOf(digest), 1),
    } as never,
    images: { pulled: () => {} },
    contracts: { stdio: contract },
    volumes: createVolumes({ directory: `${t.testdir()}/volumes` }),
    metrics: { containerStarted: () => {} },
    running,
    log,
  })
  return { execute, retained, running }
}

const failing = (error: Error): Contract => ({
  start: async () => ({
    async call() {
      throw error
    },
    async stop() {},
  }),
})

t.test('an attempt', async (t) => {
  const { signal } = new AbortController()
  await t.test('gives the completion of its instance, which is stopped', async (t) => {
    let stops = 0
    const { execute, retained, running } = setup(t, {
      start: async ({ container }) => ({
        async call(_invocation, _signal, onStarted) {
          onStarted(7)
          t.match(running.list(), [{ callId: 'c-1', pid: 7 }])
          t.notOk(
            container.process.env.some((entry) => entry.startsWith('Http_')),
            'the request is not part of the container’s spec',
          )
          return { outcome: 'ok', phases: { pull: 0, create: 1, init: 0, run: 2 } }
        },
        async stop() {
          stops++
        },
      }),
    })
    t.match(await execute(invocation(), { signal }), { outcome: 'ok', phases: { create: 1, run: 2 } })
    t.equal(stops, 1)
    t.same(retained, [])
    t.same(running.list(), [])
  })
  await t.test('a runtime without a slot is no_capacity, not the function’s fault', async (t) => {
    const { execute, retained } = setup(t, failing(new RuntimeFull('full')))
    t.match(await execute(invocation(), { signal }), { outcome: 'no_capacity', message: 'full' })
    t.same(retained, [])
  })
  await t.test('a container that cannot start is init_fail', async (t) => {
    const { execute } = setup(t, failing(new StartError('no such command', 'ERR_COMMAND_NOT_FOUND')))
    t.match(await execute(invocation(), { signal }), { outcome: 'init_fail', message: 'no such command' })
  })
  await t.test('a bug is thrown, whatever its class', async (t) => {
    for (const bug of [new RangeError('length'), new TypeError('x'), new Error('y')]) {
      const { execute, retained, running } = setup(t, failing(bug))
      await t.rejects(execute(invocation(), { signal }), bug)
      t.same([retained, running.list()], [[], []])
    }
  })
  await t.test('an image that cannot be pulled is pull_fail', async (t) => {
    const refused = new RegistryError('no such tag', { registryCode: 'MANIFEST_UNKNOWN', retryable: false })
    const { execute, retained } = setup(t, failing(new Error('not reached')), () => Promise.reject(refused))
    t.match(await execute(invocation(), { signal }), { outcome: 'pull_fail', message: 'no such tag' })
    t.same(retained, [])
  })
  await t.test('a call cancelled during its pull never runs', async (t) => {
    const caller = new AbortController()
    const { execute, retained } = setup(t, failing(new Error('it ran')), async () => {
      caller.abort()
      return { image, pulled: true }
    })
    t.match(await execute(invocation(), { signal: caller.signal }), { outcome: 'cancelled' })
    t.same(retained, [])
  })
  await t.test('a function that is gone is cancelled', async (t) => {
    const { execute } = setup(t, failing(new Error('it ran')))
    t.match(await execute({ ...invocation(), function: 'g' }, { signal }), { outcome: 'cancelled' })
  })
})
