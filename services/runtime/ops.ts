// The mirror of native/include/wherry.h: operations as plain values, in the words of that file.
// plan.ts makes them, encode.ts turns them into bytes, the C library performs them.  The numbers
// are checked against the library once, when it is loaded (native.ts).

export const ABI = 6

/** enum wy_op_kind */
export const OP = {
  fd: 1,
  tree: 2,
  cgroupJoin: 3,
  userMaps: 4,
  unshare: 5,
  propagation: 6,
  setupIds: 7,
  fsmount: 8,
  mkdir: 9,
  chdirSlot: 10,
  attach: 11,
  mount: 12,
  bind: 13,
  subtree: 14,
  attributes: 15,
  pivot: 16,
  hostname: 17,
  loopbackUp: 18,
  rlimit: 19,
  ids: 20,
  capabilities: 21,
  noNewPrivs: 22,
  parentDeath: 23,
  stdio: 24,
  closeFds: 25,
  chdir: 26,
  seccomp: 27,
  exec: 28,
  pidNamespace: 29,
  setns: 30,
  inherit: 31,
  execFd: 32,
  domainname: 33,
  umask: 34,
  personality: 35,
  keyring: 36,
  stdioOwner: 37,
  write: 38,
  mknod: 39,
  symlink: 40,
  mask: 41,
  console: 42,
  checkProgram: 43,
  wait: 44,
  hook: 45,
  setattr: 46,
  keepFds: 47,
  copyUp: 48,
  chroot: 49,
  scheduler: 50,
  ioPriority: 51,
  home: 52,
  seccompListen: 53,
  aside: 54,
} as const

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
  idmapSlot: 512,
  follow: 1024,
  notOnProc: 2048,
  copyMode: 4096,
  raiseOnly: 8192,
} as const

/**
 * MOUNT_ATTR_* of <linux/mount.h>, for mount_setattr(2) and fsmount(2). The three ways of keeping access
 * times are one field, `atime`.
 */
export const ATTR = {
  ro: 1,
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  relatime: 0,
  noatime: 0x10,
  strictatime: 0x20,
  atime: 0x70,
  nodiratime: 0x80,
  nosymfollow: 0x200000,
} as const

/** MS_* of mount(2). */
export const MS = {
  nosuid: 2,
  nodev: 4,
  rec: 16384,
  unbindable: 1 << 17,
  private: 1 << 18,
  slave: 1 << 19,
  shared: 1 << 20,
} as const

/** S_IF* of inode(7), for mknod(2). */
export const S_IF = { fifo: 0o010000, char: 0o020000, block: 0o060000 } as const

/** CLONE_NEW* of clone(2). */
export const CLONE = {
  mount: 0x00020000,
  cgroup: 0x02000000,
  uts: 0x04000000,
  ipc: 0x08000000,
  user: 0x10000000,
  pid: 0x20000000,
  network: 0x40000000,
} as const

/**
 * CLONE_NEWTIME, for unshare(2) and setns(2): whoever is cloned into one could not set its clocks any more.
 */
export const CLONE_TIME = 0x00000080

/** RLIMIT_* of getrlimit(2) on x86_64 and aarch64. */
export const RLIMIT = {
  RLIMIT_CPU: 0,
  RLIMIT_FSIZE: 1,
  RLIMIT_DATA: 2,
  RLIMIT_STACK: 3,
  RLIMIT_CORE: 4,
  RLIMIT_RSS: 5,
  RLIMIT_NPROC: 6,
  RLIMIT_NOFILE: 7,
  RLIMIT_MEMLOCK: 8,
  RLIMIT_AS: 9,
  RLIMIT_LOCKS: 10,
  RLIMIT_SIGPENDING: 11,
  RLIMIT_MSGQUEUE: 12,
  RLIMIT_NICE: 13,
  RLIMIT_RTPRIO: 14,
  RLIMIT_RTTIME: 15,
} as const

export const SLOT_NONE = 0xffffffff

/** One operation.  Which fields a kind uses stands beside it in wherry.h. */
export interface Op {
  readonly kind: keyof typeof OP
  readonly flags?: number
  readonly slot?: number
  readonly from?: number
  readonly num?: number
  readonly num2?: number
  /** Up to four; a list is several texts, a blob is bytes. */
  readonly texts?: ReadonlyArray<string | readonly string[] | Uint8Array>
  readonly wide?: number | bigint
  readonly wide2?: number | bigint
}

export interface Plan {
  readonly cloneFlags: number
  /** v2 cgroup to be born in; -1 for none. */
  readonly cgroupFd: number
  readonly idmapFd: number
  readonly netnsFd: number
  readonly idBase: number
  readonly idCount: number
  readonly pipeOwner: number
  readonly ops: readonly Op[]
}

/** What an operation does, for error messages: "attach /proc". */
export function describeOp(op: Op | undefined): string {
  if (!op) return 'start'
  const text = (op.texts ?? []).find((t) => typeof t === 'string' && t !== '')
  return text === undefined ? op.kind : `${op.kind} ${String(text)}`
}
