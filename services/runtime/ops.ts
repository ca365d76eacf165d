// The operations of a plan, as plain values with named fields. plan.ts and bundle/plan.ts build them, wire.ts
// maps their fields to the records of native/include/wherry.h, encode.ts writes the bytes and the C library
// performs them. wherry.h says what each operation does, where it runs and which flags it takes.

/** enum wy_op_flags */
export const FLAG = {
  idmap: 1,
  recursive: 2,
  makeDir: 4,
  makeFile: 8,
  noSymlinks: 16,
  optional: 32,
  recursiveAttributes: 64,
  keepUntilExec: 128,
  checked: 256,
  idmapHandle: 512,
  follow: 1024,
  notOnProc: 2048,
  copyMode: 4096,
  raiseOnly: 8192,
} as const

/** A descriptor's number inside one plan: one operation opens it, later ones use it. */
export type Handle = number

/** In `below`: no handle; the path starts at the root or the working directory. */
export const HANDLE_NONE: Handle = 0xffffffff

/** Returns 0, 1, 2 …: the handles of one plan. */
export function countHandles(): () => Handle {
  let next = 0
  return () => next++
}

interface Flagged {
  readonly flags?: number
}

/** Attributes (MOUNT_ATTR_*) to set and to clear on a mount, and its propagation (MS_*). */
interface Adjusted extends Flagged {
  readonly set?: number
  readonly clear?: number
  readonly propagation?: number
}

interface Exec extends Flagged {
  /** Paths to try, in order. */
  readonly programs: readonly string[]
  readonly args: readonly string[]
  readonly env: readonly string[]
}

/** A seccomp filter: struct sock_filter[]. */
interface Filter {
  readonly program: Uint8Array
  readonly filterFlags?: number
}

/** The fields of each kind of operation. */
interface Fields {
  // Descriptors and mounts, opened in the caller.
  fd: { readonly handle: Handle; readonly fd: number }
  /** `users`: the user namespace of FLAG.idmapHandle. */
  tree: Adjusted & { readonly handle: Handle; readonly path: string; readonly users?: Handle }
  pidNamespace: { readonly handle: Handle }
  /** The next `count` operations run in a mount namespace of their own. */
  aside: { readonly count: number }

  // Cgroups, namespaces, ids.
  cgroupJoin: { readonly path: string }
  userMaps: { readonly uidMap?: string; readonly gidMap?: string }
  unshare: { readonly namespaces: number }
  setns: { readonly handle: Handle; readonly namespaces: number }
  setupIds: object
  hostname: { readonly name: string }
  domainname: { readonly name: string }
  loopbackUp: object

  // Mounts and files.
  propagation: { readonly propagation: number }
  fsmount: {
    readonly handle: Handle
    readonly type: string
    readonly options: readonly string[]
    readonly set: number
  }
  mkdir: { readonly below: Handle; readonly path: string; readonly mode: number; readonly owner?: number }
  fchdir: { readonly handle: Handle }
  attach: Flagged & { readonly handle: Handle; readonly target: string }
  mount: {
    readonly source: string
    readonly target: string
    readonly type: string
    readonly data: string
    /** MS_* of mount(2). */
    readonly mountFlags: number
  }
  bind: Flagged & {
    readonly below: Handle
    readonly source: string
    readonly target: string
    readonly set: number
  }
  subtree: Adjusted & { readonly handle: Handle; readonly below: Handle; readonly path: string }
  attributes: Flagged & { readonly target: string; readonly set: number; readonly clear?: number }
  setattr: Adjusted & { readonly handle: Handle }
  pivot: { readonly root: string }
  chroot: object
  write: { readonly below: Handle; readonly path: string; readonly content: string }
  mknod: {
    readonly path: string
    /** With its S_IF* type. */
    readonly mode: number
    readonly device: number
    readonly uid: number
    readonly gid: number
  }
  symlink: { readonly target: string; readonly path: string }
  mask: { readonly handle: Handle; readonly path: string }
  copyUp: { readonly handle: Handle; readonly path: string; readonly withOwner: boolean }

  // The process.
  rlimit: Flagged & {
    /** For error messages. */
    readonly name?: string
    readonly resource: number
    readonly soft: number | bigint
    readonly hard: number | bigint
  }
  ids: { readonly uid: number; readonly gid: number; readonly groups: Uint32Array }
  /** Bounding, permitted, inheritable, effective, ambient. */
  capabilities: { readonly sets: BigUint64Array }
  noNewPrivs: object
  parentDeath: { readonly signal: number }
  stdio: { readonly handle: Handle; readonly fd: number }
  stdioOwner: { readonly uid: number }
  /** `keep`: how many descriptors above 2 stay open. */
  closeFds: Flagged & { readonly keep?: number }
  keepFds: { readonly count: number }
  inherit: { readonly handle: Handle }
  chdir: Flagged & { readonly path: string }
  umask: { readonly mask: number }
  personality: { readonly persona: number }
  keyring: { readonly name: string }
  scheduler: { readonly attributes: Uint8Array }
  ioPriority: { readonly priority: number }
  home: { readonly uid: number }
  console: Flagged & {
    readonly socket: Handle
    readonly rows: number
    readonly columns: number
    readonly owner: number
  }
  seccomp: Filter
  seccompListen: Filter & { readonly socket: Handle; readonly path: string; readonly state: string }
  checkProgram: { readonly programs: readonly string[] }
  wait: { readonly socket: Handle }
  hook: {
    readonly path: string
    readonly args: readonly string[]
    readonly env: readonly string[]
    readonly stdin: string
    /** 0: no limit. */
    readonly timeoutMs: number
  }
  exec: Exec
  execFd: Exec & { readonly handle: Handle }
}

export type OpKind = keyof Fields
export type OpOf<K extends OpKind> = { readonly kind: K } & Readonly<Fields[K]>
/** One operation. */
export type Op = { [K in OpKind]: OpOf<K> }[OpKind]

export interface Plan {
  readonly cloneFlags: number
  /** The v2 cgroup that the process starts in; -1 for none. */
  readonly cgroupFd: number
  readonly idmapFd: number
  readonly netnsFd: number
  readonly idBase: number
  readonly idCount: number
  readonly pipeOwner: number
  readonly ops: readonly Op[]
}
