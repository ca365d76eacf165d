// What a container's cgroup has used, in the format of runc's `events` (its types/events.go), which monitors
// parse. Omits what the host does not count.

import { directoryFor, readCgroupFile, type CgroupTree } from './tree.ts'

type Numbers = Readonly<Record<string, number>>

interface Reader {
  number(controller: string, file: string): number | undefined
  /** Lines "key number". */
  keys(controller: string, file: string): Numbers
  text(controller: string, file: string): string | undefined
}

/** 2⁶⁴ − 1 bytes, as runc prints "max". */
const UNLIMITED = Number.MAX_SAFE_INTEGER
const USER_HZ = 100
const NS_PER_S = 1_000_000_000

function createReader(tree: CgroupTree): Reader {
  const text = (controller: string, file: string): string | undefined => {
    const directory = directoryFor(tree, controller)
    return directory === undefined ? undefined : readCgroupFile(directory, file)?.trim()
  }
  return {
    text,
    number(controller, file) {
      const value = text(controller, file)
      if (value === undefined || value === '') return undefined
      return value === 'max' ? UNLIMITED : Number(value)
    },
    keys: (controller, file) =>
      Object.fromEntries(
        [...(text(controller, file) ?? '').matchAll(/^(\S+) (\d+)$/gm)].map(([, key, value]) => [
          key!,
          Number(value),
        ]),
      ),
  }
}

/** "0-1,3" → [0, 1, 3] */
function listOf(text: string | undefined): number[] {
  return (text ?? '')
    .split(',')
    .filter((part) => /^\d+(?:-\d+)?$/.test(part))
    .flatMap((part) => {
      const [from, to = from] = part.split('-').map(Number) as [number, number?]
      return Array.from({ length: Math.min(to - from + 1, 8192) }, (_, i) => from + i)
    })
}

const numbersOf = (text: string | undefined): number[] =>
  (text ?? '').split(/\s+/).filter(Boolean).map(Number)

function cpuOf(read: Reader, version: 1 | 2): object {
  const stat = read.keys('cpu', 'cpu.stat')
  const throttling = {
    periods: stat.nr_periods,
    throttledPeriods: stat.nr_throttled,
    throttledTime: version === 2 ? (stat.throttled_usec ?? 0) * 1000 : stat.throttled_time,
  }
  if (version === 2)
    return {
      usage: {
        total: (stat.usage_usec ?? 0) * 1000,
        kernel: (stat.system_usec ?? 0) * 1000,
        user: (stat.user_usec ?? 0) * 1000,
      },
      throttling,
    }
  const ticks = read.keys('cpuacct', 'cpuacct.stat')
  const perCpu = (read.text('cpuacct', 'cpuacct.usage_all') ?? '')
    .split('\n')
    .slice(1)
    .map((line) => line.split(' ').map(Number))
  return {
    usage: {
      total: read.number('cpuacct', 'cpuacct.usage') ?? 0,
      percpu: numbersOf(read.text('cpuacct', 'cpuacct.usage_percpu')),
      percpu_kernel: perCpu.map(([, , system]) => system ?? 0),
      percpu_user: perCpu.map(([, user]) => user ?? 0),
      kernel: (ticks.system ?? 0) * (NS_PER_S / USER_HZ),
      user: (ticks.user ?? 0) * (NS_PER_S / USER_HZ),
    },
    throttling,
  }
}

function memoryOf(read: Reader, version: 1 | 2): object {
  const number = (file: string): number | undefined => read.number('memory', file)
  const raw = read.keys('memory', 'memory.stat')
  if (version === 2) {
    const usage = number('memory.current')
    return {
      cache: raw.file ?? 0,
      usage: {
        limit: number('memory.max') ?? UNLIMITED,
        usage,
        max: number('memory.peak'),
        failcnt: read.keys('memory', 'memory.events').max ?? 0,
      },
      swap: {
        limit: number('memory.swap.max') ?? UNLIMITED,
        usage: number('memory.swap.current'),
        max: number('memory.swap.peak'),
        failcnt: read.keys('memory', 'memory.swap.events').fail ?? 0,
      },
      kernel: { limit: UNLIMITED, usage: raw.kernel, failcnt: 0 },
      kernelTCP: { limit: UNLIMITED, usage: raw.sock, failcnt: 0 },
      raw,
    }
  }
  const entry = (kind: string): object => ({
    limit: number(`memory.${kind}limit_in_bytes`) ?? 0,
    usage: number(`memory.${kind}usage_in_bytes`),
    max: number(`memory.${kind}max_usage_in_bytes`),
    failcnt: number(`memory.${kind}failcnt`) ?? 0,
  })
  return {
    cache: raw.cache ?? 0,
    usage: entry(''),
    swap: entry('memsw.'),
    kernel: entry('kmem.'),
    kernelTCP: entry('kmem.tcp.'),
    raw,
  }
}

/** Lines "8:0 Read 4096" of v1. */
function blkioV1(text: string | undefined): object[] {
  return [...(text ?? '').matchAll(/^(\d+):(\d+) (\w+) (\d+)$/gm)].map(([, major, minor, op, value]) => ({
    major: Number(major),
    minor: Number(minor),
    op,
    value: Number(value),
  }))
}

/** Lines "8:0 rbytes=4096 wbytes=0 rios=1 …" of v2, only the counters NAMES. */
function blkioV2(text: string | undefined, names: Readonly<Record<string, string>>): object[] {
  return [...(text ?? '').matchAll(/^(\d+):(\d+) (.*)$/gm)].flatMap(([, major, minor, rest]) =>
    [...rest!.matchAll(/(\w+)=(\d+)/g)].flatMap(([, name, value]) => {
      const op = names[name!]
      return op === undefined
        ? []
        : [{ major: Number(major), minor: Number(minor), op, value: Number(value) }]
    }),
  )
}

function blkioOf(read: Reader, version: 1 | 2): object {
  const stat = version === 2 ? read.text('io', 'io.stat') : undefined
  const v1 = (file: string): object[] =>
    blkioV1(read.text('blkio', `blkio.bfq.${file}`) || read.text('blkio', `blkio.throttle.${file}`))
  const bytes =
    version === 2
      ? blkioV2(stat, { rbytes: 'Read', wbytes: 'Write', dbytes: 'Discard' })
      : v1('io_service_bytes_recursive')
  const count =
    version === 2
      ? blkioV2(stat, { rios: 'Read', wios: 'Write', dios: 'Discard' })
      : v1('io_serviced_recursive')
  return {
    ...(bytes.length > 0 && { ioServiceBytesRecursive: bytes }),
    ...(count.length > 0 && { ioServicedRecursive: count }),
  }
}

function cpusetOf(read: Reader): object {
  const flags = [
    'cpu_exclusive',
    'mem_hardwall',
    'mem_exclusive',
    'memory_migrate',
    'memory_spread_page',
    'memory_spread_slab',
    'memory_pressure',
    'sched_load_balance',
    'sched_relax_domain_level',
  ]
  const list = (what: string): number[] =>
    listOf(read.text('cpuset', `cpuset.effective_${what}`) ?? read.text('cpuset', `cpuset.${what}.effective`))
  return {
    cpus: list('cpus'),
    mems: list('mems'),
    ...Object.fromEntries(flags.map((name) => [name, read.number('cpuset', `cpuset.${name}`) ?? 0])),
  }
}

function pidsOf(read: Reader): object {
  const limit = read.number('pids', 'pids.max')
  return {
    current: read.number('pids', 'pids.current'),
    ...(limit !== undefined && limit !== UNLIMITED && { limit }),
  }
}

/** The `data` of runc's event "stats"; nanoseconds and bytes. */
export function statsOf(tree: CgroupTree): object {
  const read = createReader(tree)
  const { version } = tree
  return {
    cpu: cpuOf(read, version),
    cpuset: cpusetOf(read),
    memory: memoryOf(read, version),
    pids: pidsOf(read),
    blkio: blkioOf(read, version),
    hugetlb: {},
    intel_rdt: {},
    network_interfaces: null,
  }
}

/** How many processes the OOM killer has killed. */
export function oomKillsOf(tree: CgroupTree): number {
  return (
    createReader(tree).keys('memory', tree.version === 2 ? 'memory.events' : 'memory.oom_control').oom_kill ??
    0
  )
}
