// What one function could do to the next in its slot, to its neighbours, to the worker and to the host, by
// means that neither namespaces nor cgroups cover.

import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { sweepDead } from '../../services/runtime/janitor.ts'
import { needsRoot, NATIVE_DIR, rigFor, SLOWNESS } from '../helpers/container.ts'

const MIB = 1 << 20
const withMemory =
  (limit: number) =>
  (spec: RuntimeSpec): RuntimeSpec => ({
    ...spec,
    linux: { ...spec.linux, resources: { ...spec.linux.resources, memory: { limit } } },
  })

t.test('the next container in the same slot', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t, 1)
  t.equal((await rig.run(['leave-connection', '8080'])).text, 'ok\n')
  t.test('does not see connections of the previous one', async (t) => {
    t.notMatch((await rig.run(['read', '/proc/net/tcp'])).text, /:1F90 /, 'port 8080 in TIME_WAIT')
  })
  t.test('does not see how much the previous one sent', async (t) => {
    t.match((await rig.run(['read', '/proc/net/dev'])).text, /^ +lo: +0 +0 /m)
  })
  t.test('can have every port', async (t) => {
    t.equal((await rig.run(['bind', '8080'])).text, 'ok\n')
  })
})

t.test('the network', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test('is lo, which is up and works', async (t) => {
    const devices = (await rig.run(['read', '/proc/net/dev'])).text
      .split('\n')
      .flatMap((line) => /^ *(\w+):/.exec(line)?.[1] ?? [])
    t.same(devices, ['lo'])
    t.equal((await rig.run(['leave-connection', '8080'])).text, 'ok\n')
  })
  t.test('reaches nothing else: not the host, not a cloud’s metadata, not other machines', async (t) => {
    const server = createServer((socket) => socket.end())
    await new Promise<void>((resolve) => {
      server.listen(0, resolve)
    })
    t.teardown(
      () =>
        new Promise((resolve) => {
          server.close(resolve)
        }),
    )
    const port = String((server.address() as AddressInfo).port)
    t.equal((await rig.run(['connect', '127.0.0.1', port])).text, 'ECONNREFUSED\n')
    for (const host of ['169.254.169.254', '10.0.0.1', '192.0.2.1']) {
      t.equal((await rig.run(['connect', host, '80'])).text, 'ENETUNREACH\n', host)
      t.equal((await rig.run(['send', host, '53'])).text, 'ENETUNREACH\n', host)
    }
  })
})

t.test('two containers at once', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t, 2)
  t.test(
    'share no abstract socket (CVE-2020-15257), no port, no message queue and no shared memory',
    async (t) => {
      const held = rig.hold(['offer', 'shop', '8080', '4711', '60000'])
      t.equal(await held.firstWords, 'ok\n')
      t.equal(
        (await rig.run(['find', 'shop', '8080', '4711'])).text,
        'ECONNREFUSED\nECONNREFUSED\nENOENT\nENOENT\n',
      )
      t.equal((await rig.run(['read', '/proc/sysvipc/shm'])).text.trim().split('\n').length, 1, 'the heading')
      await held.kill()
    },
  )
  t.test('have their own host names', async (t) => {
    const named =
      (hostname: string) =>
      (spec: RuntimeSpec): RuntimeSpec => ({ ...spec, hostname })
    const held = rig.hold(['sleep', '60000'], named('first'))
    t.equal((await rig.run(['read', '/proc/sys/kernel/hostname'], named('second'))).text, 'second\n')
    await held.kill()
  })
  t.test('do not see each other’s access to devices', async (t) => {
    for (const path of ['/dev', '/dev/urandom']) {
      const held = rig.hold(['watch', path])
      t.equal(await held.firstWords, 'watching\n')
      t.equal((await rig.run(['open', '/dev/urandom'])).text, 'ok\n')
      t.match(await held.finish(), { text: 'nothing\n' }, path)
    }
  })
  t.test(
    'one sees its own access to a device, so the absence of an event in the other is meaningful',
    async (t) => {
      const held = rig.hold(['watch', '/dev/urandom'])
      await held.firstWords
      closeSync(openSync(`/proc/${held.container.pid}/root/dev/urandom`, 'r'))
      t.match(await held.finish(), { text: 'touched\n' })
    },
  )
})

t.test('memory', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test('memory of connections counts as memory of the container', async (t) => {
    const { text, outcome } = await rig.run(['fill-sockets', '40'], withMemory(24 * MIB), {
      timeoutMs: 120_000 * SLOWNESS,
    })
    t.ok(outcome === 'oom' || Number(text) <= 48 * MIB, `${outcome}, ${text.trim()} bytes`)
  })
  t.test('a response byte by byte costs the worker no more than one at once', async (t) => {
    const before = process.memoryUsage.rss()
    const count = 200_000 / SLOWNESS // each is a switch between two processes
    const { response } = await rig.run(['drip', String(count)], undefined, { timeoutMs: 120_000 * SLOWNESS })
    t.equal(response.length, count)
    t.ok(
      process.memoryUsage.rss() - before < 64 * MIB,
      `${(process.memoryUsage.rss() - before) / MIB} MiB more`,
    )
  })
})

t.test('blocking the worker', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test('a program that fills its own stdin is an ordinary call', async (t) => {
    for (let i = 0; i < 5; i++)
      await t.resolves(rig.run(['block-stdin'], undefined, { body: 'x'.repeat(65_536), timeoutMs: 60_000 }))
    t.equal(rig.runtime.running, 0)
  })
  t.test(
    'a command with a lease on it fails, instead of blocking the worker until the lease breaks',
    async (t) => {
      const source = join(rig.data, 'volume')
      mkdirSync(source)
      chmodSync(source, 0o777)
      copyFileSync(join(NATIVE_DIR, 'probe'), join(source, 'run'))
      chmodSync(join(source, 'run'), 0o755)
      const withVolume = (spec: RuntimeSpec): RuntimeSpec => ({
        ...spec,
        mounts: [...spec.mounts, { destination: '/v', type: 'bind', source, options: ['nosuid', 'nodev'] }],
      })
      const holder = rig.hold(['lease', '/v/run', '8000'], withVolume)
      t.equal(await holder.firstWords, 'held\n')
      await t.rejects(
        rig.run([], (spec) => ({
          ...withVolume(spec),
          process: { ...spec.process, args: ['/v/run', 'echo'] },
        })),
        { message: /too long|ETIMEDOUT/ },
      )
      await holder.kill()
    },
  )
})

t.test('a truncated register does not prevent the next worker from starting', async (t) => {
  const run = mkdtempSync(join(tmpdir(), 'wherry-test-'))
  t.teardown(() => rmSync(run, { recursive: true, force: true }))
  mkdirSync(join(run, 'wherry-4194303-1'))
  writeFileSync(join(run, 'wherry-4194303-1', 'cgroups.json'), '["/sys/fs/cg')
  await t.resolves(sweepDead(run))
})
