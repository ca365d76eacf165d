// Updates limits of a running container: only named limits change. The order of writes matters to the kernel,
// and some limits are written as a whole; current values are read from the kernel.

import { InvalidRequest } from '../../contract/errors.ts'
import type { BundleResources } from '../../contract/bundle-spec.ts'
import { limitsV1, limitsV2, type LimitWrite } from './limits.ts'
import { checkLimits, directoryFor, readCgroupFile, writeLimit, type CgroupTree } from './tree.ts'

const PERIOD_DEFAULT_US = 100_000

const fault = (path: string, problem: string): InvalidRequest => new InvalidRequest([{ path, problem }])

function numberIn(tree: CgroupTree, controller: string, file: string): number | undefined {
  const directory = directoryFor(tree, controller)
  const text = directory === undefined ? undefined : readCgroupFile(directory, file)?.trim()
  if (text === undefined || text === '') return undefined
  return text === 'max' ? Infinity : Number(text)
}

/** v2 takes quota and period together, and has no limit for memory plus swap. */
function completeV2(tree: CgroupTree, asked: BundleResources): BundleResources {
  const directory = directoryFor(tree, 'cpu')
  const [quota, period] =
    (directory === undefined ? undefined : readCgroupFile(directory, 'cpu.max'))?.trim().split(' ') ?? []
  const { cpu, memory } = asked
  const now = {
    quota: quota === undefined || quota === 'max' ? -1 : Number(quota),
    period: Number(period ?? PERIOD_DEFAULT_US),
  }
  const limit = memory.limit ?? numberIn(tree, 'memory', 'memory.max') ?? Infinity
  if (memory.swap !== undefined && memory.swap > 0 && (limit < 0 || limit === Infinity))
    throw fault('memory.swap', 'needs a memory.limit; it counts memory and swap together')
  if (memory.swap !== undefined && memory.swap > 0 && memory.swap < limit)
    throw fault(
      'memory.swap',
      `${memory.swap} is below memory.limit ${limit}; it counts memory and swap together`,
    )
  return {
    ...asked,
    cpu:
      cpu.quota === undefined && cpu.period === undefined
        ? cpu
        : { ...cpu, quota: cpu.quota ?? now.quota, period: cpu.period ?? now.period },
    memory: memory.swap === undefined || limit === Infinity ? memory : { ...memory, limit },
  }
}

/**
 * v1: the limit that includes swap may never be below the other one, so the direction decides which moves
 * first.
 */
function inOrderV1(tree: CgroupTree, asked: BundleResources): LimitWrite[] {
  const writes = limitsV1(asked)
  const { limit, swap } = asked.memory
  const now = {
    limit: numberIn(tree, 'memory', 'memory.limit_in_bytes') ?? 0,
    swap: numberIn(tree, 'memory', 'memory.memsw.limit_in_bytes') ?? Infinity,
  }
  const wanted = limit === undefined ? now.limit : limit < 0 ? Infinity : limit
  if (swap === undefined && wanted > now.swap)
    throw fault(
      'memory.limit',
      `${limit} is above ${now.swap}, the limit of memory and swap together; change memory.swap, too`,
    )
  if (swap !== undefined && swap > 0 && swap < wanted)
    throw fault('memory.swap', `${swap} is below memory.limit ${wanted}; it counts memory and swap together`)
  const swapFirst = swap !== undefined && (swap < 0 || swap > now.swap)
  const isSwap = ({ file }: LimitWrite): boolean => file === 'memory.memsw.limit_in_bytes'
  return swapFirst ? [...writes.filter(isSwap), ...writes.filter((write) => !isSwap(write))] : writes
}

/**
 * Sets the limits of ASKED (except devices). CHECKUSAGE: refuse a memory limit below current usage. Throws
 * InvalidRequest, or Unsupported naming the file that refuses; earlier writes stay.
 */
export function updateCgroup(tree: CgroupTree, asked: BundleResources, checkUsage: boolean): void {
  checkLimits(tree, asked)
  const usage = numberIn(tree, 'memory', tree.version === 2 ? 'memory.current' : 'memory.usage_in_bytes') ?? 0
  const { limit } = asked.memory
  if (checkUsage && limit !== undefined && limit > 0 && limit < usage)
    throw fault('memory.limit', `${limit} is below the ${usage} bytes that are used now`)
  for (const write of tree.version === 2 ? limitsV2(completeV2(tree, asked)) : inOrderV1(tree, asked))
    writeLimit(tree, write)
}
