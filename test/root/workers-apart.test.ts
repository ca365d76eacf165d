// Several workers on one machine: they share no ids, a killed worker leaves nothing once its successor has
// started, and no worker touches what belongs to another. Also the warnings and errors of a worker that
// starts on a machine that lacks a feature.

import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import { openRuntime } from '../../services/runtime/open.ts'
import { claimIdRanges } from '../../services/runtime/id-ranges.ts'
import { createCgroupDriver } from '../../services/runtime/cgroup/cgroup.ts'
import { instanceName, sweepDead } from '../../services/runtime/janitor.ts'
import { openNative } from '../../services/runtime/native.ts'
import { createSlots } from '../../services/runtime/slots.ts'
import { tryContainer } from '../../services/runtime/trial.ts'
import { createLog } from '../../services/platform/log.ts'
import { identityOf, isAlive as isSame } from '../../services/platform/process-identity.ts'
import { NATIVE_DIR, needsRoot, probeSpec, runOnce } from '../helpers/container.ts'
import { newFolder, startWorker, type Worker } from '../helpers/worker-process.ts'

const RANGE = 65_536
const FIRST_ID = 16_777_216
const IDS_PER_BLOCK = 64 * RANGE
const NAMESPACES = ['net', 'mnt', 'pid', 'user', 'ipc', 'uts', 'cgroup']

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
} // it ended while we looked
const isAlive = (pid: number): boolean =>
  existsSync(`/proc/${pid}/stat`) && !/\) Z /.test(read(`/proc/${pid}/stat`))
const rangeOf = (pid: number): number =>
  Math.floor(Number(/^Uid:\t(\d+)/m.exec(read(`/proc/${pid}/status`))![1]) / RANGE)
const blockOf = (pid: number): number => Math.floor((rangeOf(pid) * RANGE - FIRST_ID) / IDS_PER_BLOCK)
const processes = (): string[] =>
  readdirSync('/proc').filter((name) => /^\d+$/.test(name) && isAlive(Number(name)))

function namespacesOf(pid: number | string): string[] {
  return NAMESPACES.flatMap((name) => {
    try {
      return [readlinkSync(`/proc/${pid}/ns/${name}`)]
    } catch {
      return []
    }
  })
}

async function kill(worker: Worker): Promise<void> {
  worker.child.kill('SIGKILL')
  await once(worker.child, 'exit')
}

t.test('ids of workers with different data folders', { skip: needsRoot }, async (t) => {
  const native = openNative(NATIVE_DIR)
  const workers = await Promise.all([1, 2, 3, 4, 5].map(() => startWorker(t)))
  const held = await Promise.all(workers.map((worker) => worker.ask({ hold: 3 })))

  t.test('never overlap', async (t) => {
    const ranges = held.flatMap(({ pids }) => pids.map(rangeOf))
    t.equal(new Set(ranges).size, 15, `ranges ${ranges.join(' ')}`)
    t.equal(new Set(held.map(({ pids }) => blockOf(pids[0]!))).size, 5, 'each worker has its own block')
  })
  t.test('are freed when a worker is killed, and not before', async (t) => {
    const [victim] = workers
    const block = blockOf(held[0]!.pids[0]!)
    const claim = (): number => {
      const { bases, release } = claimIdRanges({ native, count: 1, preferred: block })
      release()
      return (bases[0]! - FIRST_ID) / IDS_PER_BLOCK
    }
    t.not(claim(), block)
    await kill(victim!)
    while (held[0]!.pids.some(isAlive))
      await new Promise((resolve) => {
        setTimeout(resolve, 5)
      })
    t.equal(claim(), block)
  })
  t.test('that do not suffice are an error that says so', async (t) => {
    const directory = join(newFolder(t), 'ids')
    const all = claimIdRanges({ native, count: 30_000, preferred: 0, directory })
    t.equal(new Set(all.bases).size, 30_000)
    t.ok(all.bases.every((base) => base >= FIRST_ID && base + RANGE <= 2 ** 31))
    t.throws(() => claimIdRanges({ native, count: 5000, preferred: 0, directory }), {
      code: 'ERR_UNSUPPORTED',
      message: /other workers of this machine hold .*fewer slots/,
    })
    const rest = claimIdRanges({ native, count: 1000, preferred: 499, directory })
    t.notOk(
      rest.bases.some((base) => all.bases.includes(base)),
      'a failed claim leaves its blocks free',
    )
    for (const { release } of [all, rest]) release()
  })
})

t.test('a worker killed while 50 containers run, beside a second worker', { skip: needsRoot }, async (t) => {
  const links = readdirSync('/sys/class/net')
  const bystander = await startWorker(t)
  const kept = (await bystander.ask({ hold: 4, paused: 1 })).pids
  const victim = await startWorker(t)
  const { pids } = await victim.ask({ hold: 50, paused: 10 })
  const roots = victim.roots()
  const namespaces = new Set(pids.flatMap(namespacesOf))
  for (const name of namespacesOf('self')) namespaces.delete(name)
  const members = processes()
    .filter((pid) => namespacesOf(pid).some((name) => namespaces.has(name)))
    .flatMap((pid) => identityOf(Number(pid)) ?? [])
  const block = blockOf(pids[0]!)
  await kill(victim)

  t.test('keeps its block of ids reserved while one of its containers still exists', async (t) => {
    if (!pids.some(isAlive)) return t.comment('all of them are dead already')
    const { bases, release } = claimIdRanges({ native: openNative(NATIVE_DIR), count: 1, preferred: block })
    if (pids.some(isAlive)) t.not((bases[0]! - FIRST_ID) / IDS_PER_BLOCK, block)
    release()
  })

  const successor = await startWorker(t, undefined, victim.data)
  t.test(
    'leaves no process, cgroup, mount, namespace, link, scratch folder or id once it is restarted',
    async (t) => {
      t.same(pids.filter(isAlive), [], 'processes')
      t.same(
        roots.filter((root) => existsSync(root)),
        [],
        'cgroups',
      )
      t.same(globSync(`/sys/fs/cgroup/**/${basename(roots[0]!)}`), [], 'cgroups elsewhere')
      t.same(
        processes().filter(
          (pid) =>
            pid !== String(successor.child.pid) && read(`/proc/${pid}/mountinfo`).includes(victim.data),
        ),
        [],
        'mounts',
      )
      t.same(members.filter(isSame), [], 'namespaces, whose numbers may have been reused')
      t.same(readdirSync('/sys/class/net'), links, 'links')
      t.same(
        readdirSync(join(victim.data, 'run'))
          .filter((name) => !name.startsWith(`wherry-${successor.child.pid}-`))
          .sort(),
        ['dev', 'empty', 'stage'],
      )
      t.same(readdirSync(join(victim.data, 'run/stage')), [])
      const again = (await successor.ask({ hold: 1 })).pids
      t.equal(blockOf(again[0]!), block, 'the successor gets the ids')
    },
  )
  t.test('does not affect the other worker', async (t) => {
    t.same(kept.filter(isAlive), kept)
    t.match(await bystander.ask({ run: ['echo', 'here'] }), { outcome: 'ok', text: 'here\n' })
    t.same(await sweepDead(join(bystander.data, 'run')), { instances: 0, cgroups: 0, stuck: [] })
  })
})

t.test('a data folder whose file system cannot map ids', { skip: needsRoot }, async (t) => {
  const folder = newFolder(t)
  for (const name of ['lower', 'upper', 'work', 'data']) mkdirSync(join(folder, name))
  const data = join(folder, 'data')
  execFileSync('mount', [
    '-t',
    'overlay',
    'overlay',
    '-o',
    `lowerdir=${folder}/lower,upperdir=${folder}/upper,workdir=${folder}/work`,
    data,
  ])
  t.teardown(() => {
    execFileSync('umount', [data])
  })
  const layer = join(data, 'layer')
  mkdirSync(layer)
  execFileSync('cp', [join(NATIVE_DIR, 'probe'), layer])

  const warnings: string[] = []
  const log = Object.assign(createLog({ name: 'test', level: 'silent' }), {
    warn: (_: object, message: string) => {
      warnings.push(message)
    },
  })
  const runtime = await openRuntime({ nativeDir: NATIVE_DIR, dataDir: data, slots: 2, log })
  t.teardown(() => runtime.close())
  t.match(
    warnings.join(),
    /does not support id-mapped mounts: inside containers files of images belong to the overflow user/,
    'a warning states the consequence',
  )
  const run = (...args: string[]) =>
    runOnce(runtime, {
      spec: probeSpec([layer], args),
      body: Buffer.alloc(0),
      timeoutMs: 60_000,
      responseMaxBytes: 1000,
      signal: new AbortController().signal,
    })
  t.match(
    await run('ids'),
    { outcome: 'ok', response: Buffer.from('uid=0 gid=0 groups= pid=1 session=1\n') },
    'containers run nevertheless',
  )
  t.match(await run('write', '/tmp/x', '1'), { response: Buffer.from('ok\n') })
  t.equal(statSync(join(layer, 'probe')).uid, 0)
})

t.test(
  'a worker refuses to start on a kernel that cannot start containers',
  { skip: needsRoot },
  async (t) => {
    const native = openNative(NATIVE_DIR)
    const folder = newFolder(t)
    for (const name of ['dev', 'stage', 'empty']) mkdirSync(join(folder, name))
    const announced: string[] = []
    const driver = createCgroupDriver({
      native,
      instance: instanceName(),
      folder,
      announce(roots) {
        t.ok(
          roots.length > 0 && !roots.some((root) => existsSync(root)),
          'its cgroups are recorded before the first is created, so that a sweep after a kill finds them',
        )
        announced.push(...roots)
      },
    })
    t.same(announced, driver.roots)
    const slots = createSlots({
      native,
      ranges: claimIdRanges({ native, count: 1, preferred: 7 }),
      idmap: true,
      devRoot: join(folder, 'dev'),
    })
    t.teardown(() => {
      slots.close()
      driver.close()
    })
    const host = { stageDir: join(folder, 'stage'), rootByWorker: false, procPaths: new Map() }
    const noFilter = new Uint8Array(8) // no kernel takes a filter without a last word
    await t.rejects(
      tryContainer({
        native,
        slots,
        driver,
        layer: join(folder, 'empty'),
        host: { ...host, seccomp: noFilter },
      }),
      {
        code: 'ERR_UNSUPPORTED',
        message: 'containers cannot be started on this machine: seccomp: seccomp: EINVAL; see wherry doctor',
      },
    )
    t.same(
      driver.roots.flatMap((root) =>
        readdirSync(root, { withFileTypes: true }).filter((entry) => entry.isDirectory()),
      ),
      [],
      'nothing remains',
    )
  },
)
