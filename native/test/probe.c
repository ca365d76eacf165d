/* probe.c - a container's whole root in one static program: each verb inspects or tries one thing.
 *
 * A test is a spec, one verb and its expected output. A try prints "ok" or the name of the errno, so that
 * a test can state the exact outcome. Here are verbs that inspect and verbs that
 * exit; the others are in probe-load.c, probe-sockets.c, probe-stay.c and probe-agent.c, the system
 * calls that `try` makes in probe-calls.c.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

int
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
    fwrite (buffer, 1, (size_t)size, stdout);
  return size < 0 ? say (-1) : 0;
}

static int
do_cat (char **argv)
{
  char buffer[65536];
  ssize_t size;
  (void)argv;
  while ((size = read (0, buffer, sizeof buffer)) > 0)
    if (write (1, buffer, (size_t)size) != size)
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
  printf ("%o %u %u %lld\n", st.st_mode, st.st_uid, st.st_gid, (long long)st.st_size);
  return 0;
}

static int
do_ids (char **argv)
{
  gid_t groups[64];
  int count = getgroups (64, groups);
  (void)argv;
  printf ("uid=%u gid=%u groups=", getuid (), getgid ());
  for (int i = 0; i < count; i++)
    printf ("%s%u", i > 0 ? "," : "", groups[i]);
  printf (" pid=%d session=%d\n", getpid (), getsid (0));
  return 0;
}

static int
do_caps (char **argv)
{
  struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
  struct __user_cap_data_struct data[2] = { 0 };
  (void)argv;
  syscall (SYS_capget, &header, data);
  printf ("%x %x %x\n", data[0].permitted | data[1].permitted, data[0].effective | data[1].effective,
          data[0].inheritable | data[1].inheritable);
  return 0;
}

/* Each in a separate child: a filter may answer with a signal. */
static int
do_try (char **argv)
{
  for (; *argv != NULL; argv++)
    {
      int status = 0;
      pid_t pid = fork ();
      if (pid == 0)
        {
          printf ("%s ", *argv);
          say (try_call (*argv));
          fflush (stdout);
          _exit (0);
        }
      waitpid (pid, &status, 0);
      if (WIFSIGNALED (status))
        printf ("%s SIG%s\n", *argv, sigabbrev_np (WTERMSIG (status)));
      fflush (stdout);
    }
  return 0;
}

/* give-capabilities PATH: give the program all capabilities, permitted and effective; run by the host's
 * root. */
static int
do_give_capabilities (char **argv)
{
  struct vfs_cap_data all
      = { .magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, .data = { { ~0u, 0 }, { 0x1ff, 0 } } };
  return say (setxattr (argv[0], "security.capability", &all, sizeof all, 0));
}

/* opens PATH …: print the result of opening each for writing. */
static int
do_opens (char **argv)
{
  for (; *argv != NULL; argv++)
    {
      printf ("%s ", *argv);
      say (open (*argv, O_WRONLY));
    }
  return 0;
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

/* die SIGNAL: in a child whose exit becomes ours, since the first process of a pid namespace ignores
 * signals that it has no handler for. */
static int
do_abort (char **argv)
{
  (void)argv;
  __builtin_trap ();
}

int
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

extern char **environ;

static int
do_env (char **argv)
{
  (void)argv;
  for (char **variable = environ; *variable != NULL; variable++)
    printf ("%s\n", *variable);
  return 0;
}

static int
do_cwd (char **argv)
{
  char path[4096];
  (void)argv;
  return getcwd (path, sizeof path) == NULL ? say (-1) : (puts (path), 0);
}

/* both: write to stdout and stderr, then exit with a code */
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

static int
do_signals (char **argv)
{
  char line[256];
  FILE *status = fopen ("/proc/self/status", "r");
  (void)argv;
  while (status != NULL && fgets (line, sizeof line, status) != NULL)
    if (strncmp (line, "Sig", 3) == 0 || strncmp (line, "Cap", 3) == 0
        || strncmp (line, "NoNewPrivs", 10) == 0 || strncmp (line, "Seccomp", 7) == 0)
      fputs (line, stdout);
  return 0;
}

static const struct verb look_verbs[] = {
  { "read", do_read, 1 },
  { "cat", do_cat, 0 },
  { "write", do_write, 2 },
  { "list", do_list, 1 },
  { "stat", do_stat, 1 },
  { "ids", do_ids, 0 },
  { "caps", do_caps, 0 },
  { "try", do_try, 1 },
  { "open", do_open, 1 },
  { "kill", do_kill, 1 },
  { "trap", do_abort, 0 },
  { "sleep", do_sleep, 1 },
  { "exit", do_exit, 1 },
  { "echo", do_echo, 0 },
  { "env", do_env, 0 },
  { "cwd", do_cwd, 0 },
  { "both", do_both, 3 },
  { "close-stdin", do_close_stdin, 0 },
  { "signals", do_signals, 0 },
  { "opens", do_opens, 1 },
  { "give-capabilities", do_give_capabilities, 1 },
  { NULL, NULL, 0 },
};

int
main (int argc, char **argv)
{
  char byte;
  /* then VERB …: run VERB after the end of stdin, when our starter is done. */
  if (argc > 2 && strcmp (argv[1], "then") == 0)
    {
      while (read (0, &byte, 1) > 0)
        continue;
      argc--;
      argv++;
    }
  const struct verb *tables[] = { look_verbs, load_verbs, stay_verbs, socket_verbs, agent_verbs };
  for (size_t i = 0; argc > 1 && i < sizeof tables / sizeof *tables; i++)
    for (const struct verb *verb = tables[i]; verb->name != NULL; verb++)
      if (strcmp (argv[1], verb->name) == 0 && argc - 2 >= verb->arguments)
        return verb->run (argv + 2);
  fprintf (stderr, "probe: no such verb, or too few arguments\n");
  return 64;
}
