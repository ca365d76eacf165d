/* devices.c - the directory that containers have, read-only, as /dev.
 *
 * A process in a user namespace cannot create device nodes, and binding the host's nodes one by one costs
 * three system calls each. So the worker creates them once per slot, on disk, and the directory is attached
 * as a whole. They are the runtime spec's default devices (config-linux.md) without those of a terminal,
 * which a function does not have. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "sys.h"
#include "wherry.h"

struct device
{
  const char *name;
  unsigned major, minor;
};

struct link
{
  const char *name, *target;
};

static const struct device devices[] = {
  { "null", 1, 3 },   { "zero", 1, 5 },    { "full", 1, 7 },
  { "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 },
};
static const struct link links[] = {
  { "fd", "/proc/self/fd" },
  { "stdin", "/proc/self/fd/0" },
  { "stdout", "/proc/self/fd/1" },
  { "stderr", "/proc/self/fd/2" },
};

static int
make_device (int dir, const struct device *device)
{
  struct stat st;
  if (mknodat (dir, device->name, S_IFCHR | 0666, makedev (device->major, device->minor)) < 0
      && errno != EEXIST)
    return -errno;
  /* A foreign file of that name must not become a container's /dev/null (CVE-2025-31133). */
  if (fstatat (dir, device->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return -errno;
  if (!S_ISCHR (st.st_mode) || st.st_rdev != makedev (device->major, device->minor))
    return -EEXIST;
  return fchmodat (dir, device->name, 0666, 0) < 0 ? -errno : 0;
}

int
wy_devices_make (const char *path)
{
  wy_cleanup_close int dir = open (path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (dir < 0)
    return -errno;
  for (unsigned i = 0; i < sizeof devices / sizeof *devices; i++)
    {
      int result = make_device (dir, &devices[i]);
      if (result < 0)
        return result;
    }
  for (unsigned i = 0; i < sizeof links / sizeof *links; i++)
    if (symlinkat (links[i].target, dir, links[i].name) < 0 && errno != EEXIST)
      return -errno;
  return mkdirat (dir, "shm", 0755) < 0 && errno != EEXIST ? -errno : 0;
}
