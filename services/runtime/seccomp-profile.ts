// Which system calls a function may make: an allow-list, everything else fails with EPERM. Docker's default
// profile without capabilities, minus what no function needs: io_uring and kernel AIO (their limits are
// host-wide), sync (writes out all files of the host), keyctl, ptrace, memory policies and obsolete calls.
// 32-bit system calls are refused altogether, because their `socketcall` cannot be filtered by argument.

/** `value` of argument `arg` must satisfy `op`; `masked` compares (argument & mask) with value. */
export interface ArgumentRule {
  readonly arg: number
  readonly op: 'eq' | 'ne' | 'lt' | 'gt' | 'masked'
  readonly value: number
  readonly mask?: number
}

export interface SyscallRule {
  readonly name: string
  /** All conditions of a rule must hold; several rules of one name are alternatives. */
  readonly when?: readonly ArgumentRule[]
  /** Fail with this errno instead of allowing. */
  readonly errno?: number
}

const ENOSYS = 38
/** CLONE_NEW*: functions create no namespaces. */
const CLONE_NAMESPACES = 0x7e020000
const AF_UNIX = 1
const AF_INET = [2, 10]
/**
 * SOCK_STREAM with TCP and MPTCP, SOCK_DGRAM with UDP and ICMP; 0 is the type's default. Any other protocol
 * would load kernel code that no function needs (DCCP, SCTP, L2TP).
 */
const INET_PROTOCOLS: ReadonlyArray<{ readonly type: number; readonly protocols: readonly number[] }> = [
  { type: 1, protocols: [0, 6, 262] },
  { type: 2, protocols: [0, 17, 1, 58] },
]
/** SOCK_NONBLOCK and SOCK_CLOEXEC share the argument. */
const SOCK_TYPE_MASK = 0xf
/** Of AF_NETLINK only routing: other protocols reach out of the network namespace. */
const AF_NETLINK = 16
const NETLINK_ROUTE = 0
const PERSONALITIES = [0, 8, 0x20000, 0x20008, 0xffffffff]

const ALLOWED = `
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot clock_getres clock_gettime
clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr
fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list
get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr getxattrat
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl
ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr listxattrat
llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat
mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget
msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal
pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pwrite64
pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat
renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield select
semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid
setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid setxattr setxattrat
shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat
sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write
writev
`
  .trim()
  .split(/\s+/)

/**
 * An int argument: libseccomp compares 64 bits, the kernel reads the lower 32.
 */
const int = (arg: number, value: number): ArgumentRule => ({ arg, op: 'masked', mask: 0xffffffff, value })
const bits = (arg: number, mask: number, value: number): ArgumentRule => ({ arg, op: 'masked', mask, value })

/** Options and levels that the kernel knows differ from 1, and from 22, within their lower ten bits. */
const OPTION_BITS = 10

/** setsockopt(2) at a level other than SOL_SOCKET (1): an even number, or one with any other bit set. */
const OTHER_LEVELS: ReadonlyArray<readonly [mask: number, value: number]> = [
  [1, 0],
  ...Array.from({ length: OPTION_BITS - 1 }, (_, i) => [2 << i, 2 << i] as const),
]

/**
 * prctl(2) with anything but PR_SET_PDEATHSIG (1), by which a function would outlive its worker, and
 * PR_SET_SECCOMP (22), by the lower bits of the option: an odd one that is not 1, or an even one that is not
 * 22.
 */
const PRCTL_OPTIONS: ReadonlyArray<readonly [mask: number, value: number]> = [
  ...Array.from({ length: OPTION_BITS - 1 }, (_, i) => [1 | (2 << i), 1 | (2 << i)] as const),
  [0b11, 0],
  [0b101, 0],
  [0b1001, 0b1000],
  [0b10001, 0],
  ...Array.from({ length: OPTION_BITS - 5 }, (_, i) => [1 | (32 << i), 32 << i] as const),
]
/**
 * seccomp(2) for queries and strict mode only. A function's own filter would be compiled out of the host's
 * budget, like those of sockets: a hundred processes with seven filters each took an eighth of it in half a
 * second.
 */
const SECCOMP_OPERATIONS = [0, 2, 3]

/**
 * setsockopt(2) at SOL_SOCKET (1), by the lower six bits of the option: all but those of SO_ATTACH_FILTER
 * (26), SO_ATTACH_BPF (50), SO_ATTACH_REUSEPORT_CBPF (51) and _EBPF (52), with as few masks as possible.
 * These attach filters that are compiled to machine code out of one budget of the whole host
 * (net.core.bpf_jit_limit), without which no container can load its seccomp filter.
 */
const SOCKET_OPTIONS: ReadonlyArray<readonly [mask: number, value: number]> = [
  [0o20, 0],
  [0o70, 0o20],
  [0o74, 0o34],
  [0o76, 0o30],
  [0o77, 0o33],
  [0o70, 0o70],
  [0o76, 0o60],
  [0o77, 0o65],
  [0o76, 0o66],
]
const SOL_SOCKET = 1

export const FUNCTION_PROFILE: readonly SyscallRule[] = [
  ...ALLOWED.map((name) => ({ name })),
  { name: 'socket', when: [int(0, AF_UNIX)] },
  { name: 'socketpair', when: [int(0, AF_UNIX)] },
  ...AF_INET.flatMap((family) =>
    INET_PROTOCOLS.flatMap(({ type, protocols }) =>
      protocols.map((protocol): SyscallRule => ({
        name: 'socket',
        when: [int(0, family), bits(1, SOCK_TYPE_MASK, type), int(2, protocol)],
      })),
    ),
  ),
  { name: 'socket', when: [int(0, AF_NETLINK), int(2, NETLINK_ROUTE)] },
  ...PRCTL_OPTIONS.map(([mask, value]): SyscallRule => ({ name: 'prctl', when: [bits(0, mask, value)] })),
  ...SECCOMP_OPERATIONS.map((value): SyscallRule => ({ name: 'seccomp', when: [int(0, value)] })),
  ...OTHER_LEVELS.map(([mask, value]): SyscallRule => ({ name: 'setsockopt', when: [bits(1, mask, value)] })),
  ...SOCKET_OPTIONS.map(([mask, value]): SyscallRule => ({
    name: 'setsockopt',
    when: [int(1, SOL_SOCKET), bits(2, mask, value)],
  })),
  ...PERSONALITIES.map((value): SyscallRule => ({ name: 'personality', when: [int(0, value)] })),
  { name: 'clone', when: [{ arg: 0, op: 'masked', mask: CLONE_NAMESPACES, value: 0 }] },
  // Its flags are in memory, which a filter cannot read; libc falls back to clone on ENOSYS.
  { name: 'clone3', errno: ENOSYS },
]

/** What installing packages and compiling need in addition, as in Docker's default profile. */
const BUILD_ALLOWED = `
io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit kcmp mknod mknodat name_to_handle_at process_vm_readv process_vm_writev ptrace seccomp sync
`
  .trim()
  .split(/\s+/)

const EPROTONOSUPPORT = 93

/** System calls of a step of an image build. It may set its death signal to SIGKILL, which it already is. */
export const BUILD_PROFILE: readonly SyscallRule[] = [
  ...FUNCTION_PROFILE,
  // useradd(8) opens the kernel's audit socket, and continues without it only if the kernel seems to lack it.
  {
    name: 'socket',
    when: [int(0, AF_NETLINK), { arg: 2, op: 'ne', value: NETLINK_ROUTE }],
    errno: EPROTONOSUPPORT,
  },
  ...BUILD_ALLOWED.map((name) => ({ name })),
  { name: 'prctl', when: [int(0, 1), int(1, 9)] },
  { name: 'prctl', when: [int(0, 22)] },
]
