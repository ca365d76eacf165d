/* raw-c.c - the reference of `make bench`: a container started by plain C with the same system calls.
 *
 * Only what a hand-written program would do: no plan, no checks, no Node. Same namespaces, same mounts, same
 * limits, same filter. Prints one number per line, microseconds from before the first system call to the exit
 * collected.
 *
 *   raw-c COUNT LAYER STAGE DEV SECCOMP-FILE ID-BASE TASKS-FILE... */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif

static const char *layer, *stage_dir, *dev_dir;
static struct sock_fprog filter;
static char **tasks;
static int task_count, task_fds[8], layer_fd, dev_fd, netns, own_netns, userns;
static unsigned id_base;
static volatile int child_tid, maps_written;
static const char *failed;

static long
must (long result, const char *what)
{
  if (result < 0)
    {
      failed = what;
      syscall (SYS_exit, 99);
    }
  return result;
}

static int
fs_new (const char *type, const char *const *options, unsigned attributes)
{
  int context = (int)must (fsopen (type, FSOPEN_CLOEXEC), "fsopen");
  for (; *options != NULL; options += 2)
    must (fsconfig (context, FSCONFIG_SET_STRING, options[0], options[1], 0), "fsconfig");
  must (fsconfig (context, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "create");
  int fd = (int)must (fsmount (context, FSMOUNT_CLOEXEC, attributes), "fsmount");
  close (context);
  return fd;
}

static void
attach (int tree, const char *target)
{
  int fd = (int)must (open (target, O_PATH | O_CLOEXEC), target);
  must (move_mount (tree, "", fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "move_mount");
  close (fd);
}

static void
cover (const char *source, const char *target, uint64_t attributes)
{
  struct mount_attr attr = { .attr_set = attributes };
  int tree = (int)must (open_tree (AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), "open_tree");
  must (mount_setattr (tree, "", AT_EMPTY_PATH, &attr, sizeof attr), "mount_setattr");
  attach (tree, target);
  close (tree);
}

static int
part (int scratch, const char *name, mode_t mode, uint64_t attributes)
{
  struct mount_attr attr = { .attr_set = attributes };
  must (mkdirat (scratch, name, mode), "mkdirat");
  must (fchmodat (scratch, name, mode, 0), "fchmodat");
  int tree = (int)must (open_tree (scratch, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), "open_tree");
  must (mount_setattr (tree, "", AT_EMPTY_PATH, &attr, sizeof attr), "mount_setattr");
  return tree;
}

static void
make_root (void)
{
  static const char *const tmpfs[]
      = { "size", "67108864", "nr_inodes", "16384", "mode", "0755", "uid", "0", "gid", "0", NULL };
  static const char *const none[] = { NULL };
  static const char *const masked[] = { "/proc/interrupts", "/proc/keys", "/proc/timer_list", NULL };
  static const char *const read_only[] = { "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", NULL };
  must (mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
  int scratch = fs_new ("tmpfs", tmpfs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  attach (scratch, stage_dir);
  must (syscall (SYS_setgroups, 0, NULL), "setgroups");
  must (syscall (SYS_setresgid, 0, 0, 0), "setresgid");
  must (syscall (SYS_setresuid, 0, 0, 0), "setresuid");
  must (fchdir (scratch), "fchdir");
  static const char *const dirs[] = { "upper", "work", "root", "empty", "l0" };
  for (unsigned i = 0; i < 5; i++)
    {
      must (mkdirat (scratch, dirs[i], 0755), "mkdirat");
      must (fchmodat (scratch, dirs[i], 0755, 0), "fchmodat");
    }
  attach (layer_fd, "l0");
  must (mount ("overlay", "root", "overlay", MS_NOSUID | MS_NODEV,
               "lowerdir=l0,upperdir=upper,workdir=work,userxattr"),
        "overlay");
  int proc = fs_new ("proc", none, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  static const char *const limits[][2]
      = { { "sys/user/max_inotify_instances", "8" }, { "sys/user/max_inotify_watches", "8192" } };
  for (unsigned i = 0; i < 2; i++)
    {
      int fd = (int)must (openat (proc, limits[i][0], O_WRONLY | O_CLOEXEC), limits[i][0]);
      must (write (fd, limits[i][1], strlen (limits[i][1])), limits[i][0]);
      close (fd);
    }
  int shm = part (scratch, "m2", 01777, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  int tmp = part (scratch, "m3", 01777, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  struct mount_attr hidden = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC };
  int empty = (int)must (open_tree (scratch, "empty", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), "open_tree");
  must (mount_setattr (empty, "", AT_EMPTY_PATH, &hidden, sizeof hidden), "mount_setattr");
  int old = (int)must (open ("/", O_DIRECTORY | O_PATH | O_CLOEXEC), "open");
  must (chdir ("root"), "chdir");
  must (syscall (SYS_pivot_root, ".", "."), "pivot_root");
  must (fchdir (old), "fchdir");
  must (mount (NULL, ".", NULL, MS_REC | MS_PRIVATE, NULL), "private");
  must (umount2 (".", MNT_DETACH), "umount2");
  must (chdir ("/"), "chdir");
  static const char *const points[] = { "/proc", "/dev", "/tmp" };
  for (unsigned i = 0; i < 3; i++)
    mkdir (points[i], 0755);
  attach (proc, "/proc");
  attach (dev_fd, "/dev");
  attach (shm, "/dev/shm");
  attach (tmp, "/tmp");
  if (access ("/proc/acpi", F_OK) == 0)
    attach (empty, "/proc/acpi");
  for (const char *const *path = masked; *path != NULL; path++)
    if (access (*path, F_OK) == 0)
      cover ("/dev/null", *path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC);
  for (const char *const *path = read_only; *path != NULL; path++)
    cover (*path, *path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

static int
child (void *unused)
{
  static char *argv[] = { "/bin/true", NULL }, *envp[] = { "PATH=/bin", NULL };
  struct rlimit files = { 1024, 1024 }, core = { 0, 0 };
  (void)unused;
  for (int s = 1; s < 32; s++)
    if (s != SIGKILL && s != SIGSTOP)
      signal (s, SIG_DFL);
  setsid ();
  for (int i = 0; i < task_count; i++)
    must (write (task_fds[i], "0", 1), "tasks");
  while (maps_written == 0)
    syscall (SYS_futex, &maps_written, FUTEX_WAIT, 0, NULL, NULL, 0);
  must (unshare (CLONE_NEWCGROUP), "unshare");
  make_root ();
  must (sethostname ("bench", 5), "sethostname");
  must (prlimit (0, RLIMIT_NOFILE, &files, NULL), "prlimit");
  must (prlimit (0, RLIMIT_CORE, &core, NULL), "prlimit");
  must ((long)syscall (SYS_close_range, 3, ~0u, 4), "close_range");
  for (long cap = 0; cap < 64 && prctl (PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
    continue;
  uint32_t header[2] = { 0x20080522, 0 }, data[6] = { 0 };
  must (syscall (SYS_capset, header, data), "capset");
  must (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
  must (prctl (PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "pdeathsig");
  must (syscall (SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter), "seccomp");
  must (execve (argv[0], argv, envp), "execve");
  return 99;
}

static void
write_file (int pid, const char *name, const char *text)
{
  char path[64];
  snprintf (path, sizeof path, "/proc/%d/%s", pid, name);
  int fd = open (path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write (fd, text, strlen (text)) < 0)
    perror (path);
  close (fd);
}

static int
idmapped (const char *path, uint64_t attributes)
{
  struct mount_attr attr = { .attr_set = attributes | MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)userns };
  int fd = open_tree (AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (fd < 0 || mount_setattr (fd, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0)
    perror (path);
  return fd;
}

static int
sleeper (void *unused)
{
  (void)unused;
  for (;;)
    pause ();
  return 0;
}

static void
make_namespaces (char *stack)
{
  char map[64], path[64];
  snprintf (map, sizeof map, "0 %u 65536", id_base);
  int pid = clone (sleeper, stack, CLONE_VM | CLONE_NEWUSER, NULL);
  write_file (pid, "gid_map", map);
  write_file (pid, "uid_map", map);
  snprintf (path, sizeof path, "/proc/%d/ns/user", pid);
  userns = open (path, O_RDONLY | O_CLOEXEC);
  kill (pid, SIGKILL);
  waitpid (pid, NULL, __WALL);
  own_netns = open ("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP };
  unshare (CLONE_NEWNET);
  int fd = socket (AF_INET, SOCK_DGRAM, 0);
  if (ioctl (fd, 0x8914, &up) < 0)
    perror ("lo");
  close (fd);
  netns = open ("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  setns (own_netns, CLONE_NEWNET);
}

static int
run_one (char *stack)
{
  char map[64];
  int status = 0, pipes[3][2];
  for (int i = 0; i < task_count; i++)
    task_fds[i] = open (tasks[i], O_WRONLY | O_CLOEXEC);
  for (int i = 0; i < 3; i++)
    if (pipe2 (pipes[i], O_CLOEXEC) < 0)
      perror ("pipe2");
  layer_fd = idmapped (layer, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
  dev_fd = idmapped (dev_dir, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
  maps_written = 0;
  child_tid = -1;
  setns (netns, CLONE_NEWNET);
  int pid = clone (child, stack,
                   CLONE_VM | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_NEWUSER | CLONE_NEWNS
                       | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS,
                   NULL, NULL, NULL, &child_tid);
  setns (own_netns, CLONE_NEWNET);
  if (pid < 0)
    return perror ("clone"), -1;
  snprintf (map, sizeof map, "0 %u 65536", id_base);
  write_file (pid, "gid_map", map);
  write_file (pid, "uid_map", map);
  maps_written = 1;
  syscall (SYS_futex, &maps_written, FUTEX_WAKE, 1, NULL, NULL, 0);
  for (int seen; (seen = child_tid) != 0;)
    syscall (SYS_futex, &child_tid, FUTEX_WAIT, seen, NULL, NULL, 0);
  write_file (pid, "oom_score_adj", "1000");
  close (layer_fd);
  close (dev_fd);
  for (int i = 0; i < task_count; i++)
    close (task_fds[i]);
  for (int i = 0; i < 3; i++)
    {
      close (pipes[i][0]);
      close (pipes[i][1]);
    }
  waitpid (pid, &status, __WALL);
  return WIFEXITED (status) ? WEXITSTATUS (status) : -1;
}

int
main (int argc, char **argv)
{
  enum
  {
    STACK = 256 << 10
  };
  if (argc < 7 || argc > 15)
    return fprintf (stderr, "raw-c COUNT LAYER STAGE DEV SECCOMP-FILE ID-BASE TASKS-FILE...\n"), 2;
  layer = argv[2];
  stage_dir = argv[3];
  dev_dir = argv[4];
  id_base = (unsigned)atol (argv[6]);
  tasks = argv + 7;
  task_count = argc - 7;
  static struct sock_filter program[4096];
  int fd = open (argv[5], O_RDONLY);
  ssize_t size = read (fd, program, sizeof program);
  filter = (struct sock_fprog){ .len = (unsigned short)((size_t)size / sizeof *program), .filter = program };
  char *stack
      = (char *)mmap (NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + STACK;
  make_namespaces (stack);
  for (long i = 0; i < atol (argv[1]); i++)
    {
      struct timespec from, to;
      clock_gettime (CLOCK_MONOTONIC, &from);
      int code = run_one (stack);
      clock_gettime (CLOCK_MONOTONIC, &to);
      if (code != 0)
        return fprintf (stderr, "raw-c: the child ended with %d (%s: %s)\n", code, failed ? failed : "-",
                        strerror (errno)),
               1;
      printf ("%.1f\n", (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) / 1e3);
    }
  return 0;
}
