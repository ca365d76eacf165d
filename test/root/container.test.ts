// A container from the inside and from the outside: namespaces, root, limits, exits, and what is left.

import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { StartError } from '../../services/contract/errors.ts'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { takeCensus } from '../helpers/census.ts'
import { needsRoot, openRig, probeSpec, rigFor, SLOWNESS } from '../helpers/container.ts'

/** RESTING_MAX and AHEAD_PER_SHAPE of cgroup-pool.ts, and some on their way out. */
const CGROUPS_KEPT_MAX = 80

const withLimits =
  (limits: { memory?: number; quota?: number; pids?: number }) =>
  (spec: RuntimeSpec): RuntimeSpec => ({
    ...spec,
    linux: {
      ...spec.linux,
      resources: {
        memory: { limit: limits.memory ?? 32 << 20 },
        cpu: { quota: limits.quota ?? 100_000, period: 100_000 },
        pids: { limit: limits.pids ?? 32 },
      },
    },
  })
const withProcess =
  (change: Partial<RuntimeSpec['process']>) =>
  (spec: RuntimeSpec): RuntimeSpec => ({ ...spec, process: { ...spec.process, ...change } })

t.test('a program in a container', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)

  t.test('reads its body and answers on stdout', async (t) => {
    const result = await rig.run(['cat'], undefined, { body: 'hello' })
    t.match(result, { outcome: 'ok', text: 'hello', exit: { exitCode: 0, signal: undefined } })
  })
  t.test('gets a body larger than a pipe, whole', async (t) => {
    const body = Buffer.alloc(700_000, 'wherry')
    const result = await rig.run(['cat'], undefined, { body })
    t.ok(result.response.equals(body))
  })
  t.test('is process 1 in a session of its own, root inside', async (t) => {
    t.equal((await rig.run(['ids'])).text, 'uid=0 gid=0 groups= pid=1 session=1\n')
  })
  t.test('runs as the user and groups it was given', async (t) => {
    const result = await rig.run(
      ['ids'],
      withProcess({ user: { uid: 1000, gid: 100, additionalGids: [4, 27] } }),
    )
    t.equal(result.text, 'uid=1000 gid=100 groups=4,27 pid=1 session=1\n')
  })
  t.test('is nobody outside: its host-side id is neither root nor that of another container', async (t) => {
    const ids = await Promise.all(
      [1, 2].map(async () => {
        const container = rig.runtime.start(probeSpec([rig.probeLayer], ['sleep', '2000']))
        const uid = statSync(`/proc/${container.pid}`).uid
        container.kill()
        await container.exited
        return uid
      }),
    )
    t.ok(
      ids.every((id) => id > 65_535),
      `host-side ids ${ids.join(', ')}`,
    )
    t.not(ids[0], ids[1])
  })
  t.test('has the environment it was given and no other', async (t) => {
    t.equal((await rig.run(['env'])).text, 'PATH=/\nA=1\n')
  })
  t.test(
    'has a umask of its own, and folders that are made for it are for all of its users, whatever the worker’s is',
    async (t) => {
      const ours = process.umask(0o077)
      t.teardown(() => process.umask(ours))
      const change = withProcess({ cwd: '/made/for/it', user: { uid: 1000, gid: 1000, additionalGids: [] } })
      t.match((await rig.run(['read', '/proc/self/status'], change)).text, /^Umask:\t0022$/m)
      t.equal((await rig.run(['list', '/made/for/it'], change)).text.trim(), '')
    },
  )
  t.test('sees its own host name, processes and root only', async (t) => {
    t.equal((await rig.run(['read', '/proc/sys/kernel/hostname'])).text, 'probe\n')
    t.same((await rig.run(['list', '/'])).text.trim().split('\n').sort(), ['dev', 'probe', 'proc', 'tmp'])
    t.same(
      (await rig.run(['list', '/proc'])).text
        .trim()
        .split('\n')
        .filter((name) => /^\d+$/.test(name)),
      ['1'],
    )
    const hierarchies = (await rig.run(['read', '/proc/self/cgroup'])).text.trim().split('\n')
    t.ok(
      hierarchies.every((line) => line.endsWith(':/')),
      `its cgroup is the root of what it sees: ${hierarchies.join(' ')}`,
    )
  })
  t.test('has descriptors 0 to 2 and no other', async (t) => {
    t.equal(
      (await rig.run(['list', '/proc/self/fd'])).text,
      '0\n1\n2\n3\n',
      '3 is the directory being listed',
    )
  })
  t.test('has every signal at its default and none blocked', async (t) => {
    const { text } = await rig.run(['signals'])
    t.match(text, /SigBlk:\t0+\nSigIgn:\t0+\n/)
  })
  t.test('has no capability, no new privileges and a filter', async (t) => {
    const { text } = await rig.run(['signals'])
    t.match(
      text,
      /CapInh:\t0+\nCapPrm:\t0+\nCapEff:\t0+\nCapBnd:\t0+\nCapAmb:\t0+\nNoNewPrivs:\t1\nSeccomp:\t2/,
    )
  })
  t.test('finds its program through PATH', async (t) => {
    const result = await rig.run(
      [],
      withProcess({ args: ['probe', 'echo', 'found'], env: ['PATH=/nowhere:/'] }),
    )
    t.equal(result.text, 'found\n')
  })
  t.test('starts in its working directory, which is made when missing', async (t) => {
    t.equal((await rig.run(['cwd'], withProcess({ cwd: '/srv/app' }))).text, '/srv/app\n')
  })
})

t.test('how a program ends', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test('exit codes are reported as they are', async (t) => {
    t.match(await rig.run(['exit', '42']), { outcome: 'app_error', exit: { exitCode: 42 } })
  })
  t.test('stdout and stderr are kept apart', async (t) => {
    t.match(await rig.run(['both', 'out', 'err', '3']), { text: 'out', log: 'err', outcome: 'app_error' })
  })
  t.test('a signal is named', async (t) => {
    t.match(await rig.run(['trap']), {
      outcome: 'crash',
      exit: { exitCode: undefined, signal: /^SIG(ILL|TRAP|SEGV)$/ },
    })
  })
  t.test('a timeout kills all of it', async (t) => {
    t.match(await rig.run(['sleep', '60000'], undefined, { timeoutMs: 100 }), {
      outcome: 'timeout',
      exit: { signal: 'SIGKILL' },
    })
  })
  t.test('what it leaves running dies with it', async (t) => {
    t.match(await rig.run(['leave-child']), { outcome: 'ok', text: 'ok\n' })
  })
  t.test('closing stdin early is its right', async (t) => {
    const result = await rig.run(['close-stdin', 'done'], undefined, { body: Buffer.alloc(500_000) })
    t.match(result, { outcome: 'ok', text: 'done\n' })
  })
  t.test('a flood on stderr is bounded, its end and the exit code kept', async (t) => {
    const before = process.memoryUsage.rss()
    const result = await rig.run(['flood', '2', String(200 << 20)])
    t.match(result, { outcome: 'app_error', exit: { exitCode: 7 }, logTruncated: true })
    t.equal(result.log.length, 64 * 1024)
    t.ok(process.memoryUsage.rss() - before < 120 << 20, 'memory of the worker stays bounded')
  })
  t.test('a flood on stdout ends the call, long before its timeout', async (t) => {
    const result = await rig.run(['flood', '1', String(2 ** 50)], undefined, {
      responseMaxBytes: 100_000,
      timeoutMs: 3_600_000,
    })
    t.match(result, { outcome: 'too_large', exit: { signal: 'SIGKILL' } })
    t.equal(result.response.length, 100_000)
  })
  t.test('more stdout than allowed is no success', async (t) => {
    const result = await rig.run(['read', '/probe'], undefined, { responseMaxBytes: 1000 })
    t.match(result, { outcome: 'too_large' })
  })
})

t.test('limits', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test('more memory than allowed ends as oom', async (t) => {
    const result = await rig.run(['memory', String(64 << 20)], withLimits({ memory: 16 << 20 }))
    t.match(result, { outcome: 'oom', exit: { signal: 'SIGKILL' } })
    t.ok(result.exit.usage.oomKills > 0)
  })
  t.test('a child out of memory takes the whole container with it', async (t) => {
    const result = await rig.run(['child-memory', String(64 << 20)], withLimits({ memory: 16 << 20 }), {
      timeoutMs: 30_000,
    })
    t.equal(result.outcome, 'oom')
    t.ok(result.runMs < 20_000, 'it did not wait for the first process, which sleeps a minute')
  })
  t.test('peak memory and CPU time are the cgroup’s', async (t) => {
    const { exit } = await rig.run(['memory', String(12 << 20)])
    t.ok(
      exit.usage.memoryPeakBytes > 12 << 20 && exit.usage.memoryPeakBytes < 32 << 20,
      `peak ${exit.usage.memoryPeakBytes}`,
    )
    const spin = await rig.run(['spin', '100'])
    t.ok(spin.exit.usage.cpuMs >= 100, `CPU ${spin.exit.usage.cpuMs} ms`)
  })
  t.test('half a CPU takes longer, by what it stood still', async (t) => {
    const result = await rig.run(['spin', '200'], withLimits({ quota: 50_000 }))
    // Two periods are the least in which it can stand still: it may begin at the end of one, whose half it
    // has as well.
    t.ok(result.runMs > 250, `${result.runMs} ms for 200 ms of work`)
  })
  t.test('forks stop at the pids limit', async (t) => {
    t.equal((await rig.run(['fork'], withLimits({ pids: 10 }))).text, '9 EAGAIN\n')
  })
  t.test('descriptors stop at the rlimit', async (t) => {
    const result = await rig.run(
      ['open-files'],
      withProcess({ rlimits: [{ type: 'RLIMIT_NOFILE', soft: 20, hard: 20 }] }),
    )
    t.equal(result.text, '17 EMFILE\n')
  })
  t.test('everything written outside of volumes is bounded by the scratch size', async (t) => {
    for (const path of ['/fill', '/tmp/fill', '/dev/shm/fill']) {
      const [bytes, why] = (await rig.run(['fill', path])).text.trim().split(' ')
      t.equal(why, 'ENOSPC', path)
      t.ok(Number(bytes) <= 4 << 20, `${path} took ${bytes} bytes`)
    }
    t.match((await rig.run(['files', '/tmp'])).text, /^\d+ ENOSPC$/m, 'inodes end too')
  })
  t.test('nothing written is there in the next container', async (t) => {
    t.equal((await rig.run(['write', '/tmp/x', '1'])).text, 'ok\n')
    t.equal((await rig.run(['open', '/tmp/x'])).text, 'ENOENT\n')
    t.notOk(existsSync(join(rig.probeLayer, 'tmp')), 'the layer was not written to')
  })
})

t.test('what a function may not do', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test('write to the kernel’s files', async (t) => {
    for (const path of [
      '/proc/sys/kernel/hostname',
      '/proc/sys/vm/overcommit_memory',
      '/proc/irq/default_smp_affinity',
    ]) {
      t.match((await rig.run(['open', path, 'w'])).text, /^E(ROFS|ACCES|PERM|NOENT)\n$/, path)
    }
  })
  t.test('read what is masked', async (t) => {
    for (const path of ['/proc/keys', '/proc/timer_list', '/proc/interrupts']) {
      if (!existsSync(path)) continue
      t.equal((await rig.run(['read', path])).text, '', path)
    }
  })
  t.test('write to /dev, or to a read-only root', async (t) => {
    t.equal((await rig.run(['write', '/dev/x', '1'])).text, 'EROFS\n')
    t.equal(
      (await rig.run(['write', '/x', '1'], (spec) => ({ ...spec, root: { ...spec.root, readonly: true } })))
        .text,
      'EROFS\n',
    )
    t.equal(
      (
        await rig.run(['write', '/tmp/x', '1'], (spec) => ({
          ...spec,
          root: { ...spec.root, readonly: true },
        }))
      ).text,
      'ok\n',
    )
  })
  t.test('reach an abstract socket of the host', async (t) => {
    const name = `wherry-test-${process.pid}`
    const server = createServer()
    await new Promise<void>((resolve) => {
      server.listen(`\0${name}`, resolve)
    })
    t.teardown(
      () =>
        new Promise((resolve) => {
          server.close(resolve)
        }),
    )
    t.equal((await rig.run(['connect-abstract', name])).text, 'ECONNREFUSED\n')
  })
})

t.test('a hostile root file system', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const outside = join(rig.data, 'outside')
  mkdirSync(outside)

  for (const path of ['proc', 'dev']) {
    t.test(`a symbolic link at /${path} is refused`, async (t) => {
      const layer = rig.layer()
      symlinkSync(outside, join(layer, path))
      await t.rejects(
        rig.run(['echo'], (spec) => ({ ...spec, root: { ...spec.root, layers: [rig.probeLayer, layer] } })),
        { name: 'StartError', code: 'ERR_INVALID_ROOTFS', message: /symbolic link/ },
      )
    })
  }
  t.test('a link at /tmp or at a volume’s target stays inside', async (t) => {
    const layer = rig.layer()
    symlinkSync(outside, join(layer, 'tmp'))
    symlinkSync('../../../../../..', join(layer, 'up'))
    const source = join(rig.data, 'volume')
    mkdirSync(source)
    const result = await rig.run(['write', '/up/data/x', '1'], (spec) => ({
      ...spec,
      root: { ...spec.root, layers: [rig.probeLayer, layer] },
      mounts: [
        ...spec.mounts.filter((mount) => mount.destination !== '/tmp'),
        { destination: '/up/data', type: 'bind', source, options: ['nosuid', 'nodev'] },
      ],
    }))
    t.equal(result.text, 'ok\n')
    t.same(readdirSync(source), ['x'])
    t.same(readdirSync(outside), [])
  })
  t.test('a working directory that leads out is refused', async (t) => {
    for (const cwd of ['/proc/self/fd/5', '/proc/1/cwd/..', '/proc/self/fd/20']) {
      const outcome = await rig.run(['cwd'], withProcess({ cwd })).then(
        (result) => `started in ${result.text.trim()}`,
        (err: unknown) => err,
      )
      t.ok(outcome instanceof StartError || outcome === 'started in /', String(outcome))
    }
  })
  t.test('a setuid program gives nothing', async (t) => {
    const layer = rig.layer()
    writeFileSync(join(layer, 'su'), readFileSync(join(rig.probeLayer, 'probe')))
    chmodSync(join(layer, 'su'), 0o4755)
    const result = await rig.run([], (spec) =>
      withProcess({ args: ['/su', 'ids'], user: { uid: 1000, gid: 1000, additionalGids: [] } })({
        ...spec,
        root: { ...spec.root, layers: [rig.probeLayer, layer] },
      }),
    )
    t.match(result.text, /^uid=1000 gid=1000 /)
  })
})

t.test('starts that fail', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const before = takeCensus(rig.data)
  const failing: ReadonlyArray<[string, (spec: RuntimeSpec) => RuntimeSpec, object]> = [
    [
      'a command that is not there',
      withProcess({ args: ['/nothing'] }),
      { code: 'ERR_COMMAND_NOT_FOUND', message: /"\/nothing" is not in the image/ },
    ],
    ['a name that is not in PATH', withProcess({ args: ['nothing'] }), { code: 'ERR_COMMAND_NOT_FOUND' }],
    [
      'a file that is no program',
      withProcess({ args: ['/dev/null'] }),
      { code: 'ERR_COMMAND_NOT_EXECUTABLE', message: /permission denied/ },
    ],
    [
      'a volume that is not on the host',
      (spec) => ({
        ...spec,
        mounts: [
          ...spec.mounts,
          { destination: '/v', type: 'bind', source: '/nonexistent/volume', options: [] },
        ],
      }),
      { name: 'SyscallError', errno: 'ENOENT', syscall: 'open_tree', op: 'tree /nonexistent/volume' },
    ],
    [
      'a NUL in the environment',
      withProcess({ env: ['A=\0'] }),
      { code: 'ERR_START', message: /process\.env\[0\]: contains a NUL/ },
    ],
  ]
  for (const [what, change, expected] of failing) {
    t.test(`${what} is named`, async (t) => {
      t.match(await rig.run(['echo'], change).catch((err: unknown) => err), expected)
    })
  }
  t.test('leave nothing', async (t) => {
    await rig.run(['echo'])
    const now = takeCensus(rig.data)
    // The removal of failed cgroups runs behind.
    t.same(now, { ...before, fds: now.fds, cgroups: now.cgroups })
  })
})

t.test('pause and resume', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const start = (...args: string[]) => {
    const container = rig.runtime.start(probeSpec([rig.probeLayer], args))
    t.teardown(() => {
      for (const fd of [container.stdin, container.stdout, container.stderr]) closeSync(fd)
    })
    return container
  }
  const cpuTicks = (pid: number): number => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return Number(fields[11]) + Number(fields[12])
  }
  t.test('a paused container takes no CPU time, a resumed one goes on', async (t) => {
    const container = start('spin', String(300 * SLOWNESS))
    await container.pause()
    const before = cpuTicks(container.pid)
    await new Promise((resolve) => {
      setTimeout(resolve, 100)
    })
    t.equal(cpuTicks(container.pid), before)
    container.resume()
    t.match(await container.exited, { exitCode: 0 })
  })
  t.test('pausing twice and resuming what runs do no harm', async (t) => {
    const container = start('sleep', '200')
    container.resume()
    await container.pause()
    await container.pause()
    container.resume()
    t.match(await container.exited, { exitCode: 0 })
  })
  t.test('a paused container can be killed', async (t) => {
    const container = start('sleep', '60000')
    await container.pause()
    container.kill()
    t.match(await container.exited, { signal: 'SIGKILL' })
  })
  t.test('children are paused too, also those of a first process that never stops forking', async (t) => {
    const container = start('fork-bomb')
    await container.pause()
    container.kill()
    t.match(await container.exited, { signal: 'SIGKILL' })
  })
  t.test('pausing what has ended is no error', async (t) => {
    const container = start('echo')
    await container.exited
    await t.resolves(container.pause())
    container.resume()
    container.kill()
  })
})

t.test('200 containers one after the other and 50 at once leave nothing', { skip: needsRoot }, async (t) => {
  const rig = await openRig(50)
  await rig.run(['echo'])
  const before = takeCensus(rig.data)
  for (let i = 0; i < 200; i++) await rig.run(['echo', 'x'])
  const after = takeCensus(rig.data)
  t.same({ ...after, cgroups: 0, fds: 0 }, { ...before, cgroups: 0, fds: 0 })
  t.ok(
    after.fds < before.fds + CGROUPS_KEPT_MAX,
    `descriptors ${before.fds}, then ${after.fds}; each cgroup that is ready, rests or is not yet removed has one`,
  )
  const results = await Promise.all(Array.from({ length: 50 }, () => rig.run(['ids'])))
  t.ok(results.every((result) => result.outcome === 'ok'))
  await rig.close()
  t.equal(takeCensus(rig.data).cgroups, 0, 'all cgroups are gone once it is closed')
  t.equal(takeCensus(rig.data).mounts, before.mounts)
})
