// Everything that one function can exhaust, in all forms that the kernel counts; and the end of a container
// ends all of its processes.

import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import t from 'tap'
import type { SyscallError } from '../../services/contract/errors.ts'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import {
  needsRoot,
  pidNamespaceOf,
  probeSpec,
  processesIn,
  rigFor,
  SLOWNESS,
  runOnce,
} from '../helpers/container.ts'

const MIB = 1 << 20
type Change = (spec: RuntimeSpec) => RuntimeSpec
const withPids =
  (limit: number): Change =>
  (spec) => ({ ...spec, linux: { ...spec.linux, resources: { ...spec.linux.resources, pids: { limit } } } })
const withRlimit =
  (type: string, value: number): Change =>
  (spec) => ({
    ...spec,
    process: { ...spec.process, rlimits: [...spec.process.rlimits, { type, soft: value, hard: value }] },
  })

t.test('memory', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  for (const kind of ['memory', 'shared', 'memfd', 'pipes', 'sockets']) {
    t.test(`as ${kind} it is the container’s own, and too much of it ends only that container`, async (t) => {
      const neighbour = rig.hold(['sleep', '60000'])
      const before = process.memoryUsage.rss()
      const { outcome, exit } = await rig.run(['hoard', kind], undefined, { timeoutMs: 30_000 * SLOWNESS })
      t.equal(outcome, 'oom')
      t.ok(exit.usage.memoryPeakBytes <= 34 * MIB, `${exit.usage.memoryPeakBytes} bytes at most`)
      t.ok(process.memoryUsage.rss() - before < 20 * MIB)
      t.ok(processesIn(neighbour.pidNamespace).length > 0)
      await neighbour.kill()
    })
  }
  t.test(
    'of a start that resolves endless folders ends the call and not the worker whose memory it shares',
    async (t) => {
      const deep = (i: number) =>
        ({
          destination: `/${i}${'/d'.repeat(1900)}`,
          type: 'bind',
          source: rig.layer(),
          options: [],
        }) as const
      const change: Change = (spec) => ({
        ...spec,
        root: { ...spec.root, scratchInodes: 100_000 },
        mounts: [...spec.mounts, ...Array.from({ length: 6 }, (_, i) => deep(i))],
        linux: { ...spec.linux, resources: { ...spec.linux.resources, memory: { limit: MIB } } },
      })
      // Twenty MiB of folders; on a slow machine the start times out before all of them are resolved.
      const end = await rig.run(['sleep', '60000'], change, { timeoutMs: 30_000 * SLOWNESS }).then(
        ({ outcome }) => outcome,
        (err: SyscallError) => err.code,
      )
      t.match(end, /^(?:oom|ETIMEDOUT)$/)
      t.match(await rig.run(['echo', 'x']), { outcome: 'ok' })
    },
  )
  t.test('of the host: functions are the first that the kernel kills, and cannot change that', async (t) => {
    // Set after the start of the program: children forked before die with it, whatever their score.
    t.equal((await rig.run(['then', 'read', '/proc/self/oom_score_adj'])).text, '1000\n')
    t.not(readFileSync('/proc/self/oom_score_adj', 'utf8'), '1000\n', 'the worker’s stays what it is')
    const mayLower =
      ((BigInt(`0x${/^CapEff:\t(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]}`) >> 24n) &
        1n) ===
      1n
    if (mayLower)
      t.equal((await rig.run(['then', 'write', '/proc/self/oom_score_adj', '0'])).text, 'EACCES\n')
    else
      t.comment(
        'without CAP_SYS_RESOURCE the kernel lets a function go back to its worker’s score (proc_pid_oom_score_adj(5))',
      )
  })
})

t.test('what the kernel counts per user', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test('inotify: one container has 8 instances, and does not reduce the next one’s', async (t) => {
    for (let i = 0; i < 3; i++) t.equal((await rig.run(['count', 'inotify', '500'])).text, '8 EMFILE\n')
    t.equal((await rig.run(['read', '/proc/sys/user/max_inotify_watches'])).text, '8192\n')
  })
  t.test('POSIX message queues end at the limit', async (t) => {
    const [made, why] = (
      await rig.run(['count', 'queues', '300'], withRlimit('RLIMIT_MSGQUEUE', 65_536))
    ).text
      .trim()
      .split(' ')
    t.equal(why, 'EMFILE')
    t.ok(Number(made) > 5 && Number(made) < 64, `${made} queues in 64 KiB`)
  })
  t.test('queued signals and timers end at the limit', async (t) => {
    for (const kind of ['signals', 'timers']) {
      const [made, why] = (await rig.run(['count', kind, '2000'], withRlimit('RLIMIT_SIGPENDING', 100))).text
        .trim()
        .split(' ')
      t.equal(why, 'EAGAIN', kind)
      t.ok(Number(made) <= 100, `${made} ${kind}`)
    }
  })
})

t.test('a fork bomb', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test(
    'stops at its limit of processes, lets its neighbours run, and is gone at the deadline',
    async (t) => {
      const bomb = rig.hold(['fork-bomb'], withPids(64))
      const namespace = bomb.pidNamespace
      while (processesIn(namespace).length < 64) await new Promise(setImmediate)
      t.ok(processesIn(namespace).length <= 64)
      for (let i = 0; i < 20; i++) t.equal((await rig.run(['echo', 'x'])).text, 'x\n')
      t.match(await bomb.kill(), { signal: 'SIGKILL' })
      t.same(processesIn(namespace), [])
    },
  )
  t.test('that runs out of memory is reported as out of memory', async (t) => {
    t.match(
      (await rig.run(['fork-bomb'], withPids(4096), { timeoutMs: 30_000 * SLOWNESS })).outcome,
      /^(?:oom|timeout)$/,
    )
  })
})

t.test('the end of a container ends all of its processes', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const kinds = 'children, daemons, the deaf, the stopped, the busy, those in vfork and with zombies'

  t.test(`killing it ends ${kinds}`, async (t) => {
    const held = rig.hold(['stay', 'wait'])
    t.equal(await held.firstWords, 'ok\n')
    t.ok(processesIn(held.pidNamespace).length >= 8)
    t.match(await held.kill(), { signal: 'SIGKILL', exitCode: undefined })
    t.same(processesIn(held.pidNamespace), [])
  })
  t.test(`when it exits by itself ${kinds} end, and its exit code is its own`, async (t) => {
    const held = rig.hold(['stay', 'exit'])
    t.equal(await held.firstWords, 'ok\n')
    t.match(await held.finish(), { signal: undefined, exitCode: 3 })
    t.same(processesIn(held.pidNamespace), [])
  })
  t.test(`when it crashes ${kinds} end, and the signal is what the kernel says`, async (t) => {
    const held = rig.hold(['stay', 'crash'])
    t.equal(await held.firstWords, 'ok\n')
    t.match(await held.finish(), { signal: /^SIG(?:ILL|TRAP)$/, exitCode: undefined })
    t.same(processesIn(held.pidNamespace), [])
  })
  t.test('it can be killed while it is frozen, or while freezing failed', async (t) => {
    const held = rig.hold(['stay', 'wait'])
    await held.firstWords
    await held.container
      .pause()
      .catch((err: unknown) =>
        t.match(err, { code: 'ERR_UNSUPPORTED' }, 'v1 cannot freeze who waits in vfork'),
      )
    t.match(await held.kill(), { signal: 'SIGKILL' })
    t.same(processesIn(held.pidNamespace), [])
  })
  t.test('a first process that ignores and blocks every signal is killed at the deadline', async (t) => {
    t.match(await rig.run(['deaf'], undefined, { timeoutMs: 300 }), {
      outcome: 'timeout',
      exit: { signal: 'SIGKILL' },
    })
  })
  t.test('it cannot stop itself, and a stop from outside does not prevent killing it', async (t) => {
    t.match(await rig.run(['stopped']), { outcome: 'ok', text: 'ok\n' })
    const held = rig.hold(['stay', 'wait'])
    await held.firstWords
    process.kill(held.container.pid, 'SIGSTOP')
    t.match(await held.kill(), { signal: 'SIGKILL' })
    t.same(processesIn(held.pidNamespace), [])
    t.equal(pidNamespaceOf(held.container.pid), undefined)
  })
  t.test(
    'also where another process holds its pipes: the call ends with everything written so far, and later output is not read',
    async (t) => {
      const taken: number[] = []
      const take = (pid: number): void => {
        for (const fd of [0, 1, 2]) taken.push(openSync(`/proc/${pid}/fd/${fd}`, fd === 0 ? 'r' : 'w'))
      }
      const body = Buffer.alloc(300_000, 'x')
      const call = {
        body,
        timeoutMs: 10_000 * SLOWNESS,
        responseMaxBytes: 1 << 20,
        signal: new AbortController().signal,
        onStarted: take,
      }
      const all = await runOnce(rig.runtime, { ...call, spec: probeSpec([rig.probeLayer], ['cat']) })
      t.ok(all.response.equals(body))
      t.match(
        await runOnce(rig.runtime, {
          ...call,
          spec: probeSpec([rig.probeLayer], ['cat']),
          body: Buffer.from('x'),
        }),
        { outcome: 'ok', response: Buffer.from('x') },
      )
      t.throws(() => writeSync(taken[1]!, 'more'), { code: 'EPIPE' })
      for (const fd of taken) closeSync(fd)
    },
  )
})
