// Changed limits and statistics on cgroup v2, with plain files in place of the kernel's (cgroup-v2.rst).
// test/root/oci-features.test.ts does the same with a kernel.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { BundleResources } from '../../services/contract/bundle-spec.ts'
import { oomKillsOf, statsOf } from '../../services/runtime/cgroup/stats.ts'
import type { CgroupTree } from '../../services/runtime/cgroup/tree.ts'
import { updateCgroup } from '../../services/runtime/cgroup/update.ts'
import { parseInterval } from '../../services/oci/events.ts'

const NOTHING: BundleResources = {
  devices: [],
  memory: {},
  cpu: {},
  pids: {},
  blockIO: { throttle: [], weightDevice: [] },
  network: { priorities: [] },
  rdma: [],
  hugepageLimits: [],
  unified: {},
}

/** A v2 cgroup with FILES. `text` reads one. */
function cgroup(
  t: Test,
  files: Readonly<Record<string, string>>,
): { tree: CgroupTree; text: (file: string) => string } {
  const path = t.testdir(files)
  return {
    tree: { version: 2, directories: [{ controllers: [], mountName: 'cgroup', path }] },
    text: (file) => readFileSync(join(path, file), 'utf8'),
  }
}

t.test('a partial update keeps the other limits', async (t) => {
  const { tree, text } = cgroup(t, {
    'cpu.max': 'max 100000\n',
    'memory.max': '1000000\n',
    'memory.swap.max': 'max\n',
    'memory.current': '5000\n',
    'pids.max': 'max\n',
  })
  updateCgroup(tree, { ...NOTHING, cpu: { quota: 50_000 }, memory: { swap: 1_500_000 } }, false)
  t.equal(text('cpu.max'), '50000 100000')
  t.equal(text('memory.swap.max').slice(0, 6), '500000', 'swap alone, without the unchanged memory limit')
  writeFileSync(join(tree.directories[0]!.path, 'cpu.max'), '50000 100000')
  updateCgroup(tree, { ...NOTHING, cpu: { period: 200_000 }, pids: { limit: 7 } }, false)
  t.equal(text('cpu.max'), '50000 200000')
  t.equal(text('pids.max')[0], '7')
})

t.test('impossible limits are named', async (t) => {
  const { tree } = cgroup(t, {
    'memory.max': 'max\n',
    'memory.current': '5000\n',
    'memory.swap.max': 'max\n',
  })
  t.throws(() => updateCgroup(tree, { ...NOTHING, memory: { limit: 4000 } }, true), {
    message: /memory\.limit: 4000 is below the 5000 bytes/,
  })
  t.throws(() => updateCgroup(tree, { ...NOTHING, memory: { swap: 4000 } }, false), {
    message: /memory\.swap: needs a memory\.limit/,
  })
  t.throws(() => updateCgroup(tree, { ...NOTHING, memory: { limit: 500, swap: 400 } }, false), {
    message: /memory\.swap: 400 is below memory\.limit 500/,
  })
  t.throws(
    () =>
      updateCgroup(
        tree,
        { ...NOTHING, memory: { swappiness: 4 }, network: { classID: 3, priorities: [] } },
        false,
      ),
    { message: /memory\.swappiness, linux\.resources\.network\.classID cannot be set: .* version 2/ },
  )
  t.throws(() => updateCgroup(tree, { ...NOTHING, pids: { limit: 4 } }, false), {
    message: /cgroup file pids\.max .* does not take "4" \(ENOENT\)/,
  })
})

t.test('statistics have runc’s format', async (t) => {
  const { tree } = cgroup(t, {
    'cpu.stat':
      'usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n',
    'memory.current': '4096\n',
    'memory.max': 'max\n',
    'memory.peak': '8192\n',
    'memory.stat': 'anon 1\nfile 2\nkernel 3\n',
    'memory.events': 'low 0\nmax 6\noom_kill 5\n',
    'pids.current': '3\n',
    'pids.max': '10\n',
    'cpuset.cpus.effective': '0-1,3\n',
    'cpuset.mems.effective': '0\n',
    'io.stat': '8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n',
  })
  t.match(statsOf(tree), {
    cpu: {
      usage: { total: 30_000, user: 20_000, kernel: 10_000 },
      throttling: { periods: 4, throttledPeriods: 3, throttledTime: 2000 },
    },
    cpuset: { cpus: [0, 1, 3], mems: [0] },
    memory: { cache: 2, usage: { usage: 4096, max: 8192, failcnt: 6 }, raw: { anon: 1, file: 2, kernel: 3 } },
    pids: { current: 3, limit: 10 },
    blkio: {
      ioServiceBytesRecursive: [
        { major: 8, minor: 0, op: 'Read', value: 1 },
        { op: 'Write', value: 2 },
        { op: 'Discard' },
      ],
      ioServicedRecursive: [{ value: 3 }, { value: 4 }, {}],
    },
  })
  t.equal(oomKillsOf(tree), 5)
  const gone = {
    version: 2,
    directories: [{ controllers: [], mountName: 'cgroup', path: '/nothing' }],
  } as const
  t.match(statsOf(gone), { pids: {}, blkio: {} }, 'a cgroup that is gone has used nothing')
  t.equal(oomKillsOf(gone), 0)
})

t.test('parses intervals', async (t) => {
  t.same(['5s', '1m30s', '500ms', '2'].map(parseInterval), [5000, 90_000, 500, 2000])
  for (const wrong of ['', '0s', 'x', '5 s', '-1s', '1000h'])
    t.throws(() => parseInterval(wrong), /is not a duration/, wrong)
})
