/* probe-load.c - verbs that exhaust memory, processes, files, time, and whatever else the kernel counts.
 *
 * Where a limit is an error the verb exits, after printing how far it came and the errno; where the limit
 * is memory it is killed. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

#define STEP (1u << 20)

/* fill PATH: write until it fails; prints how much was written and the error. */
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
  size_t size = (size_t)atoll (argv[0]);
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
  (void)argv;
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
  (void)argv;
  while (dup (0) >= 0)
    count++;
  printf ("%d %s\n", count, strerrorname_np (errno));
  return 0;
}

/* flood FD BYTES: write BYTES times "x" to the descriptor, without a newline. */
static int
do_flood (char **argv)
{
  static char block[65536];
  memset (block, 'x', sizeof block);
  for (long long left = atoll (argv[1]); left > 0; left -= (long long)sizeof block)
    if (write (atoi (argv[0]), block, sizeof block) < 0)
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
  while ((double)clock () / CLOCKS_PER_SEC < until);
  return 0;
}

/* drip BYTES: write one byte at a time, each after the previous one was read. */
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

/* lease PATH MS: hold a lease: no other process can open PATH until it is released or breaks by timeout. */
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

/* block-stdin: fill the pipe of the body ourselves. */
static int
do_block_stdin (char **argv)
{
  static char block[65536];
  (void)argv;
  int fd = open ("/proc/self/fd/0", O_WRONLY | O_NONBLOCK);
  while (write (fd, block, sizeof block) > 0)
    continue;
  usleep (300000);
  return say (0);
}

/* fork-bomb: create as many processes as possible, each creating more. */
static int
do_fork_bomb (char **argv)
{
  (void)argv;
  while (fork () >= -1)
    continue;
  return 0;
}

static void
hoard_memory (void)
{
  memset (mmap (NULL, STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, STEP);
}

static void
hoard_shared (void)
{
  memset (shmat (shmget (IPC_PRIVATE, STEP, 0600), NULL, 0), 1, STEP);
}

static void
hoard_file (void)
{
  static char block[STEP];
  static int fd = -1;
  if (fd < 0)
    fd = memfd_create ("hoard", 0);
  if (write (fd, block, sizeof block) < 0)
    exit (say (-1));
}

static void
hoard_pipe (void)
{
  static char block[STEP];
  int ends[2];
  if (pipe2 (ends, O_NONBLOCK) < 0)
    exit (say (-1));
  fcntl (ends[1], F_SETPIPE_SZ, STEP);
  while (write (ends[1], block, sizeof block) > 0)
    continue;
}

static void
hoard_socket (void)
{
  static char block[65536];
  int ends[2], size = STEP;
  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) < 0)
    exit (say (-1));
  setsockopt (ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  while (write (ends[0], block, sizeof block) > 0)
    continue;
}

/* Lock every other byte, so that locks do not merge; a few per file, because the kernel scans all locks of a
 * file. */
static void
hoard_locks (void)
{
  static int number;
  char path[32];
  snprintf (path, sizeof path, "/tmp/%d", number++ % 400);
  int fd = open (path, O_RDWR | O_CREAT, 0600);
  if (fd < 0)
    exit (say (-1));
  for (off_t i = 0; i < 4096; i++)
    if (fcntl (fd, F_OFD_SETLK, &(struct flock){ .l_type = F_RDLCK, .l_start = 2 * i, .l_len = 1 }) < 0)
      exit (say (-1));
}

/* hoard KIND: allocate memory of that kind until it fails or the process is killed. */
static int
do_hoard (char **argv)
{
  static const struct
  {
    const char *name;
    void (*take) (void);
  } kinds[] = {
    { "memory", hoard_memory }, { "shared", hoard_shared },  { "memfd", hoard_file },
    { "pipes", hoard_pipe },    { "sockets", hoard_socket }, { "locks", hoard_locks },
  };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    while (strcmp (kinds[i].name, argv[0]) == 0)
      kinds[i].take ();
  return 64;
}

/* watch PATH: report whether another process touches it before stdin ends. */
static int
do_watch (char **argv)
{
  char event[4096];
  int notify = inotify_init1 (0);
  struct pollfd both[] = { { .fd = notify, .events = POLLIN }, { .fd = 0, .events = POLLIN } };
  if (inotify_add_watch (notify, argv[0], IN_ALL_EVENTS) < 0)
    return say (-1);
  fputs ("watching\n", stderr);
  poll (both, 2, -1);
  puts (both[0].revents != 0 && read (notify, event, sizeof event) > 0 ? "touched" : "nothing");
  return 0;
}

static long
count_inotify (int number)
{
  (void)number;
  return inotify_init1 (0);
}

static long
count_queue (int number)
{
  char name[32];
  struct mq_attr small = { .mq_maxmsg = 1, .mq_msgsize = 1024 };
  snprintf (name, sizeof name, "/%d", number);
  return mq_open (name, O_CREAT | O_RDWR, 0600, &small);
}

static long
count_timer (int number)
{
  timer_t timer;
  (void)number;
  return timer_create (CLOCK_MONOTONIC, NULL, &timer);
}

static long
count_signal (int number)
{
  sigset_t set;
  (void)number;
  sigemptyset (&set);
  sigaddset (&set, SIGRTMIN);
  sigprocmask (SIG_BLOCK, &set, NULL);
  return sigqueue (getpid (), SIGRTMIN, (union sigval){ 0 });
}

/* count KIND MAX: create objects of KIND until one is refused. */
static int
do_count (char **argv)
{
  static const struct
  {
    const char *name;
    long (*make) (int);
  } kinds[] = {
    { "inotify", count_inotify },
    { "queues", count_queue },
    { "timers", count_timer },
    { "signals", count_signal },
  };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp (kinds[i].name, argv[0]) == 0)
      {
        int made = 0;
        while (made < atoi (argv[1]) && kinds[i].make (made) >= 0)
          made++;
        return printf ("%d %s\n", made, made == atoi (argv[1]) ? "ok" : strerrorname_np (errno)), 0;
      }
  return 64;
}

const struct verb load_verbs[] = {
  { "fill", do_fill, 1 },
  { "files", do_files, 1 },
  { "memory", do_memory, 1 },
  { "child-memory", do_child_memory, 1 },
  { "fork", do_fork, 0 },
  { "open-files", do_open_files, 0 },
  { "flood", do_flood, 2 },
  { "spin", do_spin, 1 },
  { "drip", do_drip, 1 },
  { "lease", do_lease, 2 },
  { "block-stdin", do_block_stdin, 0 },
  { "fork-bomb", do_fork_bomb, 0 },
  { "hoard", do_hoard, 1 },
  { "count", do_count, 2 },
  { "watch", do_watch, 1 },
  { NULL, NULL, 0 },
};
