// What a start needs to know of the host, as plain values.

/** What the plan takes from the host; slots.ts, cgroup/, open.ts and seccomp.ts supply it. */
export interface HostFacts {
  /** An empty directory to build the root on; the container's own mounts hide it. */
  readonly stageDir: string
  /** A folder with the standard device nodes, for one container at a time. */
  readonly devDir: string
  readonly idBase: number
  /**
   * -1: the data folder's file system does not support id-mapped mounts; inside, files of layers and volumes
   * belong to the overflow id.
   */
  readonly idmapFd: number
  /** -1: a new network namespace. */
  readonly netnsFd: number
  /** v2: the cgroup's descriptor, else -1. */
  readonly cgroupFd: number
  /** v1: the `tasks` files to join. */
  readonly cgroupTasks: readonly string[]
  readonly seccomp: Uint8Array
  /**
   * This kernel's tmpfs keeps no user.* attributes (before Linux 6.6): the worker mounts the root, because
   * its overlay may use trusted.*.
   */
  readonly rootByWorker: boolean
  /** Which of a spec's masked and read-only paths this kernel has, and whether they are directories. */
  readonly procPaths: ReadonlyMap<string, 'file' | 'directory'>
}
