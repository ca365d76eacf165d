// From an image and a function to a runtime spec, with defaults that are stricter than Docker's.
// Pure: values in, a value out.

import type { FunctionSpec } from '../contract/function-spec.ts'
import type { Image } from '../contract/image.ts'
import { StartError } from '../contract/errors.ts'
import type { Capabilities, Mount, NamespaceType, RuntimeSpec, User } from '../contract/runtime-spec.ts'

const CPU_PERIOD_US = 100_000
/** cpu.cfs_quota_us may not be lower than this (kernel/sched/core.c, min_cfs_quota_period). */
const CPU_QUOTA_MIN_US = 1000
const OPEN_FILES_MAX = 1024
const SIGNALS_PENDING_MAX = 1024
const MESSAGE_QUEUE_BYTES_MAX = 65_536
/**
 * The kernel also charges inotify instances to the creator of the user namespace, the host's root, who may
 * have 128 by default.
 */
export const FUNCTION_SYSCTL: Readonly<Record<string, string>> = {
  'user.max_inotify_instances': '8',
  'user.max_inotify_watches': '8192',
}
/** When the host runs out of memory, the kernel kills functions before the worker and all other programs. */
export const OOM_SCORE_ADJ = 1000
/** An inode of a tmpfs costs about 1 KiB of kernel memory; one per 4 KiB of content bounds that. */
const SCRATCH_BYTES_PER_INODE = 4096
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export const NO_CAPABILITIES: Capabilities = {
  bounding: [],
  permitted: [],
  inheritable: [],
  effective: [],
  ambient: [],
}

/**
 * moby's list (oci/defaults.go), and /proc/pressure, where any user can make the kernel watch the host's
 * load. The plan skips those that a kernel lacks.
 */
export const MASKED_PATHS: readonly string[] = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/pressure',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
]
export const READONLY_PATHS: readonly string[] = [
  '/proc/bus',
  '/proc/fs',
  '/proc/irq',
  '/proc/sys',
  '/proc/sysrq-trigger',
]

export const NAMESPACES: readonly NamespaceType[] = [
  'mount',
  'pid',
  'ipc',
  'uts',
  'network',
  'user',
  'cgroup',
]
/** Mounts of functions and build steps. */
export const BASE_MOUNTS: readonly Mount[] = [
  { destination: '/proc', type: 'proc', options: ['nosuid', 'nodev', 'noexec'] },
  { destination: '/dev', type: 'dev', options: ['ro', 'nosuid', 'noexec'] },
  { destination: '/dev/shm', type: 'scratch', options: ['nosuid', 'nodev', 'noexec', 'mode=1777'] },
]

export const BASE_RLIMITS: RuntimeSpec['process']['rlimits'] = [
  // 1, not 0: that also keeps the kernel from handing a dump to the program in core_pattern (core(5)).
  { type: 'RLIMIT_CORE', soft: 1, hard: 1 },
  // Some kernels count these per user of the host, not per user namespace.
  { type: 'RLIMIT_SIGPENDING', soft: SIGNALS_PENDING_MAX, hard: SIGNALS_PENDING_MAX },
  { type: 'RLIMIT_MSGQUEUE', soft: MESSAGE_QUEUE_BYTES_MAX, hard: MESSAGE_QUEUE_BYTES_MAX },
]

/** CPUS as a quota of CFS bandwidth control. */
export const cpuLimit = (cpus: number): RuntimeSpec['linux']['resources']['cpu'] => ({
  quota: Math.max(CPU_QUOTA_MIN_US, Math.round(cpus * CPU_PERIOD_US)),
  period: CPU_PERIOD_US,
})

/** The mounts of every function besides its volumes. */
export const FUNCTION_MOUNTS: readonly Mount[] = [
  ...BASE_MOUNTS,
  { destination: '/tmp', type: 'scratch', options: ['nosuid', 'nodev', 'mode=1777'] },
]

export interface ContainerRequest {
  readonly image: Image
  readonly function: FunctionSpec
  readonly user: User
  /** Volume name → directory on the host. */
  readonly volumePaths: ReadonlyMap<string, string>
}

/** ENTRYPOINT and CMD, replaced by `command` and `args` as in Kubernetes: `command` alone also drops CMD. */
function argvOf(request: ContainerRequest): readonly string[] {
  const { config } = request.image
  const { command, args } = request.function
  const argv = [...(command ?? config.entrypoint), ...(args ?? (command ? [] : config.cmd))]
  if (argv.length === 0) {
    throw new StartError(
      `image ${request.function.image} has neither ENTRYPOINT nor CMD; give the function a "command"`,
      'ERR_NO_COMMAND',
    )
  }
  return argv
}

/** Later entries win.  PATH, HOME and HOSTNAME are always set, because programs expect them. */
function environmentOf(request: ContainerRequest, hostname: string): readonly string[] {
  const variables = new Map<string, string>([
    ['PATH', DEFAULT_PATH],
    ['HOSTNAME', hostname],
    ['HOME', request.user.uid === 0 ? '/root' : '/'],
  ])
  for (const entry of request.image.config.env) {
    const equals = entry.indexOf('=')
    if (equals > 0) variables.set(entry.slice(0, equals), entry.slice(equals + 1))
  }
  for (const [key, value] of Object.entries(request.function.envVars)) variables.set(key, value)
  return [...variables].map(([key, value]) => `${key}=${value}`)
}

function mountsOf(request: ContainerRequest): readonly Mount[] {
  const volumes = request.function.volumes.map((volume) => {
    const source = request.volumePaths.get(volume.name)
    if (source === undefined)
      throw new StartError(`volume ${volume.name} has no directory on this worker`, 'ERR_START')
    return {
      destination: volume.target,
      type: 'bind',
      source,
      options: ['nosuid', 'nodev', ...(volume.readonly ? ['ro'] : [])],
    } as const
  })
  return [...FUNCTION_MOUNTS, ...volumes]
}

/**
 * The runtime spec of a function's container.  Throws StartError if the function and image name no command.
 */
export function buildSpec(request: ContainerRequest): RuntimeSpec {
  const { limits } = request.function
  const hostname = request.function.name.toLowerCase().replaceAll(/[^a-z0-9-]/g, '-')
  const scratchBytes = Math.floor(limits.memoryBytes / 2)
  return {
    hostname,
    process: {
      args: argvOf(request),
      env: environmentOf(request, hostname),
      cwd: request.function.workingDir ?? (request.image.config.workingDir || '/'),
      user: request.user,
      capabilities: NO_CAPABILITIES,
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: OPEN_FILES_MAX, hard: OPEN_FILES_MAX }, ...BASE_RLIMITS],
      noNewPrivileges: true,
      oomScoreAdj: OOM_SCORE_ADJ,
    },
    root: {
      layers: request.image.layers,
      readonly: request.function.readOnlyRootFilesystem,
      scratchBytes,
      scratchInodes: Math.max(64, Math.floor(scratchBytes / SCRATCH_BYTES_PER_INODE)),
    },
    mounts: mountsOf(request),
    linux: {
      namespaces: NAMESPACES,
      resources: {
        memory: { limit: limits.memoryBytes },
        cpu: cpuLimit(limits.cpus),
        pids: { limit: limits.pids },
      },
      maskedPaths: MASKED_PATHS,
      readonlyPaths: READONLY_PATHS,
      sysctl: FUNCTION_SYSCTL,
    },
  }
}
