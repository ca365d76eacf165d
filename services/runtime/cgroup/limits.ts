// The limits of a bundle's container as writes to cgroup files, one function for each version of cgroups
// (Documentation/admin-guide/cgroup-v1, cgroup-v2.rst). Pure: tree.ts writes them. Limits that the spec omits
// are not written.

import type { BundleResources, Throttle } from '../../contract/bundle-spec.ts'

export interface LimitWrite {
  readonly controller: string
  readonly file: string
  readonly text: string
  /** Another file for the same limit, which some kernels have instead. */
  readonly otherwise?: { readonly file: string; readonly text: string }
}

const V1_THROTTLE: Readonly<Record<Throttle['kind'], string>> = {
  readBps: 'read_bps_device',
  writeBps: 'write_bps_device',
  readIops: 'read_iops_device',
  writeIops: 'write_iops_device',
}
const V2_THROTTLE: Readonly<Record<Throttle['kind'], string>> = {
  readBps: 'rbps',
  writeBps: 'wbps',
  readIops: 'riops',
  writeIops: 'wiops',
}
/** cpu.shares 2 … 262144 is cpu.weight 1 … 10000. */
const SHARES_MIN = 2
const SHARES_RANGE = 262_142
const WEIGHT_RANGE = 9999

function write(
  controller: string,
  file: string,
  value: number | string | undefined,
  otherwise?: { file: string; text?: string },
): LimitWrite[] {
  const text = String(value)
  return value === undefined
    ? []
    : [{ controller, file, text, ...(otherwise && { otherwise: { text, ...otherwise } }) }]
}

/** Weights of the spec are 10 … 1000, like those of bfq; io.weight has 1 … 10000. */
const ioWeight = (weight: number): number => 1 + Math.floor(((weight - 10) * WEIGHT_RANGE) / 990)

/** Names of limits in RESOURCES that no kernel has in cgroups of VERSION. */
export function beyondCgroups(version: 1 | 2, resources: BundleResources): readonly string[] {
  const { memory, cpu, blockIO, network, unified } = resources
  const asked: ReadonlyArray<readonly [string, boolean]> =
    version === 1
      ? [['unified', Object.keys(unified).length > 0]]
      : [
          ['memory.swappiness', memory.swappiness !== undefined],
          ['memory.disableOOMKiller', memory.disableOOMKiller === true],
          ['memory.kernelTCP', memory.kernelTCP !== undefined],
          ['cpu.realtimeRuntime', cpu.realtimeRuntime !== undefined],
          ['cpu.realtimePeriod', cpu.realtimePeriod !== undefined],
          [
            'blockIO.leafWeight',
            blockIO.leafWeight !== undefined ||
              blockIO.weightDevice.some(({ leafWeight }) => leafWeight !== undefined),
          ],
          ['network.classID', network.classID !== undefined],
          ['network.priorities', network.priorities.length > 0],
        ]
  return asked.flatMap(([name, is]) => (is ? [`linux.resources.${name}`] : []))
}

const orMax = (value: number | undefined): number | string | undefined =>
  value !== undefined && value < 0 ? 'max' : value

const device = (major: number, minor: number, value: number | undefined): string | undefined =>
  value === undefined ? undefined : `${major}:${minor} ${value}`

/** The same on both versions (cgroup-v1/rdma.rst). */
function rdmaLimits(resources: BundleResources): LimitWrite[] {
  return resources.rdma.flatMap(({ device: name, hcaHandles, hcaObjects }) => {
    const limits = [
      ...(hcaHandles === undefined ? [] : [`hca_handle=${hcaHandles}`]),
      ...(hcaObjects === undefined ? [] : [`hca_object=${hcaObjects}`]),
    ]
    return limits.length === 0 ? [] : write('rdma', 'rdma.max', `${name} ${limits.join(' ')}`)
  })
}

/**
 * For a new v1 cgroup, in an order that the kernel accepts (a limit before the one that includes swap, a
 * period before its quota).
 */
export function limitsV1(resources: BundleResources): LimitWrite[] {
  const { memory, cpu, pids, blockIO, network } = resources
  const priorities = network.priorities.flatMap(({ name, priority }) =>
    write('net_prio', 'net_prio.ifpriomap', `${name} ${priority}`),
  )
  const weights = blockIO.weightDevice.flatMap(({ major, minor, weight, leafWeight }) => [
    ...write('blkio', 'blkio.weight_device', device(major, minor, weight), {
      file: 'blkio.bfq.weight_device',
    }),
    ...write('blkio', 'blkio.leaf_weight_device', device(major, minor, leafWeight)),
  ])
  return [
    ...write('memory', 'memory.limit_in_bytes', memory.limit),
    ...write('memory', 'memory.memsw.limit_in_bytes', memory.swap),
    ...write('memory', 'memory.soft_limit_in_bytes', memory.reservation),
    ...write('memory', 'memory.kmem.tcp.limit_in_bytes', memory.kernelTCP),
    ...write('memory', 'memory.swappiness', memory.swappiness),
    ...write('memory', 'memory.oom_control', memory.disableOOMKiller === true ? 1 : undefined),
    ...write('cpu', 'cpu.shares', cpu.shares),
    ...write('cpu', 'cpu.cfs_period_us', cpu.period),
    ...write('cpu', 'cpu.cfs_quota_us', cpu.quota),
    ...write('cpu', 'cpu.cfs_burst_us', cpu.burst),
    ...write('cpu', 'cpu.rt_period_us', cpu.realtimePeriod),
    ...write('cpu', 'cpu.rt_runtime_us', cpu.realtimeRuntime),
    ...write('cpu', 'cpu.idle', cpu.idle),
    ...write('cpuset', 'cpuset.cpus', cpu.cpus),
    ...write('cpuset', 'cpuset.mems', cpu.mems),
    ...write('pids', 'pids.max', orMax(pids.limit)),
    ...write('blkio', 'blkio.weight', blockIO.weight, { file: 'blkio.bfq.weight' }),
    ...write('blkio', 'blkio.leaf_weight', blockIO.leafWeight),
    ...weights,
    ...blockIO.throttle.flatMap((t) =>
      write('blkio', `blkio.throttle.${V1_THROTTLE[t.kind]}`, `${t.major}:${t.minor} ${t.rate}`),
    ),
    ...resources.hugepageLimits.flatMap((h) =>
      write('hugetlb', `hugetlb.${h.pageSize}.limit_in_bytes`, h.limit),
    ),
    ...write('net_cls', 'net_cls.classid', network.classID),
    ...priorities,
    ...rdmaLimits(resources),
  ]
}

/** memory.swap.max is swap only, the spec's number is memory plus swap. */
function swapAlone(swap: number | undefined, limit: number | undefined): number | string | undefined {
  if (swap === undefined) return undefined
  return swap < 0 || limit === undefined || limit < 0 ? 'max' : swap - limit
}

/** For a v2 cgroup. `unified` comes last: it names files of the kernel directly and overrides the others. */
export function limitsV2(resources: BundleResources): LimitWrite[] {
  const { memory, cpu, pids, blockIO } = resources
  const weight =
    cpu.shares === undefined
      ? undefined
      : 1 + Math.floor(((Math.max(cpu.shares, SHARES_MIN) - SHARES_MIN) * WEIGHT_RANGE) / SHARES_RANGE)
  const bandwidth =
    cpu.quota === undefined && cpu.period === undefined
      ? undefined
      : `${cpu.quota === undefined || cpu.quota < 0 ? 'max' : cpu.quota} ${cpu.period ?? 100_000}`
  return [
    ...write('memory', 'memory.max', orMax(memory.limit)),
    ...write('memory', 'memory.swap.max', swapAlone(memory.swap, memory.limit)),
    ...write('memory', 'memory.low', orMax(memory.reservation)),
    ...write('cpu', 'cpu.weight', weight),
    ...write('cpu', 'cpu.max', bandwidth),
    ...write('cpu', 'cpu.max.burst', cpu.burst),
    ...write('cpu', 'cpu.idle', cpu.idle),
    ...write('cpuset', 'cpuset.cpus', cpu.cpus),
    ...write('cpuset', 'cpuset.mems', cpu.mems),
    ...write('pids', 'pids.max', orMax(pids.limit)),
    ...(blockIO.weight === undefined
      ? []
      : write('io', 'io.bfq.weight', blockIO.weight, {
          file: 'io.weight',
          text: `default ${ioWeight(blockIO.weight)}`,
        })),
    ...blockIO.weightDevice.flatMap(({ major, minor, weight }) =>
      weight === undefined
        ? []
        : write('io', 'io.bfq.weight', device(major, minor, weight), {
            file: 'io.weight',
            text: `${major}:${minor} ${ioWeight(weight)}`,
          }),
    ),
    ...blockIO.throttle.flatMap((t) =>
      write('io', 'io.max', `${t.major}:${t.minor} ${V2_THROTTLE[t.kind]}=${t.rate}`),
    ),
    ...resources.hugepageLimits.flatMap((h) => write('hugetlb', `hugetlb.${h.pageSize}.max`, h.limit)),
    ...rdmaLimits(resources),
    ...Object.entries(resources.unified).flatMap(([file, text]) =>
      write(file.slice(0, file.indexOf('.')), file, text),
    ),
  ]
}
