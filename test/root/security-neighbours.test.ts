// What one function could do to the next in its place, to those beside it, to the worker and to the
// host, by means that no namespace and no cgroup takes care of.

import { once } from 'node:events'
import { chmodSync, closeSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { parseDeployment } from '../../services/contract/function-spec.ts'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { sweepDead } from '../../services/runtime/janitor.ts'
import { buildSpec } from '../../services/runtime/spec.ts'
import { needsRoot, NATIVE_DIR, probeSpec, rigFor } from '../helpers/container.ts'

const MIB = 1 << 20
const withMemory = (limit: number) => (spec: RuntimeSpec): RuntimeSpec => ({ ...spec, linux: { ...spec.linux, resources: { ...spec.linux.resources, memory: { limit } } } })

t.test('the next container in the same place', { skip: needsRoot }, async t => {
  const rig = await rigFor(t, 1)
  t.equal((await rig.run(['leave-connection', '8080'])).text, 'ok\n')
  t.test('does not see connections of the one before', async t => {
    t.notMatch((await rig.run(['read', '/proc/net/tcp'])).text, /:1F90 /, 'port 8080 in TIME_WAIT')
  })
  t.test('does not see how much the one before sent', async t => {
    t.match((await rig.run(['read', '/proc/net/dev'])).text, /^ +lo: +0 +0 /m)
  })
  t.test('can have every port', async t => {
    t.equal((await rig.run(['bind', '8080'])).text, 'ok\n')
  })
})

t.test('system calls whose reach is the whole host', { skip: needsRoot }, async t => {
  const rig = await rigFor(t)
  t.test('socket families stay refused whatever the upper half of the argument says', async t => {
    t.equal((await rig.run(['try', 'af-alg-wide', 'af-vsock-wide'])).text, 'af-alg-wide EPERM\naf-vsock-wide EPERM\n')
  })
  t.test('of netlink there is routing only: events of the host’s devices come through another', async t => {
    t.equal((await rig.run(['try', 'netlink-route', 'netlink-uevent', 'netlink-generic'])).text, 'netlink-route ok\nnetlink-uevent EPERM\nnetlink-generic EPERM\n')
  })
  t.test('no kernel AIO: fs.aio-max-nr is one number for the whole host', async t => {
    t.equal((await rig.run(['try', 'aio'])).text, 'aio EPERM\n')
  })
  t.test('a container cannot outlive its worker by clearing the signal for it', async t => {
    t.equal((await rig.run(['try', 'clear-parent-death'])).text, 'clear-parent-death EPERM\n')
  })
  t.test('core dumps go to nobody, not even to a program (RLIMIT_CORE 1, core(5))', async t => {
    const image = { digest: '', layers: [], config: { os: 'linux', architecture: '', env: [], entrypoint: ['/x'], cmd: [], user: '', workingDir: '', diffIds: [] } }
    const { process } = buildSpec({ image, function: parseDeployment({ service: 'f', image: 'x' }), user: { uid: 0, gid: 0, additionalGids: [] }, volumePaths: new Map(), env: {} })
    t.match(process.rlimits.find(limit => limit.type === 'RLIMIT_CORE'), { soft: 1, hard: 1 })
    for (const type of ['RLIMIT_SIGPENDING', 'RLIMIT_MSGQUEUE']) t.ok(process.rlimits.some(limit => limit.type === type), `${type} is counted for the host's root as well`)
  })
})

t.test('memory', { skip: needsRoot }, async t => {
  const rig = await rigFor(t)
  t.test('what connections hold counts as memory of the container', async t => {
    const { text, outcome } = await rig.run(['fill-sockets', '40'], withMemory(24 * MIB), { timeoutMs: 30_000 })
    t.ok(outcome === 'oom' || Number(text) <= 48 * MIB, `${outcome}, ${text.trim()} bytes`)
  })
  t.test('a response that comes byte by byte costs the worker what one at once does', async t => {
    const before = process.memoryUsage.rss()
    const { response } = await rig.run(['drip', '200000'], undefined, { timeoutMs: 30_000 })
    t.equal(response.length, 200_000)
    t.ok(process.memoryUsage.rss() - before < 16 * MIB, `${(process.memoryUsage.rss() - before) / MIB} MiB more`)
  })
})

t.test('standing in the worker’s way', { skip: needsRoot }, async t => {
  const rig = await rigFor(t)
  t.test('a program that fills its own stdin is a call like any other', async t => {
    for (let i = 0; i < 5; i++) await t.resolves(rig.run(['block-stdin'], undefined, { body: 'x'.repeat(65_536), timeoutMs: 5_000 }))
    t.equal(rig.runtime.running, 0)
  })
  t.test('a command that somebody else has leased fails, instead of holding the worker until the lease breaks', async t => {
    const source = join(rig.data, 'volume')
    mkdirSync(source)
    chmodSync(source, 0o777)
    copyFileSync(join(NATIVE_DIR, 'probe'), join(source, 'run'))
    chmodSync(join(source, 'run'), 0o755)
    const withVolume = (spec: RuntimeSpec): RuntimeSpec => ({ ...spec, mounts: [...spec.mounts, { destination: '/v', type: 'bind', source, options: ['nosuid', 'nodev'] }] })
    const holder = rig.runtime.start(withVolume(probeSpec([rig.probeLayer], ['lease', '/v/run', '8000'])))
    const [stdout, stderr] = [holder.stdout, holder.stderr].map(fd => new Socket({ fd, readable: true, writable: false }).on('error', () => {}))
    stdout!.resume()
    closeSync(holder.stdin)
    t.equal(String((await once(stderr!, 'data'))[0]), 'held\n')
    await t.rejects(rig.run([], spec => ({ ...withVolume(spec), process: { ...spec.process, args: ['/v/run', 'echo'] } })), { message: /too long|ETIMEDOUT/ })
    holder.kill()
    await holder.exited
  })
})

t.test('a register that was cut while it was written does not keep the next worker from starting', async t => {
  const run = mkdtempSync(join(tmpdir(), 'wherry-test-'))
  t.teardown(() => rmSync(run, { recursive: true, force: true }))
  mkdirSync(join(run, 'wherry-4194303-1'))
  writeFileSync(join(run, 'wherry-4194303-1', 'cgroups.json'), '["/sys/fs/cg')
  await t.resolves(sweepDead(run))
})
