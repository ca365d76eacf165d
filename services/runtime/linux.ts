// Numbers of the kernel's headers that operations carry.

/**
 * MOUNT_ATTR_* of <linux/mount.h>, for mount_setattr(2) and fsmount(2). The three access-time
 * modes share one field, `atime`.
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
 * CLONE_NEWTIME, for unshare(2) and setns(2) only: the clocks of a time namespace can be set only while no
 * process is in it, so clone(2) into one would be too late.
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
