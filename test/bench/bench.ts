// `make bench`: the performance budgets, measured side by side in one run.
//
//   raw-c       plain C with the system calls of a Wherry container (native/test/raw-c.c)
//   container   a Wherry container, from spawn until its exit is collected
//   runc        Debian's `runc run` of the same program in the same root file system
//   docker      `docker run --rm --network none` of the same program, if an engine is installed
//   http-stdio  a function call over HTTP: gateway, queue, worker, container and back
//   bullmq      a bare BullMQ job, from add to result, with its worker in a child process and the same Redis
//
// The six alternate, with a few runs per round, so that a busy moment of the machine affects all of them.
// After that come the measurements of sustained.ts, one by one. Prints a table with ratios and writes
// build/bench.json: [{name, unit, p50, p99, n}].

import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Pool } from 'undici'
import { makeBusyboxLayer, pushBusybox } from '../../infra/demo/image.ts'
import type { Addresses } from '../../services/cli/up/state.ts'
import { keepHeapFlat } from '../../services/platform/heap.ts'
import { createLog } from '../../services/platform/log.ts'
import { createCgroupDriver } from '../../services/runtime/cgroup/cgroup.ts'
import { openNative } from '../../services/runtime/native.ts'
import { openRuntime } from '../../services/runtime/open.ts'
import { compileSeccomp } from '../../services/runtime/seccomp.ts'
import { FUNCTION_PROFILE } from '../../services/runtime/seccomp-profile.ts'
import { probeSpec } from '../helpers/container.ts'
import { startBareQueue } from './bare-queue.ts'
import { missingDocker, startDocker } from './docker.ts'
import { measureKept, measureRate, type Row } from './sustained.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const NATIVE_DIR = join(ROOT, 'build/native')
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 30)
const WARM_UP_ROUNDS = 2
const RATE_SECONDS = Number(process.env['BENCH_RATE_SECONDS'] ?? 20)
const PER_ROUND = { 'raw-c': 20, container: 20, runc: 3, docker: 1, 'http-stdio': 20, bullmq: 20 } as const
type Name = keyof typeof PER_ROUND
const LIMITS = {
  memory: { limit: 128 << 20 },
  cpu: { quota: 100_000, period: 100_000 },
  pids: { limit: 128 },
}

interface Subject {
  readonly name: Name
  /** COUNT runs: milliseconds each. */ run(count: number): Promise<number[]>
  close(): Promise<void>
}

function makeRootfs(folder: string): string {
  const rootfs = join(folder, 'rootfs')
  for (const name of ['bin', 'proc', 'dev', 'sys', 'tmp']) mkdirSync(join(rootfs, name), { recursive: true })
  cpSync('/bin/busybox', join(rootfs, 'bin/busybox'))
  symlinkSync('busybox', join(rootfs, 'bin/true'))
  return rootfs
}

async function timed(count: number, run: () => Promise<unknown>): Promise<number[]> {
  const times: number[] = []
  for (let i = 0; i < count; i++) {
    const startedAt = performance.now()
    await run()
    times.push(performance.now() - startedAt)
  }
  return times
}

function rawC(folder: string, rootfs: string): Subject {
  const native = openNative(NATIVE_DIR)
  const cgroups = createCgroupDriver({ native, instance: `wherry-${process.pid}-0`, folder })
  const cgroup = cgroups.create('raw', LIMITS)
  const filter = join(folder, 'filter')
  writeFileSync(filter, compileSeccomp(FUNCTION_PROFILE))
  const dev = join(folder, 'dev')
  const stage = join(folder, 'stage')
  for (const directory of [dev, stage]) mkdirSync(directory)
  native.makeDevices(dev)
  return {
    name: 'raw-c',
    async run(count) {
      const out = execFileSync(
        join(NATIVE_DIR, 'raw-c'),
        [String(count), rootfs, stage, dev, filter, String(65_536 * 300), ...cgroup.tasks],
        { encoding: 'utf8' },
      )
      return out
        .trim()
        .split('\n')
        .map((microseconds) => Number(microseconds) / 1000)
    },
    async close() {
      while (!cgroup.remove()) await delay(20)
      cgroups.close()
    },
  }
}

async function container(folder: string, rootfs: string): Promise<Subject> {
  const runtime = await openRuntime({
    nativeDir: NATIVE_DIR,
    dataDir: join(folder, 'data'),
    slots: 4,
    log: createLog({ name: 'bench', level: 'error' }),
  })
  const base = probeSpec([rootfs], [])
  const spec = {
    ...base,
    process: { ...base.process, args: ['/bin/true'] },
    linux: { ...base.linux, resources: LIMITS },
  }
  const { closeSync } = await import('node:fs')
  return {
    name: 'container',
    run: (count) =>
      timed(count, async () => {
        const started = runtime.start(spec)
        const exit = await started.exited
        if (exit.exitCode !== 0) throw new Error(`the container exited with ${exit.exitCode ?? exit.signal}`)
        for (const fd of [started.stdin, started.stdout, started.stderr]) closeSync(fd)
      }),
    close: () => runtime.close(),
  }
}

function runc(folder: string, rootfs: string): Subject {
  const bundle = join(folder, 'bundle')
  mkdirSync(bundle)
  execFileSync('runc', ['spec'], { cwd: bundle })
  const config = JSON.parse(execFileSync('cat', [join(bundle, 'config.json')], { encoding: 'utf8' })) as {
    process: { terminal: boolean; args: string[] }
    root: object
    linux: { resources: object }
  }
  config.process.terminal = false
  config.process.args = ['/bin/true']
  config.root = { path: rootfs, readonly: true }
  config.linux.resources = {
    ...config.linux.resources,
    memory: LIMITS.memory,
    cpu: LIMITS.cpu,
    pids: LIMITS.pids,
  }
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(config))
  let serial = 0
  return {
    name: 'runc',
    run: (count) =>
      timed(count, async () => {
        const child = spawn(
          'runc',
          ['--root', join(folder, 'runc'), 'run', '--bundle', bundle, `bench-${process.pid}-${serial++}`],
          { stdio: ['ignore', 'ignore', 'inherit'] },
        )
        const [code] = (await once(child, 'exit')) as [number]
        if (code !== 0) throw new Error(`runc exited with ${code}`)
      }),
    async close() {},
  }
}

async function docker(folder: string, rootfs: string): Promise<Subject[]> {
  const missing = missingDocker()
  if (missing !== undefined) {
    console.log(`skipping docker: ${missing} is not installed (Debian package docker.io)`)
    return []
  }
  const engine = await startDocker(folder, rootfs)
  const flags = [
    '--memory',
    String(LIMITS.memory.limit),
    '--cpus',
    '1',
    '--pids-limit',
    String(LIMITS.pids.limit),
  ]
  return [
    {
      name: 'docker',
      run: (count) => timed(count, () => engine.run(flags, '/bin/true')),
      close: engine.close,
    },
  ]
}

async function startUp(folder: string): Promise<{ child: ChildProcess; addresses: Addresses }> {
  const free = ['--gateway', '127.0.0.1:0', '--registry', '127.0.0.1:0', '--worker', '127.0.0.1:0']
  const child = spawn(
    'setpriv',
    [
      '--pdeathsig',
      'SIGTERM',
      '--',
      join(ROOT, 'services/cli/wherry'),
      'up',
      '--json',
      '--data',
      join(folder, 'up'),
      ...free,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  child.stderr.resume()
  const failed = once(child, 'exit').then(([code]) => {
    throw new Error(`wherry up exited with ${code}`)
  })
  failed.catch(() => {}) // an exit after the start is expected
  const [line] = await Promise.race([
    once(createInterface({ input: child.stdout }), 'line') as Promise<[string]>,
    failed,
  ])
  return { child, addresses: JSON.parse(line) as Addresses }
}

async function httpStdio(addresses: Addresses): Promise<Subject> {
  const image = await pushBusybox(addresses.registry, makeBusyboxLayer())
  const pool = new Pool(addresses.gateway, { connections: 1 })
  const send = async (method: 'POST', path: string, body: string): Promise<number> => {
    const response = await pool.request({
      method,
      path,
      body,
      headers: { 'content-type': 'application/json' },
    })
    await response.body.dump()
    return response.statusCode
  }
  const deployed = await send(
    'POST',
    '/system/functions',
    JSON.stringify({ service: 'bench', image, command: ['/bin/true'] }),
  )
  if (deployed !== 202) throw new Error(`the function could not be deployed: HTTP ${deployed}`)
  return {
    name: 'http-stdio',
    run: (count) =>
      timed(count, async () => {
        const status = await send('POST', '/function/bench', '{}')
        if (status !== 200) throw new Error(`the call returned HTTP ${status}`)
      }),
    close: () => pool.close(),
  }
}

const percentile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!

function summarise(results: ReadonlyMap<Name, number[]>): Row[] {
  return [...results].map(([name, times]) => {
    const sorted = times.toSorted((a, b) => a - b)
    return { name, unit: 'ms', p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99), n: sorted.length }
  })
}

/** A measured value, its budget, and whether it is met. */
type Bar = readonly [what: string, value: string, bar: string, met: boolean]

function printBars(bars: readonly Bar[]): void {
  console.log()
  for (const [what, value, bar, met] of bars) console.log(`${met ? '✓' : '✗'} ${what}: ${value} (${bar})`)
}

function print(rows: readonly Row[]): void {
  const row = (name: Name): Row | undefined => rows.find((r) => r.name === name)
  const p50 = (name: Name): number => row(name)!.p50
  console.log(`\n${'name'.padEnd(12)}${'p50 ms'.padStart(10)}${'p99 ms'.padStart(10)}${'n'.padStart(7)}`)
  for (const { name, p50, p99, n } of rows)
    console.log(
      `${name.padEnd(12)}${p50.toFixed(3).padStart(10)}${p99.toFixed(3).padStart(10)}${String(n).padStart(7)}`,
    )
  const budget = p50('bullmq') + 2 * p50('container') + 1.5
  const container = row('container')!
  const atMost = (what: string, ratio: number, most: number): Bar => [
    what,
    ratio.toFixed(2),
    `at most ${most}`,
    ratio <= most,
  ]
  const atLeast = (what: string, ratio: number, least: number): Bar => [
    what,
    ratio.toFixed(1),
    `at least ${least}`,
    ratio >= least,
  ]
  printBars([
    atMost('container / raw-c', p50('container') / p50('raw-c'), 1.5),
    atLeast('runc / container', p50('runc') / p50('container'), 12),
    ...(row('docker') ? [atLeast('docker / container', p50('docker') / p50('container'), 100)] : []),
    atMost('container p99 / p50', container.p99 / container.p50, 4),
    atMost('http-stdio / (bullmq + 2 × container + 1.5 ms)', p50('http-stdio') / budget, 1),
  ])
}

function printSustained(rows: readonly Row[]): void {
  const row = (name: string): Row => rows.find((r) => r.name === name)!
  const [rate, delay, growth, kept, pause] = [
    'containers-per-second',
    'event-loop-p99',
    'worker-rss-growth',
    'kept-container-kib',
    'pause-resume',
  ].map(row) as [Row, Row, Row, Row, Row]
  printBars([
    [
      'containers per second',
      `${rate.p50.toFixed(0)}; worst second ${rate.p99}, ${rate.n} in all, none failed`,
      'at least 600',
      rate.p50 >= 600,
    ],
    ['event loop delay p99', `${delay.p99.toFixed(1)} ms`, 'at most 20', delay.p99 <= 20],
    [
      'growth of worker memory',
      `${growth.p50.toFixed(1)} % over ${growth.n} containers`,
      'at most 10',
      growth.p50 <= 10,
    ],
    [
      `${kept.n} kept containers: worker memory for each`,
      `${kept.p50.toFixed(1)} KiB`,
      'at most 100',
      kept.p50 <= 100,
    ],
    [
      'pause and resume p50',
      `${pause.p50.toFixed(3)} ms; p99 ${pause.p99.toFixed(3)}`,
      'at most 0.3',
      pause.p50 <= 0.3,
    ],
  ])
}

async function main(): Promise<void> {
  keepHeapFlat() // as in a worker process
  const folder = mkdtempSync(join(tmpdir(), 'wherry-bench-'))
  const subjects: Subject[] = []
  let up: { child: ChildProcess; addresses: Addresses } | undefined
  try {
    const rootfs = makeRootfs(folder)
    up = await startUp(folder)
    subjects.push(
      rawC(folder, rootfs),
      await container(folder, rootfs),
      runc(folder, rootfs),
      ...(await docker(folder, rootfs)),
      await httpStdio(up.addresses),
    )
    const bare = await startBareQueue(up.addresses.redis)
    subjects.push({ name: 'bullmq', run: (count) => timed(count, bare.roundTrip), close: bare.close })
    console.log(
      `${cpus().length} × ${cpus()[0]!.model}, load ${loadavg()
        .map((load) => load.toFixed(2))
        .join(' ')}; ${ROUNDS} rounds`,
    )
    const results = new Map<Name, number[]>(subjects.map((subject) => [subject.name, []]))
    for (let round = -WARM_UP_ROUNDS; round < ROUNDS; round++) {
      for (const subject of subjects) {
        const times = await subject.run(PER_ROUND[subject.name])
        if (round >= 0) results.get(subject.name)!.push(...times)
      }
      if (process.stdout.isTTY) process.stdout.write(`\rround ${round + 1} of ${ROUNDS} `)
    }
    const rows = summarise(results)
    print(rows)
    for (const subject of subjects.splice(0)) await subject.close()
    const base = probeSpec([rootfs], [])
    const specOf = (...args: string[]) => ({
      ...base,
      process: { ...base.process, args },
      linux: { ...base.linux, resources: LIMITS },
    })
    rows.push(
      ...(await measureRate(specOf('/bin/true'), { folder, nativeDir: NATIVE_DIR, seconds: RATE_SECONDS })),
    )
    rows.push(
      ...(await measureKept(specOf('/bin/busybox', 'sleep', '600'), { folder, nativeDir: NATIVE_DIR })),
    )
    printSustained(rows)
    mkdirSync(join(ROOT, 'build'), { recursive: true })
    writeFileSync(join(ROOT, 'build/bench.json'), JSON.stringify(rows, undefined, 2) + '\n')
    console.log('\nwritten to build/bench.json')
  } finally {
    for (const subject of subjects) await subject.close()
    if (up) {
      up.child.kill('SIGTERM')
      if (up.child.exitCode === null) await once(up.child, 'exit')
    }
    rmSync(folder, { recursive: true, force: true })
  }
}

await main()
