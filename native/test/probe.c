/* probe.c - a container's whole root in one static program: verbs that look at, or try, one thing.
 *
 * A test is a spec, one verb and the text that it should print.  A try prints "ok" or the name of
 * the errno, so that a test can say what exactly should have happened.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <linux/perf_event.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int
say (long result)
{
  printf ("%s\n", result < 0 ? strerrorname_np (errno) : "ok");
  return 0;
}

static int
do_read (char **argv)
{
  char buffer[65536];
  ssize_t size;
  int fd = open (argv[0], O_RDONLY);
  if (fd < 0)
    return say (-1);
  while ((size = read (fd, buffer, sizeof buffer)) > 0)
    fwrite (buffer, 1, (size_t) size, stdout);
  return size < 0 ? say (-1) : 0;
}

static int
do_cat (char **argv)
{
  char buffer[65536];
  ssize_t size;
  (void) argv;
  while ((size = read (0, buffer, sizeof buffer)) > 0)
    if (write (1, buffer, (size_t) size) != size)
      return 1;
  return 0;
}

static int
do_write (char **argv)
{
  int fd = open (argv[0], O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (fd < 0)
    return say (-1);
  return say (write (fd, argv[1], strlen (argv[1])));
}

static int
do_list (char **argv)
{
  struct dirent *entry;
  DIR *dir = opendir (argv[0]);
  if (dir == NULL)
    return say (-1);
  while ((entry = readdir (dir)) != NULL)
    if (entry->d_name[0] != '.')
      printf ("%s\n", entry->d_name);
  closedir (dir);
  return 0;
}

static int
do_stat (char **argv)
{
  struct stat st;
  if (lstat (argv[0], &st) < 0)
    return say (-1);
  printf ("%o %u %u %lld\n", st.st_mode, st.st_uid, st.st_gid, (long long) st.st_size);
  return 0;
}

static int
do_ids (char **argv)
{
  gid_t groups[64];
  int count = getgroups (64, groups);
  (void) argv;
  printf ("uid=%u gid=%u groups=", getuid (), getgid ());
  for (int i = 0; i < count; i++)
    printf ("%s%u", i > 0 ? "," : "", groups[i]);
  printf (" pid=%d session=%d\n", getpid (), getsid (0));
  return 0;
}

/* fill PATH: write until it fails; prints how much went in and why it ended. */
static int
do_fill (char **argv)
{
  static char block[65536];
  long long total = 0;
  int fd = open (argv[0], O_WRONLY | O_CREAT, 0644);
  ssize_t size = fd;
  while (fd >= 0 && (size = write (fd, block, sizeof block)) > 0)
    total += size;
  printf ("%lld %s\n", total, strerrorname_np (errno));
  return 0;
}

static int
do_files (char **argv)
{
  char path[256];
  for (int i = 0;; i++)
    {
      snprintf (path, sizeof path, "%s/%d", argv[0], i);
      int fd = open (path, O_WRONLY | O_CREAT, 0644);
      if (fd < 0)
        return printf ("%d %s\n", i, strerrorname_np (errno)), 0;
      close (fd);
    }
}

static int
do_memory (char **argv)
{
  size_t size = (size_t) atoll (argv[0]);
  char *memory = mmap (NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return say (-1);
  for (size_t i = 0; i < size; i += 4096)
    memory[i] = 1;
  return say (0);
}

/* child-memory BYTES: the same in a child, so that the first process would survive it. */
static int
do_child_memory (char **argv)
{
  int status;
  pid_t pid = fork ();
  if (pid == 0)
    _exit (do_memory (argv));
  waitpid (pid, &status, 0);
  printf ("the child ended with status %d\n", status);
  fflush (stdout);
  sleep (60);
  return 0;
}

static int
do_fork (char **argv)
{
  (void) argv;
  int made = 0;
  for (; made < 100000; made++)
    {
      pid_t pid = fork ();
      if (pid < 0)
        break;
      if (pid == 0)
        {
          pause ();
          _exit (0);
        }
    }
  printf ("%d %s\n", made, strerrorname_np (errno));
  return 0;
}

static int
do_open_files (char **argv)
{
  int count = 0;
  (void) argv;
  while (dup (0) >= 0)
    count++;
  printf ("%d %s\n", count, strerrorname_np (errno));
  return 0;
}

/* flood BYTES: that much of "x" to both stdout and stderr, without a newline. */
static int
do_flood (char **argv)
{
  static char block[65536];
  memset (block, 'x', sizeof block);
  for (long long left = atoll (argv[0]); left > 0; left -= (long long) sizeof block)
    if (write (1, block, sizeof block) < 0 || write (2, block, sizeof block) < 0)
      return 1;
  return 7;
}

static int
do_spin (char **argv)
{
  struct timespec now;
  double until = atof (argv[0]) / 1000;
  do
    clock_gettime (CLOCK_MONOTONIC, &now);
  while ((double) clock () / CLOCKS_PER_SEC < until);
  return 0;
}

static int
do_caps (char **argv)
{
  struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
  struct __user_cap_data_struct data[2] = { 0 };
  (void) argv;
  syscall (SYS_capget, &header, data);
  printf ("%x %x %x\n", data[0].permitted | data[1].permitted, data[0].effective | data[1].effective, data[0].inheritable | data[1].inheritable);
  return 0;
}

static long
try_socket (int family, int type)
{
  return socket (family, type, 0);
}

static long
try_abstract (const char *name)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  strncpy (address.sun_path + 1, name, sizeof address.sun_path - 2);
  int fd = socket (AF_UNIX, SOCK_STREAM, 0);
  return connect (fd, (struct sockaddr *) &address, (socklen_t) (sizeof (sa_family_t) + 1 + strlen (name)));
}

static long
try_namespace (int flag)
{
  return unshare (flag);
}

/* The 32-bit system call table is another one and is not filtered by argument: getpid through it. */
static long
try_int80 (void)
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

/* A family whose low half is what the kernel reads, with something in the upper half that it ignores. */
static long
try_wide_family (long family)
{
  return syscall (SYS_socket, 1L << 32 | family, SOCK_STREAM, 0);
}

static long
try_aio (void)
{
  unsigned long context = 0;
  return syscall (SYS_io_setup, 16, &context);
}

static long
try_call (const char *what)
{
  uint64_t zeros[32] = { 0 };
  struct perf_event_attr perf = { .type = PERF_TYPE_SOFTWARE, .size = sizeof perf };
  union bpf_attr bpf = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
  if (strcmp (what, "mount") == 0)
    return mount ("none", "/tmp", "tmpfs", 0, NULL);
  if (strcmp (what, "umount") == 0)
    return umount2 ("/proc", MNT_DETACH);
  if (strcmp (what, "remount") == 0)
    return mount (NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL);
  if (strcmp (what, "open_tree") == 0)
    return open_tree (AT_FDCWD, "/", OPEN_TREE_CLONE);
  if (strcmp (what, "pivot_root") == 0)
    return syscall (SYS_pivot_root, ".", ".");
  if (strcmp (what, "unshare-user") == 0)
    return try_namespace (CLONE_NEWUSER);
  if (strcmp (what, "unshare-mount") == 0)
    return try_namespace (CLONE_NEWNS);
  if (strcmp (what, "clone-user") == 0)
    return syscall (SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
  if (strcmp (what, "clone3") == 0)
    return syscall (SYS_clone3, zeros, 88);
  if (strcmp (what, "setns") == 0)
    return setns (open ("/proc/self/ns/mnt", O_RDONLY), 0);
  if (strcmp (what, "bpf") == 0)
    return syscall (SYS_bpf, BPF_MAP_CREATE, &bpf, sizeof bpf);
  if (strcmp (what, "keyctl") == 0)
    return syscall (SYS_keyctl, KEYCTL_GET_KEYRING_ID, -3, 1, 0, 0);
  if (strcmp (what, "add_key") == 0)
    return syscall (SYS_add_key, "user", "wherry", "x", 1, -3);
  if (strcmp (what, "ptrace") == 0)
    return ptrace (PTRACE_ATTACH, 1, NULL, NULL);
  if (strcmp (what, "userfaultfd") == 0)
    return syscall (SYS_userfaultfd, 0);
  if (strcmp (what, "io_uring") == 0)
    return syscall (SYS_io_uring_setup, 4, zeros);
  if (strcmp (what, "open_by_handle_at") == 0)
    return syscall (SYS_open_by_handle_at, AT_FDCWD, zeros, O_RDONLY);
  if (strcmp (what, "perf") == 0)
    return syscall (SYS_perf_event_open, &perf, 0, -1, -1, 0);
  if (strcmp (what, "personality") == 0)
    return personality (ADDR_NO_RANDOMIZE);
  if (strcmp (what, "int80") == 0)
    return try_int80 ();
  if (strcmp (what, "chroot") == 0)
    return chroot ("/tmp");
  if (strcmp (what, "mknod") == 0)
    return mknod ("/tmp/disk", S_IFBLK | 0600, makedev (254, 0));
  if (strcmp (what, "sethostname") == 0)
    return sethostname ("x", 1);
  if (strcmp (what, "settime") == 0)
    return clock_settime (CLOCK_REALTIME, &(struct timespec){ 0 });
  if (strcmp (what, "reboot") == 0)
    return syscall (SYS_reboot, 0xfee1dead, 672274793, 0, NULL);
  if (strcmp (what, "module") == 0)
    return syscall (SYS_init_module, zeros, 0, "");
  if (strcmp (what, "raise-files") == 0)
    return setrlimit (RLIMIT_NOFILE, &(struct rlimit){ 4096, 4096 });
  if (strcmp (what, "setuid-0") == 0)
    return setuid (0);
  if (strcmp (what, "af-alg") == 0)
    return try_socket (38, SOCK_SEQPACKET);
  if (strcmp (what, "af-vsock") == 0)
    return try_socket (40, SOCK_STREAM);
  if (strcmp (what, "af-packet") == 0)
    return try_socket (17, SOCK_RAW);
  if (strcmp (what, "af-inet-raw") == 0)
    return socket (AF_INET, SOCK_RAW, IPPROTO_ICMP);
  if (strcmp (what, "af-inet") == 0)
    return try_socket (AF_INET, SOCK_STREAM);
  if (strcmp (what, "af-alg-wide") == 0)
    return try_wide_family (38);
  if (strcmp (what, "af-vsock-wide") == 0)
    return try_wide_family (40);
  if (strcmp (what, "netlink-route") == 0)
    return socket (AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
  if (strcmp (what, "netlink-uevent") == 0)
    return socket (AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT);
  if (strcmp (what, "netlink-generic") == 0)
    return socket (AF_NETLINK, SOCK_RAW, NETLINK_GENERIC);
  if (strcmp (what, "aio") == 0)
    return try_aio ();
  if (strcmp (what, "clear-parent-death") == 0)
    return prctl (PR_SET_PDEATHSIG, 0);
  errno = EDOM;
  return -1;
}

static int
do_try (char **argv)
{
  for (; *argv != NULL; argv++)
    {
      printf ("%s ", *argv);
      say (try_call (*argv));
      fflush (stdout);
    }
  return 0;
}

static int
do_connect_abstract (char **argv)
{
  return say (try_abstract (argv[0]));
}

static int
do_open (char **argv)
{
  return say (open (argv[0], argv[1] != NULL && strcmp (argv[1], "w") == 0 ? O_WRONLY : O_RDONLY));
}

static int
do_kill (char **argv)
{
  return say (kill (getpid (), atoi (argv[0])));
}

/* die SIGNAL: in a child whose end becomes ours, since the first process of a pid namespace ignores
 * signals that it has no handler for. */
static int
do_abort (char **argv)
{
  (void) argv;
  __builtin_trap ();
}

static int
do_sleep (char **argv)
{
  long ms = atol (argv[0]);
  struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
  return say (nanosleep (&time, NULL));
}

static int
do_exit (char **argv)
{
  return atoi (argv[0]);
}

static int
do_echo (char **argv)
{
  for (; *argv != NULL; argv++)
    printf ("%s%s", *argv, argv[1] != NULL ? " " : "\n");
  return 0;
}

/* A connection to itself over loopback whose closing side stays in TIME_WAIT. */
static int
do_leave_connection (char **argv)
{
  char end;
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons ((uint16_t) atoi (argv[0])), .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  int listener = socket (AF_INET, SOCK_STREAM, 0), near = socket (AF_INET, SOCK_STREAM, 0);
  if (bind (listener, (struct sockaddr *) &address, sizeof address) < 0 || listen (listener, 1) < 0
      || connect (near, (struct sockaddr *) &address, sizeof address) < 0)
    return say (-1);
  close (accept (listener, NULL, NULL));
  return say (read (near, &end, 1));
}

static int
do_bind (char **argv)
{
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons ((uint16_t) atoi (argv[0])), .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  return say (bind (socket (AF_INET, SOCK_STREAM, 0), (struct sockaddr *) &address, sizeof address));
}

/* drip BYTES: one at a time, each only when the one before has been read. */
static int
do_drip (char **argv)
{
  for (long left = atol (argv[0]); left > 0; left--)
    {
      int unread = 1;
      if (write (1, "x", 1) != 1)
        return 1;
      while (ioctl (1, FIONREAD, &unread) == 0 && unread > 0)
        sched_yield ();
    }
  return 0;
}

/* fill-sockets PAIRS: bytes that loopback connections hold while nobody reads. */
static int
do_fill_sockets (char **argv)
{
  static char block[65536];
  long long held = 0;
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons (9000), .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  int listener = socket (AF_INET, SOCK_STREAM, 0);
  bind (listener, (struct sockaddr *) &address, sizeof address);
  listen (listener, 16);
  for (int i = atoi (argv[0]); i > 0; i--)
    {
      int near = socket (AF_INET, SOCK_STREAM, 0);
      if (connect (near, (struct sockaddr *) &address, sizeof address) < 0 || accept (listener, NULL, NULL) < 0)
        break;
      fcntl (near, F_SETFL, O_NONBLOCK);
      for (int tries = 0; tries < 200; tries++)
        {
          ssize_t size = write (near, block, sizeof block);
          if (size > 0)
            held += size;
          else
            usleep (50);
        }
    }
  printf ("%lld\n", held);
  return 0;
}

/* lease PATH MS: nobody else can open it until it is given back, or the kernel loses patience. */
static int
do_lease (char **argv)
{
  int fd = open (argv[0], O_WRONLY);
  signal (SIGIO, SIG_IGN);
  if (fcntl (fd, F_SETLEASE, F_WRLCK) < 0)
    return say (-1);
  fputs ("held\n", stderr);
  return do_sleep (argv + 1);
}

/* block-stdin: the pipe that our body is about to come through, filled by ourselves. */
static int
do_block_stdin (char **argv)
{
  static char block[65536];
  (void) argv;
  int fd = open ("/proc/self/fd/0", O_WRONLY | O_NONBLOCK);
  while (write (fd, block, sizeof block) > 0)
    continue;
  usleep (300000);
  return say (0);
}

extern char **environ;

static int
do_env (char **argv)
{
  (void) argv;
  for (char **variable = environ; *variable != NULL; variable++)
    printf ("%s\n", *variable);
  return 0;
}

static int
do_cwd (char **argv)
{
  char path[4096];
  (void) argv;
  return getcwd (path, sizeof path) == NULL ? say (-1) : (puts (path), 0);
}

/* both: to stdout and stderr, then an exit code */
static int
do_both (char **argv)
{
  fputs (argv[0], stdout);
  fputs (argv[1], stderr);
  return atoi (argv[2]);
}

static int
do_close_stdin (char **argv)
{
  close (0);
  return do_echo (argv);
}

/* A grandchild that outlives the call: forks, lets the child sleep, ends itself. */
static int
do_leave_child (char **argv)
{
  (void) argv;
  if (fork () == 0)
    {
      sleep (60);
      _exit (0);
    }
  return say (0);
}

static int
do_signals (char **argv)
{
  char line[256];
  FILE *status = fopen ("/proc/self/status", "r");
  (void) argv;
  while (status != NULL && fgets (line, sizeof line, status) != NULL)
    if (strncmp (line, "Sig", 3) == 0 || strncmp (line, "Cap", 3) == 0 || strncmp (line, "NoNewPrivs", 10) == 0 || strncmp (line, "Seccomp", 7) == 0)
      fputs (line, stdout);
  return 0;
}

static const struct
{
  const char *name;
  int (*run) (char **argv);
  int arguments;
} verbs[] = {
  { "read", do_read, 1 },     { "cat", do_cat, 0 },           { "write", do_write, 2 },
  { "list", do_list, 1 },     { "stat", do_stat, 1 },         { "ids", do_ids, 0 },
  { "fill", do_fill, 1 },     { "files", do_files, 1 },       { "memory", do_memory, 1 },
  { "fork", do_fork, 0 },     { "open-files", do_open_files, 0 }, { "flood", do_flood, 1 },
  { "spin", do_spin, 1 },     { "caps", do_caps, 0 },         { "try", do_try, 1 },
  { "open", do_open, 1 },     { "kill", do_kill, 1 },         { "trap", do_abort, 0 },
  { "sleep", do_sleep, 1 },   { "exit", do_exit, 1 },         { "echo", do_echo, 0 },
  { "env", do_env, 0 },       { "cwd", do_cwd, 0 },           { "both", do_both, 3 },
  { "close-stdin", do_close_stdin, 0 }, { "leave-child", do_leave_child, 0 }, { "signals", do_signals, 0 },
  { "child-memory", do_child_memory, 1 }, { "connect-abstract", do_connect_abstract, 1 },
  { "leave-connection", do_leave_connection, 1 }, { "bind", do_bind, 1 }, { "drip", do_drip, 1 },
  { "fill-sockets", do_fill_sockets, 1 }, { "lease", do_lease, 2 }, { "block-stdin", do_block_stdin, 0 },
};

int
main (int argc, char **argv)
{
  for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++)
    if (strcmp (argv[1], verbs[i].name) == 0 && argc - 2 >= verbs[i].arguments)
      return verbs[i].run (argv + 2);
  fprintf (stderr, "probe: no such verb, or too few arguments\n");
  return 64;
}
