// Starts a trial container: everything that a function's container has, up to an exec that finds no program.
// So a worker reports what its kernel lacks when it starts, not at its first call.

import { setTimeout as delay } from 'node:timers/promises'
import { StartError, Unsupported } from '../contract/errors.ts'
import type { Resources, RuntimeSpec } from '../contract/runtime-spec.ts'
import type { Cgroup, CgroupDriver } from './cgroup/driver.ts'
import { createRuntime, type RuntimeDeps } from './container.ts'
import {
  FUNCTION_MOUNTS,
  FUNCTION_SYSCTL,
  MASKED_PATHS,
  NAMESPACES,
  NO_CAPABILITIES,
  READONLY_PATHS,
} from './spec.ts'

const SCRATCH_BYTES = 1 << 20
const REMOVE_RETRY_MS = 5
const REMOVE_TRIES_MAX = 200
const LIMITS: Resources = {
  memory: { limit: 16 << 20 },
  cpu: { quota: 100_000, period: 100_000 },
  pids: { limit: 8 },
}

const spec = (layer: string): RuntimeSpec => ({
  hostname: 'trial',
  process: {
    args: ['/no-program'],
    env: [],
    cwd: '/',
    user: { uid: 0, gid: 0, additionalGids: [] },
    capabilities: NO_CAPABILITIES,
    rlimits: [{ type: 'RLIMIT_CORE', soft: 1, hard: 1 }],
    noNewPrivileges: true,
  },
  root: { layers: [layer], readonly: false, scratchBytes: SCRATCH_BYTES, scratchInodes: 64 },
  mounts: FUNCTION_MOUNTS,
  linux: {
    namespaces: NAMESPACES,
    resources: LIMITS,
    sysctl: FUNCTION_SYSCTL,
    maskedPaths: MASKED_PATHS,
    readonlyPaths: READONLY_PATHS,
  },
})

/**
 * Starts a container with the empty folder LAYER as its root. Throws Unsupported naming the operation that
 * failed.
 */
export async function tryContainer({
  driver,
  layer,
  ...deps
}: Omit<RuntimeDeps, 'cgroups'> & { driver: CgroupDriver; layer: string }): Promise<void> {
  const made: Cgroup[] = []
  const take = (resources: Resources): Cgroup => {
    const cgroup = driver.create('trial', resources)
    made.push(cgroup)
    return cgroup
  }
  try {
    createRuntime({ ...deps, cgroups: { take, giveBack() {}, async close() {} } }).start(spec(layer))
  } catch (err) {
    if (!(err instanceof StartError && err.code === 'ERR_COMMAND_NOT_FOUND')) {
      throw new Unsupported(
        `containers cannot be started on this machine: ${err instanceof Error ? err.message : String(err)}; see wherry doctor`,
        err,
      )
    }
  } finally {
    for (const cgroup of made)
      for (let i = 0; i < REMOVE_TRIES_MAX && !cgroup.remove(); i++) await delay(REMOVE_RETRY_MS)
  }
}
