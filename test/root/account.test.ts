// The resource usage of containers with known loads, read from their cgroups. Usage of one container never
// counts for the next, although both may have had the same cgroup.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Usage } from '../../services/contract/call-record.ts'
import type { Resources, RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import type { Cgroup, CgroupDriver } from '../../services/runtime/cgroup/driver.ts'
import { createCgroupDriver, findHostCgroups } from '../../services/runtime/cgroup/cgroup.ts'
import { probeKernel } from '../../services/runtime/doctor.ts'
import { instanceName } from '../../services/runtime/janitor.ts'
import { openNative } from '../../services/runtime/native.ts'
import { NATIVE_DIR, needsRoot, rigFor, SLOWNESS } from '../helpers/container.ts'

const MIB = 1 << 20
const LIMITS: Resources = {
  memory: { limit: 128 * MIB },
  cpu: { quota: 200_000, period: 100_000 },
  pids: { limit: 32 },
}
const withLimits =
  (resources: Resources) =>
  (spec: RuntimeSpec): RuntimeSpec => ({ ...spec, linux: { ...spec.linux, resources } })
const needsV1 =
  needsRoot ||
  (findHostCgroups({ mayOffer: false }).driver === 'v1'
    ? false
    : 'only cgroups of v1 serve more than one container')

/** For the program and the C library; the kernel also charges up to 256 KiB per CPU in advance. */
const MEMORY_SLACK_BYTES = 2.5 * MIB + (availableParallelism() * MIB) / 4
const startedMs = 60 * SLOWNESS

t.test('the account of a known load', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const busybox = rig.layer()
  mkdirSync(join(busybox, 'bin'))
  copyFileSync('/bin/busybox', join(busybox, 'bin/busybox'))
  symlinkSync('busybox', join(busybox, 'bin/sh'))
  const volume = join(rig.data, 'volume')
  mkdirSync(volume)

  const usageOf = async (args: readonly string[], resources = LIMITS): Promise<Usage> => {
    const { outcome, message, exit } = await rig.run(args, (spec) =>
      withLimits(resources)({
        ...spec,
        process: {
          ...spec.process,
          args: args[0] === '/bin/sh' ? args : ['/probe', ...args],
          env: ['PATH=/bin'],
        },
        root: { ...spec.root, layers: [rig.probeLayer, busybox] },
        mounts: [
          ...spec.mounts,
          { destination: '/data', type: 'bind', source: volume, options: ['nosuid', 'nodev'] },
        ],
      }),
    )
    t.equal(outcome, 'ok', message ?? 'it ran')
    return exit.usage
  }

  await t.test('50 MiB of touched memory raise the peak by 50 MiB', async (t) => {
    const { memoryPeakBytes, oomKills } = await usageOf(['memory', String(50 * MIB)])
    t.ok(
      memoryPeakBytes >= 50 * MIB && memoryPeakBytes < 50 * MIB + MEMORY_SLACK_BYTES,
      `${memoryPeakBytes} bytes`,
    )
    t.equal(oomKills, 0)
  })
  await t.test('200 ms of work cost 200 ms of CPU time and the start', async (t) => {
    const { cpuMs, cpuThrottledMs } = await usageOf(['spin', '200'])
    t.ok(cpuMs >= 200 && cpuMs < 200 + startedMs, `${cpuMs} ms`)
    t.equal(cpuThrottledMs, 0, 'one process cannot use two CPUs')
  })
  await t.test('a limit of a fifth of a CPU throttles 200 ms of work', async (t) => {
    const { cpuMs, cpuPeriods, cpuThrottledPeriods, cpuThrottledMs } = await usageOf(['spin', '200'], {
      ...LIMITS,
      cpu: { quota: 20_000, period: 100_000 },
    })
    t.ok(cpuMs >= 200 && cpuMs < 200 + startedMs, `${cpuMs} ms`)
    t.ok(
      cpuThrottledPeriods >= 1 && cpuThrottledPeriods <= cpuPeriods,
      `stopped in ${cpuThrottledPeriods} of ${cpuPeriods} periods`,
    )
    t.ok(cpuThrottledMs > 0, `stood still for ${cpuThrottledMs} ms`)
  })
  await t.test('a shell with six children counts seven processes', async (t) => {
    const { pidsPeak } = await usageOf([
      '/bin/sh',
      '-c',
      '/bin/busybox mkfifo /data/end; exec 3<>/data/end; for i in 1 2 3 4 5 6; do /bin/busybox dd bs=1 count=1 of=/dev/null <&3 2>&3 & done; echo 12345 >&3; wait',
    ])
    const { detail } = probeKernel({ nativeDir: NATIVE_DIR, dataDir: NATIVE_DIR }).find(
      ({ name }) => name === 'account',
    )!
    t.equal(detail.includes('processes peak'), pidsPeak !== undefined, `doctor says the same: ${detail}`)
    if (pidsPeak === undefined) return t.comment('this kernel has no pids.peak')
    t.equal(pidsPeak, 7)
  })
  await t.test('8 MiB written to a volume with O_DIRECT count as 8 MiB of io', async (t) => {
    const { ioReadBytes, ioWriteBytes } = await usageOf([
      '/bin/sh',
      '-c',
      '/bin/busybox dd if=/dev/zero of=/data/x bs=1M count=8 oflag=direct 2>/dev/null || exit 9',
    ])
    if (ioWriteBytes === undefined) return t.comment('this host has no controller for block io')
    t.ok(ioWriteBytes >= 8 * MIB && ioWriteBytes < 9 * MIB, `${ioWriteBytes} bytes written`)
    const read = await usageOf([
      '/bin/sh',
      '-c',
      '/bin/busybox dd if=/data/x of=/dev/null bs=1M iflag=direct 2>/dev/null || exit 9',
    ])
    t.ok(read.ioReadBytes! >= 8 * MIB && read.ioReadBytes! < 9 * MIB, `${read.ioReadBytes} bytes read`)
    t.ok(ioReadBytes! < MIB && read.ioWriteBytes! < MIB, 'reads and writes are counted separately')
  })
  await t.test('later containers start at zero', async (t) => {
    for (let i = 0; i < 12; i++) {
      const usage = await usageOf(['echo'])
      t.ok(usage.memoryPeakBytes < MEMORY_SLACK_BYTES && usage.cpuMs < startedMs, JSON.stringify(usage))
      // An emulated CPU's time jumps.
      if (SLOWNESS === 1) t.match(usage, { cpuThrottledPeriods: 0, cpuThrottledMs: 0 })
      t.match(usage, { oomKills: 0, ...(usage.pidsPeak !== undefined && { pidsPeak: 1 }) })
      t.ok((usage.ioWriteBytes ?? 0) < MIB)
    }
  })
})

const PROBE = join(NATIVE_DIR, 'probe')

/** Run ARGV in CGROUP from its first instruction; without CGROUP, in the test's own. */
async function runIn(cgroup: Cgroup | undefined, ...argv: string[]): Promise<void> {
  const enter = (cgroup?.tasks ?? []).map((path) => `echo 0 > ${path} && `).join('')
  const child = spawn('/bin/sh', ['-c', `${enter}exec "$@"`, 'sh', ...argv], { stdio: 'ignore' })
  await once(child, 'exit')
}

function driverFor(t: Test): CgroupDriver {
  const driver = createCgroupDriver({
    native: openNative(NATIVE_DIR),
    instance: instanceName(),
    folder: NATIVE_DIR,
  })
  t.teardown(() => driver.close())
  return driver
}

t.test('a cgroup that serves a second container', { skip: needsV1 }, async (t) => {
  const driver = driverFor(t)
  const cgroup = driver.create('used', LIMITS)
  const gone = async (): Promise<void> => {
    while (!cgroup.remove())
      await new Promise((resolve) => {
        setTimeout(resolve, 10)
      })
  }
  const fileOf = (hierarchy: string, name: string): string =>
    readFileSync(
      join(
        driver.roots.find((root) => root.split(/[/,]/).includes(hierarchy))!,
        'used',
        name,
      ),
      'utf8',
    )
  t.teardown(gone)

  // Pages of these files that are not in memory would stay charged to the cgroup for longer than the test
  // runs.
  for (const verb of [['memory', '4096'], ['spin', '1'], ['echo']]) await runIn(undefined, PROBE, ...verb)
  await runIn(undefined, '/bin/sh', '-c', '(exit); exit')

  /** Retries while the kernel still uncharges memory of dead processes. */
  const renew = async (looks = 2000): Promise<boolean> => {
    for (let i = 0; i < looks; i++) {
      if (cgroup.renew!()) return true
      await new Promise((resolve) => {
        setTimeout(resolve, 10)
      })
    }
    return false
  }

  await t.test('reports the values of its files', async (t) => {
    await runIn(cgroup, PROBE, 'memory', String(20 * MIB))
    const usage = cgroup.usage()
    t.equal(usage.cpuMs, Number(fileOf('cpuacct', 'cpuacct.usage')) / 1e6)
    t.equal(usage.memoryPeakBytes, Number(fileOf('memory', 'memory.max_usage_in_bytes')))
    t.ok(usage.memoryPeakBytes >= 20 * MIB)
    if (usage.pidsPeak !== undefined) t.equal(usage.pidsPeak, Number(fileOf('pids', 'pids.peak')))
  })
  await t.test('starts at zero, with its limits set', async (t) => {
    await runIn(cgroup, PROBE, 'spin', '30')
    t.ok(await renew())
    const usage = cgroup.usage()
    t.match(usage, { cpuMs: 0, cpuThrottledPeriods: 0, cpuThrottledMs: 0, oomKills: 0 })
    t.ok(
      usage.cpuPeriods <= 1,
      `${usage.cpuPeriods} periods; the one that the last process ran in may end now`,
    )
    t.ok(usage.memoryPeakBytes <= 256 * 1024, `${usage.memoryPeakBytes} bytes`)
    t.equal(fileOf('pids', 'pids.max').trim(), '32')
    cgroup.started()
    t.equal(fileOf('memory', 'memory.limit_in_bytes').trim(), String(LIMITS.memory.limit))
  })
  await t.test('counts only the processes of the current container', async (t) => {
    await runIn(cgroup, '/bin/sh', '-c', '(exit); exit')
    if (cgroup.usage().pidsPeak === undefined) return t.comment('this kernel has no pids.peak')
    t.ok(cgroup.usage().pidsPeak! > 1)
    t.ok(await renew())
    await runIn(cgroup, PROBE, 'echo')
    t.equal(cgroup.usage().pidsPeak, 1)
  })
  await t.test('is not reused after an OOM kill', async (t) => {
    cgroup.started()
    await runIn(cgroup, PROBE, 'memory', String(200 * MIB))
    t.ok(cgroup.usage().oomKills > 0)
    t.notOk(await renew(20))
  })
})

t.test('a cgroup that cannot be created is named with the reason', { skip: needsRoot }, async (t) => {
  t.throws(() => driverFor(t).create('nowhere/below', LIMITS), {
    name: 'SyscallError',
    code: 'ENOENT',
    message: /^cannot create the cgroup \/.*\/nowhere\/below: ENOENT$/,
  })
})
