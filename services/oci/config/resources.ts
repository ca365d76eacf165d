// `linux.resources` of config.json (config-linux.md, Control groups): the limits of a container's cgroup.

import type { BundleResources, DeviceRule, Throttle } from '../../contract/bundle-spec.ts'
import type { Cursor } from '../../contract/cursor.ts'
import { defined } from '../../contract/defined.ts'

/** Limit of major and minor numbers (20 bits, <linux/kdev_t.h>). */
export const DEVICE_NUMBER_MAX = 1_048_575
const UINT32_MAX = 4_294_967_295
const BYTES_MAX = Number.MAX_SAFE_INTEGER
const THROTTLES = [
  ['throttleReadBpsDevice', 'readBps'],
  ['throttleWriteBpsDevice', 'writeBps'],
  ['throttleReadIOPSDevice', 'readIops'],
  ['throttleWriteIOPSDevice', 'writeIops'],
] as const

/** Engines write 0 for "not set" and -1 for "no limit". */
const bytes = (field: Cursor): number | undefined => field.maybe((c) => c.whole(-1, BYTES_MAX)) || undefined
const positive = (field: Cursor, max: number): number | undefined =>
  field.maybe((c) => c.whole(0, max)) || undefined

function readDeviceRule(rule: Cursor): DeviceRule {
  const access = rule.get('access').maybe((c) => c.text()) || 'rwm'
  if (!/^[rwm]{1,3}$/.test(access)) rule.get('access').fault(`"${access}" may only contain r, w and m`)
  const number = (name: string): number | undefined => {
    const value = rule.get(name).maybe((c) => c.whole(-1, DEVICE_NUMBER_MAX))
    return value === -1 ? undefined : value
  }
  return {
    allow: rule.get('allow').boolean(false),
    type: rule.get('type').maybe((c) => c.text())
      ? rule.get('type').oneOf(['a', 'b', 'c'], 'a device type')
      : 'a',
    access,
    ...defined({ major: number('major'), minor: number('minor') }),
  }
}

function readThrottles(blockIO: Cursor): Throttle[] {
  return THROTTLES.flatMap(([name, kind]) =>
    blockIO.get(name).list((c) => ({
      kind,
      major: c.get('major').whole(0, DEVICE_NUMBER_MAX),
      minor: c.get('minor').whole(0, DEVICE_NUMBER_MAX),
      rate: c.get('rate').whole(0, BYTES_MAX),
    })),
  )
}

/** 10 to 1000 (config-linux.md, Block IO), or 0 for "not set". */
const weightOf = (field: Cursor): number | undefined => {
  const weight = field.maybe((c) => c.whole(0, 1000)) || undefined
  if (weight !== undefined && weight < 10) field.fault(`${weight} must be at least 10`)
  return weight
}

function readBlockIO(blockIO: Cursor): BundleResources['blockIO'] {
  return {
    throttle: readThrottles(blockIO),
    weightDevice: blockIO.get('weightDevice').list((c) => ({
      major: c.get('major').whole(0, DEVICE_NUMBER_MAX),
      minor: c.get('minor').whole(0, DEVICE_NUMBER_MAX),
      ...defined({ weight: weightOf(c.get('weight')), leafWeight: weightOf(c.get('leafWeight')) }),
    })),
    ...defined({ weight: weightOf(blockIO.get('weight')), leafWeight: weightOf(blockIO.get('leafWeight')) }),
  }
}

function readNetwork(network: Cursor): BundleResources['network'] {
  return {
    priorities: network.get('priorities').list((c) => {
      const name = c.get('name').text()
      if (!/^[^\s/]{1,15}$/.test(name)) c.get('name').fault(`"${name}" is not a network interface name`)
      return { name, priority: c.get('priority').whole(0, UINT32_MAX) }
    }),
    ...defined({ classID: network.get('classID').maybe((c) => c.whole(0, UINT32_MAX)) || undefined }),
  }
}

function readRdma(rdma: Cursor): BundleResources['rdma'] {
  return rdma.keys().map((device) => {
    const limits = rdma.get(device)
    if (!/^[\w.-]{1,63}$/.test(device)) limits.fault('is not a device name')
    return {
      device,
      ...defined({
        hcaHandles: limits.get('hcaHandles').maybe((c) => c.whole(0, UINT32_MAX)),
        hcaObjects: limits.get('hcaObjects').maybe((c) => c.whole(0, UINT32_MAX)),
      }),
    }
  })
}

const cpuList = (field: Cursor): string | undefined =>
  field.maybe((c) => {
    const list = c.text()
    if (!/^[\d,\s-]*$/.test(list)) c.fault(`"${list}" is not a list such as "0-3,7"`)
    return list
  }) || undefined

function readUnified(unified: Cursor): Record<string, string> {
  const values = unified.texts()
  for (const key of Object.keys(values))
    if (!/^[\w.]+$/.test(key) || !key.includes('.')) unified.get(key).fault('is not a cgroup file name')
  return values
}

function readHugepages(list: Cursor): Array<{ pageSize: string; limit: number }> {
  const seen = new Set<string>()
  return list.list((c) => {
    const pageSize = c.get('pageSize').text()
    if (seen.has(pageSize)) c.get('pageSize').fault(`"${pageSize}" is given twice`)
    seen.add(pageSize)
    if (!/^\d+[KMG]B$/.test(pageSize)) c.get('pageSize').fault(`"${pageSize}" is not a size such as "2MB"`)
    return { pageSize, limit: c.get('limit').whole(0, BYTES_MAX) }
  })
}

/** memory.swap includes memory, so it must not be lower. For `update`, only the kernel can check this. */
function checkSwap(memory: Cursor, { limit = -1, swap = -1 }: BundleResources['memory']): void {
  if (swap > 0 && limit < 0) memory.get('swap').fault('needs a memory.limit, because it includes memory')
  else if (swap > 0 && limit > swap)
    memory.get('swap').fault(`${swap} is below memory.limit ${limit}, which it includes`)
}

/** `linux.resources` of config.json. INUSE: for `update` of a running container. */
export function readResources(resources: Cursor, warnings: string[], inUse = false): BundleResources {
  const memory = resources.get('memory')
  const cpu = resources.get('cpu')
  const memoryFields = defined({
    limit: bytes(memory.get('limit')),
    reservation: bytes(memory.get('reservation')),
    swap: bytes(memory.get('swap')),
    swappiness: memory.get('swappiness').maybe((c) => c.whole(0, 100)),
    disableOOMKiller: memory.get('disableOOMKiller').maybe((c) => c.boolean(false)) || undefined,
    kernelTCP: bytes(memory.get('kernelTCP')),
  })
  // Linux removed both: the former in 5.16 (cgroup-v1/memory.rst), the latter in 5.11.
  if (bytes(memory.get('kernel')) !== undefined)
    warnings.push(
      `${memory.get('kernel').path}: the kernel no longer has a separate limit; kernel memory counts towards memory.limit`,
    )
  if (memory.get('useHierarchy').maybe((c) => c.boolean(true)) === false)
    warnings.push(`${memory.get('useHierarchy').path}: the kernel always includes descendant cgroups`)
  memory.get('checkBeforeUpdate').boolean(false) // only checked here; it matters for `update`
  if (!inUse) checkSwap(memory, memoryFields)
  return {
    devices: resources.get('devices').list(readDeviceRule),
    memory: memoryFields,
    cpu: defined({
      shares: positive(cpu.get('shares'), 262_144),
      quota: cpu.get('quota').maybe((c) => c.whole(-1, BYTES_MAX)) || undefined,
      period: positive(cpu.get('period'), 1_000_000),
      burst: cpu.get('burst').maybe((c) => c.whole(0, BYTES_MAX)),
      realtimeRuntime: cpu.get('realtimeRuntime').maybe((c) => c.whole(-1, BYTES_MAX)) || undefined,
      realtimePeriod: positive(cpu.get('realtimePeriod'), BYTES_MAX),
      cpus: cpuList(cpu.get('cpus')),
      mems: cpuList(cpu.get('mems')),
      idle: cpu.get('idle').maybe((c) => c.whole(0, 1)),
    }),
    pids: defined({
      limit:
        resources
          .get('pids')
          .get('limit')
          .maybe((c) => c.whole(-1, BYTES_MAX)) || undefined,
    }),
    blockIO: readBlockIO(resources.get('blockIO')),
    network: readNetwork(resources.get('network')),
    rdma: readRdma(resources.get('rdma')),
    hugepageLimits: readHugepages(resources.get('hugepageLimits')),
    unified: readUnified(resources.get('unified')),
  }
}
