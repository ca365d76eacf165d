// A RUN step as a runtime spec: Docker's build container in a user namespace. Root inside has Docker's 14
// capabilities over the files and processes of its namespace and none over the host; set-user-ID programs
// work. Pure: values in, a value out.

import type { Capabilities, Mount, RuntimeSpec, User } from '../contract/runtime-spec.ts'
import { BASE_MOUNTS, BASE_RLIMITS, cpuLimit, MASKED_PATHS, READONLY_PATHS } from '../runtime/spec.ts'

export interface RunSpecRequest {
  /** Folders on the host, lowest first. The lowest has the mount points that the image lacks. */
  readonly layers: readonly string[]
  /** Folder with "upper" and "work". */
  readonly writable: string
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly cwd: string
  readonly user: User
  readonly mounts: readonly Mount[]
  readonly network: 'none' | 'host'
  readonly memoryBytes: number
  readonly cpus: number
}

const PIDS_MAX = 8192
/** Of /dev/shm and tmpfs mounts together; counts as memory. */
const SCRATCH_BYTES_MAX = 1024 ** 3
const SCRATCH_INODES_MAX = 262_144
export const HOSTNAME = 'build'

/** moby's default set (oci/caps/defaults.go). */
const NAMES = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FSETID',
  'CAP_FOWNER',
  'CAP_MKNOD',
  'CAP_NET_RAW',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETFCAP',
  'CAP_SETPCAP',
  'CAP_NET_BIND_SERVICE',
  'CAP_SYS_CHROOT',
  'CAP_KILL',
  'CAP_AUDIT_WRITE',
]
/** A program of a user other than root keeps none of them across exec (capabilities(7)). */
const CAPABILITIES: Capabilities = {
  bounding: NAMES,
  permitted: NAMES,
  inheritable: [],
  effective: NAMES,
  ambient: [],
}

/** The spec of the container of one RUN step. */
export function buildRunSpec(request: RunSpecRequest): RuntimeSpec {
  const { layers, writable, args, env, cwd, user, network, memoryBytes } = request
  return {
    hostname: HOSTNAME,
    process: {
      args,
      env: [
        ...env,
        ...(env.some((variable) => variable.startsWith('HOSTNAME=')) ? [] : [`HOSTNAME=${HOSTNAME}`]),
      ],
      cwd,
      user,
      capabilities: CAPABILITIES,
      // The limit of open files is that of this process, because compilers and linkers need many.
      rlimits: BASE_RLIMITS,
      noNewPrivileges: false,
    },
    root: {
      layers,
      writable,
      readonly: false,
      scratchBytes: Math.min(SCRATCH_BYTES_MAX, memoryBytes),
      scratchInodes: SCRATCH_INODES_MAX,
    },
    mounts: [...BASE_MOUNTS, ...request.mounts],
    linux: {
      namespaces: [
        'mount',
        'pid',
        'ipc',
        'uts',
        'user',
        'cgroup',
        ...(network === 'none' ? (['network'] as const) : []),
      ],
      resources: {
        memory: { limit: memoryBytes },
        cpu: cpuLimit(request.cpus),
        pids: { limit: PIDS_MAX },
      },
      maskedPaths: MASKED_PATHS,
      readonlyPaths: READONLY_PATHS,
    },
  }
}
