// The container of an OCI bundle: all of the OCI runtime spec's config.json (v1.2, config.md and
// config-linux.md) after services/oci/ has checked it. Nearly every field is optional, and a missing one
// means what the OCI spec says. RuntimeSpec (runtime-spec.ts) is the narrower type for a function's
// container, where every limit is set and the root is a list of layers.

import type { NamespaceType, Process, Rlimit } from './runtime-spec.ts'

/** The version of the OCI runtime spec that containers and their states follow. */
export const SPEC_VERSION = '1.3.0'

export interface BundleSpec {
  readonly process: BundleProcess
  /** A directory on the host, absolute. */
  readonly root: { readonly path: string; readonly readonly: boolean }
  readonly hostname?: string
  readonly domainname?: string
  readonly mounts: readonly BundleMount[]
  readonly linux: BundleLinux
  readonly hooks: Hooks
  /** Whether a failing poststart hook stops the container, as since OCI 1.3; before, it only warned. */
  readonly poststartStops: boolean
  readonly annotations: Readonly<Record<string, string>>
}

export interface BundleProcess extends Omit<Process, 'rlimits'> {
  readonly rlimits: readonly BundleRlimit[]
  readonly umask?: number
  readonly terminal: boolean
  readonly consoleSize?: { readonly height: number; readonly width: number }
  readonly oomScoreAdj?: number
  readonly apparmorProfile?: string
  readonly scheduler?: Scheduler
  /** As ioprio_set(2) takes it. */
  readonly ioPriority?: number
}

/** sched_setattr(2); times in nanoseconds. */
export interface Scheduler {
  readonly policy: number
  readonly flags: number
  readonly nice: number
  readonly priority: number
  readonly runtime: number | bigint
  readonly deadline: number | bigint
  readonly period: number | bigint
}

/** RLIM_INFINITY is 2⁶⁴ − 1, which does not fit a JavaScript number. */
export interface BundleRlimit extends Omit<Rlimit, 'soft' | 'hard'> {
  readonly soft: number | bigint
  readonly hard: number | bigint
}

export interface BundleMount {
  readonly destination: string
  /** "bind", or the name of a file system. */
  readonly type: string
  readonly source: string
  /** In runc's notation (runtime/ has the table). */
  readonly options: readonly string[]
  /** Maps the ids of files; without mappings, those of the container apply. */
  readonly idmap?: {
    readonly recursive: boolean
    readonly uidMappings: readonly IdMapping[]
    readonly gidMappings: readonly IdMapping[]
  }
}

export type BundleNamespaceType = NamespaceType | 'time'

/** Created without a path, joined with one. */
export interface Namespace {
  readonly type: BundleNamespaceType
  readonly path?: string
}
export interface IdMapping {
  readonly containerID: number
  readonly hostID: number
  readonly size: number
}

export interface BundleLinux {
  readonly namespaces: readonly Namespace[]
  readonly uidMappings: readonly IdMapping[]
  readonly gidMappings: readonly IdMapping[]
  /** Lines of /proc/PID/timens_offsets (time_namespaces(7)); undefined leaves the clocks. */
  readonly timeOffsets?: string
  readonly devices: readonly Device[]
  readonly cgroupsPath?: string
  readonly resources: BundleResources
  readonly sysctl: Readonly<Record<string, string>>
  readonly seccomp?: Seccomp
  readonly rootfsPropagation?: Propagation
  readonly maskedPaths: readonly string[]
  readonly readonlyPaths: readonly string[]
  /** personality(2) */
  readonly personality?: 'LINUX' | 'LINUX32'
}

export type Propagation =
  'shared' | 'slave' | 'private' | 'unbindable' | 'rshared' | 'rslave' | 'rprivate' | 'runbindable'

export interface Device {
  readonly path: string
  readonly type: 'c' | 'b' | 'u' | 'p'
  readonly major: number
  readonly minor: number
  readonly fileMode: number
  readonly uid: number
  readonly gid: number
}

/** One rule of the device cgroup; `type` "a" means all devices, a missing number any number. */
export interface DeviceRule {
  readonly allow: boolean
  readonly type: 'a' | 'b' | 'c'
  readonly major?: number
  readonly minor?: number
  /** Letters of "rwm". */
  readonly access: string
}

export interface BundleResources {
  readonly devices: readonly DeviceRule[]
  readonly memory: {
    readonly limit?: number
    readonly reservation?: number
    /** Memory and swap together; -1 for no limit. */
    readonly swap?: number
    readonly swappiness?: number
    readonly disableOOMKiller?: boolean
    /** Limit of TCP buffers. */
    readonly kernelTCP?: number
  }
  readonly cpu: {
    readonly shares?: number
    readonly quota?: number
    readonly period?: number
    readonly burst?: number
    readonly realtimeRuntime?: number
    readonly realtimePeriod?: number
    readonly cpus?: string
    readonly mems?: string
    readonly idle?: number
  }
  readonly pids: { readonly limit?: number }
  readonly blockIO: {
    readonly weight?: number
    readonly leafWeight?: number
    readonly weightDevice: ReadonlyArray<{
      readonly major: number
      readonly minor: number
      readonly weight?: number
      readonly leafWeight?: number
    }>
    readonly throttle: readonly Throttle[]
  }
  readonly network: {
    readonly classID?: number
    readonly priorities: ReadonlyArray<{ readonly name: string; readonly priority: number }>
  }
  readonly rdma: ReadonlyArray<{
    readonly device: string
    readonly hcaHandles?: number
    readonly hcaObjects?: number
  }>
  readonly hugepageLimits: ReadonlyArray<{ readonly pageSize: string; readonly limit: number }>
  /** Files of a v2 cgroup and the values to write. */
  readonly unified: Readonly<Record<string, string>>
}

export interface Throttle {
  readonly kind: 'readBps' | 'writeBps' | 'readIops' | 'writeIops'
  readonly major: number
  readonly minor: number
  readonly rate: number
}

export interface Seccomp {
  readonly defaultAction: SeccompAction
  readonly defaultErrno?: number
  readonly architectures: readonly string[]
  readonly flags: readonly string[]
  readonly syscalls: readonly SeccompRule[]
  /**
   * The unix socket on the host whose reader decides on SCMP_ACT_NOTIFY calls, and data sent along with them.
   */
  readonly listener?: { readonly path: string; readonly metadata?: string }
}

export const SECCOMP_ACTIONS = [
  'SCMP_ACT_KILL',
  'SCMP_ACT_KILL_PROCESS',
  'SCMP_ACT_KILL_THREAD',
  'SCMP_ACT_TRAP',
  'SCMP_ACT_ERRNO',
  'SCMP_ACT_TRACE',
  'SCMP_ACT_ALLOW',
  'SCMP_ACT_LOG',
  'SCMP_ACT_NOTIFY',
] as const
export type SeccompAction = (typeof SECCOMP_ACTIONS)[number]

export const SECCOMP_OPERATORS = [
  'SCMP_CMP_NE',
  'SCMP_CMP_LT',
  'SCMP_CMP_LE',
  'SCMP_CMP_EQ',
  'SCMP_CMP_GE',
  'SCMP_CMP_GT',
  'SCMP_CMP_MASKED_EQ',
] as const
export type SeccompOperator = (typeof SECCOMP_OPERATORS)[number]

export interface SeccompRule {
  readonly names: readonly string[]
  readonly action: SeccompAction
  readonly errnoRet?: number
  readonly args: ReadonlyArray<{
    readonly index: number
    readonly value: number | bigint
    readonly valueTwo: number | bigint
    readonly op: SeccompOperator
  }>
}

export const HOOK_NAMES = [
  'prestart',
  'createRuntime',
  'createContainer',
  'startContainer',
  'poststart',
  'poststop',
] as const
export type HookName = (typeof HOOK_NAMES)[number]

export interface Hook {
  readonly path: string
  readonly args: readonly string[]
  /**
   * Undefined means the runtime's environment; an empty one for createContainer, and the process's own for
   * startContainer.
   */
  readonly env: readonly string[] | undefined
  /** 0 for no limit. */
  readonly timeoutMs: number
}

export type Hooks = Readonly<Record<HookName, readonly Hook[]>>
