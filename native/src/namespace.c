/* namespace.c - namespaces that are created ahead and held by a descriptor only.
 *
 * Each is created by a temporary process or thread, so the caller's own namespaces never change. Afterwards
 * only the descriptor holds the namespace, so it disappears with the process that holds the descriptor, also
 * after kill -9. */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stage.h"
#include "sys.h"

#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif

int
wy_loopback_up (const char **call)
{
  /* struct ifreq: the name, then the flags. */
  struct
  {
    char name[IFNAMSIZ];
    short flags;
    char rest[22];
  } request = { .name = "lo", .flags = IFF_UP };
  enum
  {
    SET_INTERFACE_FLAGS = 0x8914
  };
  *call = "socket";
  wy_cleanup_close int fd = (int)wy_sys (SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return fd;
  *call = "ioctl(SIOCSIFFLAGS)";
  return (int)wy_sys (SYS_ioctl, fd, SET_INTERFACE_FLAGS, &request);
}

static int
write_id_map (pid_t pid, const char *name, const char *map)
{
  char path[64];
  size_t length = strlen (map);
  snprintf (path, sizeof path, "/proc/%d/%s", pid, name);
  wy_cleanup_close int fd = open (path, O_WRONLY | O_CLOEXEC);
  /* One write: the kernel takes a map whole or not at all (user_namespaces(7)). */
  if (fd < 0 || write (fd, map, length) != (ssize_t)length)
    return -errno;
  return 0;
}

static int
adopt_userns (pid_t pid, const char *uid_map, const char *gid_map)
{
  char path[64];
  int result = write_id_map (pid, "gid_map", gid_map);
  if (result == 0)
    result = write_id_map (pid, "uid_map", uid_map);
  if (result < 0)
    return result;
  snprintf (path, sizeof path, "/proc/%d/ns/user", pid);
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

/* The temporary process shares memory and sleeps until it is killed. */
static int
sleep_until_killed (void *unused)
{
  (void)unused;
  for (;;)
    wy_sys (SYS_ppoll, NULL, 0, NULL, NULL, 0);
  return 0;
}

int
wy_userns_new (const char *uid_map, const char *gid_map)
{
  enum
  {
    MAKER_STACK = 16384
  };
  char *stack = malloc (MAKER_STACK);
  if (stack == NULL)
    return -ENOMEM;
  /* Without SIGCHLD: only the wait below may see this child. */
  pid_t pid = clone (sleep_until_killed, stack + MAKER_STACK, CLONE_VM | CLONE_NEWUSER, NULL);
  if (pid < 0)
    {
      int result = -errno;
      free (stack);
      return result;
    }
  int fd = adopt_userns (pid, uid_map, gid_map);
  kill (pid, SIGKILL);
  while (waitpid (pid, NULL, __WALL) < 0 && errno == EINTR)
    continue;
  free (stack);
  return fd;
}

static void *
make_netns (void *out)
{
  int *fd = out;
  const char *call;
  if (unshare (CLONE_NEWNET) < 0)
    {
      *fd = -errno;
      return NULL;
    }
  int result = wy_loopback_up (&call);
  if (result >= 0)
    result = open ("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  *fd = result;
  return NULL;
}

int
wy_netns_new (void)
{
  pthread_t thread;
  int fd = -1;
  int result = pthread_create (&thread, NULL, make_netns, &fd);
  if (result != 0)
    return -result;
  pthread_join (thread, NULL);
  return fd;
}

static int own_netns = -1;

int
wy_netns_enter (int netns)
{
  if (own_netns < 0)
    own_netns = (int)wy_sys (SYS_open, "/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  return own_netns < 0 ? own_netns : (int)wy_sys (SYS_setns, netns, CLONE_NEWNET);
}

/* A thread that cannot return would run the worker inside a container's network. */
void
wy_netns_leave (void)
{
  if (wy_sys (SYS_setns, own_netns, CLONE_NEWNET) < 0)
    abort ();
}

/* proc_pid_net(5), dev: "    lo:  BYTES  PACKETS …" received; over `lo` that equals what was sent. */
int
wy_netns_used (int32_t netns)
{
  char text[4096];
  int result = wy_netns_enter (netns);
  if (result < 0)
    return result;
  wy_cleanup_close int fd = (int)wy_sys (SYS_open, "/proc/thread-self/net/dev", O_RDONLY | O_CLOEXEC);
  long size = fd < 0 ? fd : wy_sys (SYS_read, fd, text, sizeof text - 1);
  wy_netns_leave ();
  if (size < 0)
    return (int)size;
  text[size] = '\0';
  const char *bytes = strstr (text, "lo:");
  return bytes == NULL || strtoull (bytes + 3, NULL, 10) != 0;
}

int
wy_idmap_probe (const char *path, int32_t userns)
{
  wy_cleanup_close int tree = open_tree (AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (tree < 0)
    return -errno;
  struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)userns };
  return mount_setattr (tree, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0 ? -errno : 0;
}

int
wy_oom_event (const char *dir)
{
  char path[4096], line[48];
  snprintf (path, sizeof path, "%s/memory.oom_control", dir);
  wy_cleanup_close int control = open (path, O_RDONLY | O_CLOEXEC);
  snprintf (path, sizeof path, "%s/cgroup.event_control", dir);
  wy_cleanup_close int events = open (path, O_WRONLY | O_CLOEXEC);
  if (control < 0 || events < 0)
    return -errno;
  wy_cleanup_close int fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0)
    return -errno;
  int length = snprintf (line, sizeof line, "%d %d", fd, control);
  if (write (events, line, (size_t)length) != length)
    return -errno;
  int result = fd;
  fd = -1;
  return result;
}
