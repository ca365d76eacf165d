// Workers as processes: where they create cgroups, how they share one with other processes, and what they
// leave when they exit or are killed. Only a process can be in its own cgroup, so each worker is a child
// process.

import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import { findHostCgroups } from '../../services/runtime/cgroup/cgroup.ts'
import { handDown } from '../../services/runtime/cgroup/v2.ts'
import { sweepDead } from '../../services/runtime/janitor.ts'
import { needsRoot } from '../helpers/container.ts'
import { spawnIn, startWorker } from '../helpers/worker-process.ts'

const V2 = '/sys/fs/cgroup'
const LEAF = 'wherry.leaf'
const needsV2 =
  needsRoot ||
  (existsSync(`${V2}/cgroup.subtree_control`) && findHostCgroups({ mayOffer: false }).driver === 'v2'
    ? false
    : 'needs a cgroup v2 host (make test-vm has one)')

const read = (path: string): string => readFileSync(path, 'utf8').trim()
const cgroupOf = (pid: number | undefined): string => V2 + /^0::(.*)$/m.exec(read(`/proc/${pid}/cgroup`))![1]!
const isAlive = (pid: number): boolean =>
  existsSync(`/proc/${pid}/stat`) && !/\) Z /.test(read(`/proc/${pid}/stat`))

/** An empty cgroup below the root. The end of the test removes it with everything in it. */
function newCgroup(t: Test, parent = V2): string {
  const directory = join(parent, `test-${process.pid}-${Math.random().toString(36).slice(2, 8)}`)
  mkdirSync(directory)
  t.teardown(async () => {
    writeFileSync(join(directory, 'cgroup.kill'), '1')
    while (/populated 1/.test(read(join(directory, 'cgroup.events'))))
      await new Promise((resolve) => {
        setTimeout(resolve, 20)
      })
    const inner = readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name))
    for (const path of [directory, ...inner].sort((a, b) => b.length - a.length)) rmdirSync(path)
  })
  return directory
}

t.test('a killed worker', { skip: needsRoot }, async (t) => {
  const bystander = await startWorker(t)
  const [kept] = (await bystander.ask({ hold: 1 })).pids
  const victim = await startWorker(t)
  const { pids } = await victim.ask({ hold: 20 })
  const roots = victim.roots()
  victim.child.kill('SIGKILL')
  await once(victim.child, 'exit')

  t.test('leaves cgroups, and its successor removes them', async (t) => {
    const { instances, cgroups, stuck } = await sweepDead(join(victim.data, 'run'))
    t.same({ instances, stuck }, { instances: 1, stuck: [] })
    // Only paused containers are in it.
    const joined = roots.filter((root) => !root.includes('/freezer/'))
    t.ok(cgroups >= 20 * joined.length, `${cgroups} in ${joined.length} hierarchies; some are made ahead`)
    t.same(
      roots.filter((root) => existsSync(root)),
      [],
    )
  })
  t.test('ends its containers', async (t) => {
    t.same(pids.filter(isAlive), [])
  })
  t.test('can be replaced by a worker on the same data folder', async (t) => {
    const successor = await startWorker(t, undefined, victim.data)
    t.match(await successor.ask({ run: ['echo', 'again'] }), { outcome: 'ok', text: 'again\n' })
    await successor.end()
  })
  t.test('does not disturb a worker with another data folder', async (t) => {
    t.ok(isAlive(kept!))
    t.match(await bystander.ask({ run: ['echo', 'here'] }), { outcome: 'ok', text: 'here\n' })
  })
})

t.test('a worker in its own cgroup', { skip: needsV2 }, async (t) => {
  const unit = newCgroup(t)
  const others = [1, 2, 3].map(() => spawnIn(t, unit, 'sleep', '3600'))
  const worker = await startWorker(t, unit)

  t.test('moves into a leaf, with all processes of its cgroup', async (t) => {
    for (const { pid } of [...others, worker.child]) t.equal(cgroupOf(pid), join(unit, LEAF))
    t.equal(read(join(unit, 'cgroup.procs')), '')
    t.match(read(join(unit, 'cgroup.subtree_control')), /^cpu (?:io )?memory pids$/)
  })
  t.test('starts each container in its own cgroup, with every limit set', async (t) => {
    const [pid] = (await worker.ask({ hold: 1 })).pids
    const cgroup = cgroupOf(pid)
    t.ok(cgroup.startsWith(`${worker.roots()[0]}/`), cgroup)
    t.equal(read(join(cgroup, 'cgroup.procs')), String(pid))
    const limits = {
      'memory.max': String(32 << 20),
      'memory.swap.max': '0',
      'memory.oom.group': '1',
      'cpu.max': '100000 100000',
      'pids.max': '32',
    }
    for (const [file, value] of Object.entries(limits)) {
      // A kernel without swap accounting.
      if (file === 'memory.swap.max' && !existsSync(join(cgroup, file))) continue
      t.equal(read(join(cgroup, file)), value, file)
    }
  })
  t.test('charges a container’s memory to the container, not to itself', async (t) => {
    const before = Number(read(join(unit, LEAF, 'memory.current')))
    const { usage } = await worker.ask({ run: ['memory', String(20 << 20)] })
    t.ok(usage.memoryPeakBytes >= 20 << 20, `peak ${usage.memoryPeakBytes}`)
    t.ok(Number(read(join(unit, LEAF, 'memory.current'))) - before < 15 << 20)
  })
  t.test('counts OOM kills', async (t) => {
    const { outcome, usage } = await worker.ask({ run: ['child-memory', String(64 << 20)] })
    t.equal(outcome, 'oom')
    t.ok(usage.oomKills >= 2, 'the child, and the first process with it')
  })
  t.test('shares it with a second worker, which starts in the leaf', async (t) => {
    const second = await startWorker(t, join(unit, LEAF))
    t.same(
      readdirSync(unit)
        .filter((name) => name.startsWith('wherry-'))
        .sort(),
      [...worker.roots(), ...second.roots()].map((path) => basename(path)).sort(),
    )
    t.match(await second.ask({ run: ['echo', 'two'] }), { outcome: 'ok', text: 'two\n' })
    await second.end()
    t.match(
      await worker.ask({ run: ['echo', 'one'] }),
      { outcome: 'ok', text: 'one\n' },
      'the end of one worker does not affect the other',
    )
  })
  t.test('restores the cgroup when the last one exits', async (t) => {
    const inUse = await startWorker(t, join(unit, LEAF))
    worker.child.kill('SIGKILL') // its container keeps the controllers in use until a sweep
    await once(worker.child, 'exit')
    await sweepDead(join(worker.data, 'run'))
    await inUse.end()
    t.same(
      readdirSync(unit, { withFileTypes: true }).filter((entry) => entry.isDirectory()),
      [],
    )
    t.equal(read(join(unit, 'cgroup.subtree_control')), '')
    for (const { pid } of others) t.equal(cgroupOf(pid), unit)
  })
})

t.test('a cgroup that other processes and their containers share', { skip: needsV2 }, async (t) => {
  const names = ['cpu', 'memory', 'pids']
  const unit = newCgroup(t)
  const enters = async (cgroup: string) => {
    const { pid } = spawnIn(t, cgroup, 'sleep', '3600')
    while (!read(join(cgroup, 'cgroup.procs')).split('\n').includes(String(pid)))
      await new Promise((resolve) => {
        setTimeout(resolve, 20)
      })
  }
  await enters(unit)

  t.test('delegates nothing, so that others can still create child cgroups with processes', async (t) => {
    handDown(unit, names)
    t.equal(read(join(unit, 'cgroup.subtree_control')), '')
    t.equal(read(join(unit, 'cgroup.type')), 'domain')
    const child = join(unit, 'child')
    mkdirSync(child)
    t.equal(read(join(child, 'cgroup.type')), 'domain')
    await enters(child)
    writeFileSync(join(child, 'cgroup.kill'), '1')
    while (/populated 1/.test(read(join(child, 'cgroup.events'))))
      await new Promise((resolve) => {
        setTimeout(resolve, 20)
      })
    rmdirSync(child)
  })
  t.test('does not remove the limits of other containers when the last worker exits', async (t) => {
    const worker = await startWorker(t, unit)
    const theirs = join(unit, 'theirs')
    mkdirSync(theirs)
    writeFileSync(join(theirs, 'memory.max'), String(64 << 20))
    await enters(theirs)
    await worker.end()
    t.equal(read(join(theirs, 'memory.max')), String(64 << 20))
    t.equal(read(join(unit, 'cgroup.procs')), '', 'the other processes stay in the leaf')
    t.match(await (await startWorker(t, join(unit, LEAF))).ask({ run: ['echo', 'next'] }), {
      outcome: 'ok',
      text: 'next\n',
    })
  })
})

t.test('missing controllers', { skip: needsV2 }, async (t) => {
  t.test('are enabled in the cgroups above where possible', async (t) => {
    const outer = newCgroup(t)
    const inner = newCgroup(t, outer)
    t.equal(read(join(inner, 'cgroup.controllers')), '')
    const worker = await startWorker(t, inner)
    t.match(await worker.ask({ run: ['echo', 'x'] }), { outcome: 'ok' })
    await worker.end()
  })
  t.test('are named if they cannot be enabled', async (t) => {
    const outer = newCgroup(t)
    const inner = newCgroup(t, outer)
    const holder = spawnIn(t, outer, 'sleep', '3600') // a cgroup with a process has nothing to give
    while (!read(join(outer, 'cgroup.procs')).includes(String(holder.pid)))
      await new Promise((resolve) => {
        setTimeout(resolve, 20)
      })
    await t.rejects(startWorker(t, inner), {
      message: /cgroup controller .*memory.* is not available \(layout v2\).*Delegate=yes/,
    })
  })
})
