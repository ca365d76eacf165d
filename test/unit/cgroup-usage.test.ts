// A container's usage from the files of its cgroup: both versions, several disks, and missing lines.

import t from 'tap'
import { parseV1, parseV2, usageSince } from '../../services/runtime/cgroup/usage.ts'

t.test('usage from the files of v1', async (t) => {
  t.same(
    parseV1({
      cpuacct: '12000000\n',
      memoryPeak: '4096\n',
      pidsPeak: '2\n',
      oomControl: 'oom_kill_disable 0\nunder_oom 0\noom_kill 3\n',
      cpuStat: 'nr_periods 4\nnr_throttled 2\nthrottled_time 5000000\nnr_bursts 0\n',
      io: '254:0 Read 10\n254:0 Write 20\n254:0 Sync 30\n254:0 Total 30\n8:0 Read 1\n8:0 Write 2\nTotal 33\n',
    }),
    {
      cpuMs: 12,
      cpuPeriods: 4,
      cpuThrottledPeriods: 2,
      cpuThrottledMs: 5,
      memoryPeakBytes: 4096,
      oomKills: 3,
      pidsPeak: 2,
      ioReadBytes: 11,
      ioWriteBytes: 22,
    },
  )
})

t.test('usage from the files of v2', async (t) => {
  t.same(
    parseV2({
      memoryPeak: '8192\n',
      pidsPeak: '7\n',
      events: 'low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 1\n',
      cpuStat:
        'usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 4\nnr_throttled 1\nthrottled_usec 2500\n',
      io: '254:0 rbytes=5 wbytes=6 rios=1 wios=1 dbytes=9 dios=1\n8:0 rbytes=1 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n',
    }),
    {
      cpuMs: 1.5,
      cpuPeriods: 4,
      cpuThrottledPeriods: 1,
      cpuThrottledMs: 2.5,
      memoryPeakBytes: 8192,
      oomKills: 1,
      pidsPeak: 7,
      ioReadBytes: 6,
      ioWriteBytes: 6,
    },
  )
})

t.test('what the kernel does not count is missing, not zero', async (t) => {
  const usage = parseV2({
    memoryPeak: '1',
    pidsPeak: undefined,
    io: undefined,
    events: '',
    cpuStat: 'usage_usec 10\n',
  })
  t.same(usage, {
    cpuMs: 0.01,
    cpuPeriods: 0,
    cpuThrottledPeriods: 0,
    cpuThrottledMs: 0,
    memoryPeakBytes: 1,
    oomKills: 0,
  })
})

t.test('sums are differences of two readings, peaks are the later one’s', async (t) => {
  const before = {
    cpuMs: 10,
    cpuPeriods: 5,
    cpuThrottledPeriods: 1,
    cpuThrottledMs: 3,
    memoryPeakBytes: 900,
    oomKills: 0,
    pidsPeak: 1,
    ioReadBytes: 7,
    ioWriteBytes: 8,
  }
  const now = {
    cpuMs: 25,
    cpuPeriods: 6,
    cpuThrottledPeriods: 2,
    cpuThrottledMs: 4,
    memoryPeakBytes: 400,
    oomKills: 1,
    pidsPeak: 3,
    ioReadBytes: 10,
    ioWriteBytes: 8,
  }
  t.same(usageSince(now, before), {
    cpuMs: 15,
    cpuPeriods: 1,
    cpuThrottledPeriods: 1,
    cpuThrottledMs: 1,
    memoryPeakBytes: 400,
    oomKills: 1,
    pidsPeak: 3,
    ioReadBytes: 3,
    ioWriteBytes: 0,
  })
})
