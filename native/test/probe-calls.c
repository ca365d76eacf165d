/* probe-calls.c - system calls by name, each made once as a hostile program would make it.
 *
 * Arguments are valid as far as is harmless, so that the filter or a permission check answers, not the
 * check of arguments. A call that is let through changes nothing on the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

#define NO_DISK makedev (254, 0)

static uint64_t zeros[32];

/* getpid through the 32-bit system call table, which filters by argument do not cover. */
/* clang-format 14 and 19 disagree on inline assembly. */
/* clang-format off */
static long
int80 (void)
{
#if defined(__x86_64__)
  long result;
  __asm__ volatile ("int $0x80" : "=a"(result) : "a"(20) : "memory");
  errno = result < 0 ? (int) -result : 0;
  return result < 0 ? -1 : 0;
#else
  errno = ENOSYS;
  return -1;
#endif
}
/* clang-format on */

static long
bpf_map (void)
{
  union bpf_attr bpf = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
  return syscall (SYS_bpf, BPF_MAP_CREATE, &bpf, sizeof bpf);
}

static long
perf_event (void)
{
  struct perf_event_attr perf = { .type = PERF_TYPE_SOFTWARE, .size = sizeof perf };
  return syscall (SYS_perf_event_open, &perf, 0, -1, -1, 0);
}

/* Read memory of the first process. */
static long
other_memory (long number)
{
  char byte;
  struct iovec here = { &byte, 1 }, there = { zeros, 1 };
  return syscall (number, 1, &here, 1, &there, 1, 0);
}

static long
handle_of_root (void)
{
  struct
  {
    unsigned bytes;
    int type;
    unsigned char handle[128];
  } handle = { .bytes = 128 };
  int mount_id;
  return syscall (SYS_name_to_handle_at, AT_FDCWD, "/", &handle, &mount_id, 0);
}

static long
set_clock (long number)
{
  struct timex change = { .modes = ADJ_OFFSET };
  return number == SYS_adjtimex ? syscall (number, &change) : syscall (number, CLOCK_REALTIME, &change);
}

static long
raise_limit (void)
{
  return setrlimit (RLIMIT_NOFILE, &(struct rlimit){ 4096, 4096 });
}

/* Real-time scheduling, ahead of all other processes on the host. */
static long
real_time (void)
{
  return sched_setscheduler (0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 });
}

/* A filter on a socket: compiled to machine code out of one budget of the whole host
 * (net.core.bpf_jit_limit). */
static long
attach (int option, long level)
{
  struct sock_filter all = BPF_STMT (BPF_RET | BPF_K, 0xffff);
  struct sock_fprog program = { 1, &all };
  return syscall (SYS_setsockopt, socket (AF_INET, SOCK_DGRAM, 0), level, option, &program, sizeof program);
}

static long
set_option (int level, int option)
{
  int on = 1;
  return setsockopt (socket (AF_INET, SOCK_STREAM, 0), level, option, &on, sizeof on);
}

static long
pair (int family)
{
  int ends[2];
  return socketpair (family, SOCK_STREAM, 0, ends);
}

/* A seccomp filter of the function, out of the same budget. */
static long
own_filter (long call, long operation, long mode)
{
  struct sock_filter allow = BPF_STMT (BPF_RET | BPF_K, 0x7fff0000);
  struct sock_fprog program = { 1, &allow };
  return syscall (call, operation, mode, &program);
}

static long
ask_for_filters (void)
{
  uint32_t action = 0x7fff0000; /* SECCOMP_RET_ALLOW */
  return syscall (SYS_seccomp, 2 /* SECCOMP_GET_ACTION_AVAIL */, 0, &action);
}

static long
namespace_of (const char *path)
{
  return setns (open (path, O_RDONLY), 0);
}

#define CALL(name, expression)                                                                               \
  static long try_##name (void) { return expression; }
#define CALLS                                                                                                \
  C (mount, mount ("none", "/tmp", "tmpfs", 0, NULL))                                                        \
  C (umount, umount2 ("/proc", MNT_DETACH))                                                                  \
  C (remount, mount (NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL))                                   \
  C (fsopen, fsopen ("tmpfs", 0))                                                                            \
  C (open_tree, open_tree (AT_FDCWD, "/", OPEN_TREE_CLONE))                                                  \
  C (move_mount, move_mount (AT_FDCWD, "/tmp", AT_FDCWD, "/tmp", 0))                                         \
  C (mount_setattr, syscall (SYS_mount_setattr, AT_FDCWD, "/", 0, zeros, 32))                                \
  C (pivot_root, syscall (SYS_pivot_root, ".", "."))                                                         \
  C (chroot, chroot ("/tmp"))                                                                                \
  C (unshare_user, unshare (CLONE_NEWUSER))                                                                  \
  C (unshare_mount, unshare (CLONE_NEWNS))                                                                   \
  C (unshare_network, unshare (CLONE_NEWNET))                                                                \
  C (unshare_time, unshare (0x80))                                                                           \
  C (clone_user, syscall (SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL))                       \
  C (clone_pid, syscall (SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL))                         \
  C (clone3, syscall (SYS_clone3, zeros, 88))                                                                \
  C (setns, namespace_of ("/proc/self/ns/mnt"))                                                              \
  C (bpf, bpf_map ())                                                                                        \
  C (keyctl, syscall (SYS_keyctl, KEYCTL_GET_KEYRING_ID, -3, 1, 0, 0))                                       \
  C (add_key, syscall (SYS_add_key, "user", "wherry", "x", 1, -3))                                           \
  C (request_key, syscall (SYS_request_key, "user", "wherry", NULL, -3))                                     \
  C (ptrace, ptrace (PTRACE_ATTACH, 1, NULL, NULL))                                                          \
  C (ptrace_me, ptrace (PTRACE_TRACEME, 0, NULL, NULL))                                                      \
  C (process_vm_readv, other_memory (SYS_process_vm_readv))                                                  \
  C (process_vm_writev, other_memory (SYS_process_vm_writev))                                                \
  C (pidfd_getfd, syscall (SYS_pidfd_getfd, syscall (SYS_pidfd_open, getpid (), 0), 0, 0))                   \
  C (kcmp, syscall (SYS_kcmp, 1, 1, 1, 0, 0))                                                                \
  C (userfaultfd, syscall (SYS_userfaultfd, 0))                                                              \
  C (io_uring_setup, syscall (SYS_io_uring_setup, 4, zeros))                                                 \
  C (io_uring_enter, syscall (SYS_io_uring_enter, 0, 0, 0, 0, NULL, 0))                                      \
  C (io_uring_register, syscall (SYS_io_uring_register, 0, 0, NULL, 0))                                      \
  C (aio, syscall (SYS_io_setup, 16, zeros))                                                                 \
  C (open_by_handle_at, syscall (SYS_open_by_handle_at, AT_FDCWD, zeros, O_RDONLY))                          \
  C (name_to_handle_at, handle_of_root ())                                                                   \
  C (fanotify_init, syscall (SYS_fanotify_init, 0x200, O_RDONLY))                                            \
  C (perf_event_open, perf_event ())                                                                         \
  C (quotactl, syscall (SYS_quotactl, 0x80000100, NULL, 0, NULL))                                            \
  C (quotactl_fd, syscall (SYS_quotactl_fd, open ("/", O_RDONLY), 0x80000100, 0, NULL))                      \
  C (swapon, syscall (SYS_swapon, "/tmp/x", 0))                                                              \
  C (swapoff, syscall (SYS_swapoff, "/tmp/x"))                                                               \
  C (kexec_load, syscall (SYS_kexec_load, 0, 0, NULL, 0))                                                    \
  C (init_module, syscall (SYS_init_module, zeros, 0, ""))                                                   \
  C (finit_module, syscall (SYS_finit_module, -1, "", 0))                                                    \
  C (delete_module, syscall (SYS_delete_module, "wherry", O_NONBLOCK))                                       \
  C (reboot, syscall (SYS_reboot, 0xfee1dead, 672274793, 0, NULL))                                           \
  C (sethostname, sethostname ("x", 1))                                                                      \
  C (setdomainname, setdomainname ("x", 1))                                                                  \
  C (clock_settime, clock_settime (CLOCK_REALTIME, &(struct timespec){ 0 }))                                 \
  C (settimeofday, syscall (SYS_settimeofday, &(struct timeval){ 0 }, NULL))                                 \
  C (adjtimex, set_clock (SYS_adjtimex))                                                                     \
  C (clock_adjtime, set_clock (SYS_clock_adjtime))                                                           \
  C (syslog, syscall (SYS_syslog, 3, zeros, sizeof zeros))                                                   \
  C (acct, syscall (SYS_acct, NULL))                                                                         \
  C (vhangup, syscall (SYS_vhangup))                                                                         \
  C (sync, syscall (SYS_sync))                                                                               \
  C (mknod_block, mknod ("/tmp/disk", S_IFBLK | 0600, NO_DISK))                                              \
  C (mknod_memory, mknod ("/tmp/mem", S_IFCHR | 0600, makedev (1, 1)))                                       \
  C (mbind, syscall (SYS_mbind, NULL, 0, 0, NULL, 0, 0))                                                     \
  C (move_pages, syscall (SYS_move_pages, 0, 0, NULL, NULL, NULL, 0))                                        \
  C (migrate_pages, syscall (SYS_migrate_pages, 0, 0, NULL, NULL))                                           \
  C (personality, personality (ADDR_NO_RANDOMIZE))                                                           \
  C (real_time, real_time ())                                                                                \
  C (nice, setpriority (PRIO_PROCESS, 0, -5))                                                                \
  C (raise_files, raise_limit ())                                                                            \
  C (setuid_0, setuid (0))                                                                                   \
  C (setuid_other, setuid (12345))                                                                           \
  C (clear_parent_death, prctl (PR_SET_PDEATHSIG, 0))                                                        \
  C (int80, int80 ())                                                                                        \
  C (x32, syscall (0x40000000 | SYS_getpid))                                                                 \
  C (af_alg, socket (38, SOCK_SEQPACKET, 0))                                                                 \
  C (af_vsock, socket (40, SOCK_STREAM, 0))                                                                  \
  C (af_packet, socket (17, SOCK_RAW, 0))                                                                    \
  C (af_alg_wide,                                                                                            \
     syscall (SYS_socket, 1L << 32 | 38, SOCK_STREAM, 0)) /* the kernel reads the lower half only */         \
  C (af_vsock_wide, syscall (SYS_socket, 1L << 32 | 40, SOCK_STREAM, 0))                                     \
  C (af_inet_raw, socket (AF_INET, SOCK_RAW, IPPROTO_ICMP))                                                  \
  C (af_inet_sctp, socket (AF_INET, SOCK_STREAM, IPPROTO_SCTP))                                              \
  C (af_inet_dccp, socket (AF_INET, 6, IPPROTO_DCCP))                                                        \
  C (af_inet_l2tp, socket (AF_INET, SOCK_DGRAM, 115))                                                        \
  C (af_inet6_udplite, socket (AF_INET6, SOCK_DGRAM, IPPROTO_UDPLITE))                                       \
  C (pair_tipc, pair (30))                                                                                   \
  C (netlink_uevent, socket (AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT))                                  \
  C (netlink_generic, socket (AF_NETLINK, SOCK_RAW, NETLINK_GENERIC))                                        \
  C (attach_filter, attach (SO_ATTACH_FILTER, SOL_SOCKET))                                                   \
  C (attach_filter_wide, attach (SO_ATTACH_FILTER, 1L << 32 | SOL_SOCKET))                                   \
  C (attach_bpf, attach (SO_ATTACH_BPF, SOL_SOCKET))                                                         \
  C (attach_reuseport, attach (SO_ATTACH_REUSEPORT_CBPF, SOL_SOCKET))                                        \
  C (attach_reuseport_bpf, attach (SO_ATTACH_REUSEPORT_EBPF, SOL_SOCKET))                                    \
  C (af_inet, socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0))                               \
  C (af_inet_tcp, socket (AF_INET, SOCK_STREAM, IPPROTO_TCP))                                                \
  C (af_inet6_udp, socket (AF_INET6, SOCK_DGRAM, IPPROTO_UDP))                                               \
  C (af_unix, socket (AF_UNIX, SOCK_SEQPACKET, 0))                                                           \
  C (pair_unix, pair (AF_UNIX))                                                                              \
  C (netlink_route, socket (AF_NETLINK, SOCK_RAW, NETLINK_ROUTE))                                            \
  C (keepalive, set_option (SOL_SOCKET, SO_KEEPALIVE))                                                       \
  C (reuseport, set_option (SOL_SOCKET, SO_REUSEPORT))                                                       \
  C (nodelay, set_option (IPPROTO_TCP, 1))                                                                   \
  C (membarrier, syscall (SYS_membarrier, 0, 0, 0))                                                          \
  C (memfd, syscall (SYS_memfd_create, "x", 0))                                                              \
  C (own_filter, own_filter (SYS_seccomp, 1, 0))                                                             \
  C (own_filter_wide, own_filter (SYS_seccomp, 1L << 32 | 1, 0))                                             \
  C (own_filter_prctl, own_filter (SYS_prctl, PR_SET_SECCOMP, 2))                                            \
  C (own_filter_prctl_wide, own_filter (SYS_prctl, 1L << 32 | PR_SET_SECCOMP, 2))                            \
  C (ask_for_filters, ask_for_filters ())                                                                    \
  C (no_new_privileges, prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))                                             \
  C (process_name, prctl (PR_SET_NAME, "probe"))

#define C(name, expression) CALL (name, (expression))
CALLS
#undef C

static const struct
{
  const char *name;
  long (*make) (void);
} calls[] = {
#define C(name, expression) { #name, try_##name },
  CALLS
#undef C
};

long
try_call (const char *what)
{
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (strcmp (what, calls[i].name) == 0)
      return calls[i].make ();
  errno = EDOM;
  return -1;
}
