// Types of the OCI runtime spec (github.com/opencontainers/runtime-spec v1.2, config.md and config-linux.md),
// the fields that are performed. Two things are ours: a root is a list of layers with a writable scratch file
// system on top, and a mount of type "scratch" is a directory of that file system, so that one size bounds
// everything that a container writes.

export interface RuntimeSpec {
  readonly process: Process
  readonly root: Root
  readonly hostname?: string
  readonly mounts: readonly Mount[]
  readonly linux: Linux
}

export interface Process {
  readonly args: readonly string[]
  /** "KEY=value" */
  readonly env: readonly string[]
  readonly cwd: string
  readonly user: User
  readonly capabilities: Capabilities
  readonly rlimits: readonly Rlimit[]
  readonly noNewPrivileges: boolean
  /** Added to the process's OOM score (proc_pid_oom_score_adj(5)). */
  readonly oomScoreAdj?: number
}

export interface User {
  readonly uid: number
  readonly gid: number
  readonly additionalGids: readonly number[]
}

export interface Capabilities {
  readonly bounding: readonly string[]
  readonly permitted: readonly string[]
  readonly inheritable: readonly string[]
  readonly effective: readonly string[]
  readonly ambient: readonly string[]
}

export interface Rlimit {
  readonly type: string
  readonly soft: number
  readonly hard: number
}

export interface Root {
  /** Directories on the host, lowest first; never written to. */
  readonly layers: readonly string[]
  readonly readonly: boolean
  /** Bounds on everything that the container writes outside volumes. */
  readonly scratchBytes: number
  readonly scratchInodes: number
  /**
   * A directory on the host with empty directories "upper" and "work": writes to the root go to "upper"
   * instead of memory. Files there have the container's ids.
   */
  readonly writable?: string
}

export interface Mount {
  readonly destination: string
  readonly type: 'bind' | 'proc' | 'dev' | 'scratch'
  /** Path on the host, for "bind" only. */
  readonly source?: string
  /** "ro", "nosuid", "nodev", "noexec"; for "scratch" also "mode=1777", for "bind" of a file also "file". */
  readonly options: readonly string[]
}

export type NamespaceType = 'mount' | 'pid' | 'ipc' | 'uts' | 'network' | 'user' | 'cgroup'

export interface Linux {
  readonly namespaces: readonly NamespaceType[]
  readonly resources: Resources
  readonly maskedPaths: readonly string[]
  readonly readonlyPaths: readonly string[]
  /** Settings of the container's namespaces; keys are names below /proc/sys with dots. */
  readonly sysctl?: Readonly<Record<string, string>>
}

export interface Resources {
  readonly memory: { readonly limit: number }
  /** Microseconds, as in cpu.cfs_quota_us and cpu.cfs_period_us. */
  readonly cpu: { readonly quota: number; readonly period: number }
  readonly pids: { readonly limit: number }
}
