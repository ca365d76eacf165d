// Opens the runtime for a process that runs containers: sweep what a dead predecessor left, find the cgroups,
// create the device directory, compile the filter, open slots, start a trial container.

import { mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Unsupported } from '../contract/errors.ts'
import type { Log } from '../platform/log.ts'
import { createCgroupDriver } from './cgroup/cgroup.ts'
import type { CgroupDriver } from './cgroup/driver.ts'
import { createCgroupPool } from './cgroup/pool.ts'
import { createRuntime, type Runtime } from './container.ts'
import { refusesIdmap, UNMAPPED } from './doctor.ts'
import { claimIdRanges } from './id-ranges.ts'
import { forgetInstance, instanceName, registerInstance, sweepDead } from './janitor.ts'
import { openNative } from './native.ts'
import { compileSeccomp } from './seccomp.ts'
import { FUNCTION_PROFILE, type SyscallRule } from './seccomp-profile.ts'
import { createSlots, type Slots } from './slots.ts'
import { MASKED_PATHS, READONLY_PATHS } from './spec.ts'
import { tryContainer } from './trial.ts'

export interface RuntimeOptions {
  readonly nativeDir: string
  readonly dataDir: string
  /** Containers at once. */
  readonly slots: number
  /** System calls that containers may make. */
  readonly seccomp?: readonly SyscallRule[]
  readonly log: Log
}

/** The masked and read-only paths that this kernel has. */
function findProcPaths(): Map<string, 'file' | 'directory'> {
  const found = new Map<string, 'file' | 'directory'>()
  for (const path of [...MASKED_PATHS, ...READONLY_PATHS]) {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat) found.set(path, stat.isDirectory() ? 'directory' : 'file')
  }
  return found
}

/** A number that usually differs between data folders. */
function hashOf(dataDir: string): number {
  return [...dataDir].reduce((hash, character) => (hash * 31 + character.codePointAt(0)!) >>> 0, 7)
}

/** Throws Unsupported naming what this machine lacks. */
export async function openRuntime({
  nativeDir,
  dataDir,
  slots: count,
  seccomp = FUNCTION_PROFILE,
  log,
}: RuntimeOptions): Promise<Runtime> {
  if (process.getuid?.() !== 0)
    throw new Unsupported('running containers needs root; start the worker as root (sudo)')
  const runDir = join(dataDir, 'run')
  const [devRoot, stageDir, emptyDir] = ['dev', 'stage', 'empty'].map((name) => join(runDir, name)) as [
    string,
    string,
    string,
  ]
  for (const directory of [devRoot, stageDir, emptyDir])
    mkdirSync(directory, { recursive: true, mode: 0o711 })
  const sweep = await sweepDead(runDir)
  if (sweep.instances > 0) log.warn(sweep, 'removed leftovers of dead workers')
  const native = openNative(nativeDir)
  const unmapped = refusesIdmap(native, runDir)
  if (unmapped !== undefined)
    log.warn(
      { errno: unmapped, dataDir },
      `the data folder's file system does not support id-mapped mounts: ${UNMAPPED}`,
    )
  const instance = instanceName()
  const host = {
    stageDir,
    seccomp: compileSeccomp(seccomp),
    rootByWorker: !native.tmpfsKeepsAttributes(),
    procPaths: findProcPaths(),
  }
  let slots: Slots | undefined
  let driver: CgroupDriver | undefined
  try {
    driver = createCgroupDriver({
      native,
      instance,
      folder: dataDir,
      announce: (roots) => registerInstance(runDir, instance, roots),
    })
    slots = createSlots({
      native,
      ranges: claimIdRanges({ native, count, preferred: hashOf(dataDir) }),
      idmap: unmapped === undefined,
      devRoot,
    })
    await tryContainer({ native, slots, host, driver, layer: emptyDir })
  } catch (err) {
    slots?.close()
    driver?.close()
    forgetInstance(runDir, instance)
    throw err
  }
  const cgroups = createCgroupPool({
    driver,
    onLeak: (what) => log.error({ what }, 'a cgroup could not be removed or created'),
  })
  log.info({ layout: driver.layout, slots: count, instance }, 'container runtime is ready')
  const runtime = createRuntime({ native, slots, cgroups, host })
  return {
    ...runtime,
    get running() {
      return runtime.running
    },
    async close() {
      await runtime.close()
      forgetInstance(runDir, instance)
    },
  }
}
