/* files.c - small control files (cgroups), many in one call, and lock files.
 *
 * A container's limits and usage are a dozen files of some bytes each. Through Node each costs three calls
 * into its runtime; here only the system calls. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#include "sys.h"
#include "wherry.h"

/* The text after TEXT, or NULL if TEXT does not end before END. */
static const char *
next_text (const char *text, const char *end)
{
  const char *stop = text < end ? memchr (text, '\0', (size_t)(end - text)) : NULL;
  return stop == NULL ? NULL : stop + 1;
}

/* The kernel does not set a memory limit while a signal or io_uring work is pending for this thread. */
#define WRITE_TRIES_MAX 16

static long
write_file (const char *path, const char *text)
{
  /* Without O_CREAT, with which a cgroup returns EACCES for a missing file. */
  wy_cleanup_close int fd = (int)wy_sys (SYS_open, path, O_WRONLY | O_CLOEXEC);
  long result = fd < 0 ? fd : -EINTR;
  for (unsigned tries = 0; result == -EINTR && tries < WRITE_TRIES_MAX; tries++)
    result = wy_sys (SYS_write, fd, text, strlen (text));
  return result;
}

/* A file longer than ROOM is truncated. */
static long
read_file (const char *path, char *out, size_t room)
{
  wy_cleanup_close int fd = (int)wy_sys (SYS_open, path, O_RDONLY | O_CLOEXEC);
  return fd < 0 ? fd : wy_sys (SYS_read, fd, out, room);
}

int
wy_write_files (const char *list, uint32_t size, uint32_t *failed)
{
  const char *path = list, *end = list + size;
  for (*failed = 0; path < end; ++*failed)
    {
      const char *text = next_text (path, end);
      const char *next = text == NULL ? NULL : next_text (text, end);
      if (next == NULL)
        return -EINVAL;
      long result = write_file (path, text);
      if (result < 0)
        return (int)result;
      path = next;
    }
  return 0;
}

int
wy_read_files (const char *list, uint32_t size, char *out, uint32_t room, uint32_t *failed)
{
  const char *path = list, *end = list + size;
  uint32_t used = 0;
  for (*failed = 0; path < end; ++*failed)
    {
      const char *next = next_text (path, end);
      if (next == NULL)
        return -EINVAL;
      if (used == room)
        return -E2BIG;
      long result = read_file (path, out + used, room - used - 1);
      if (result < 0)
        return (int)result;
      used += (uint32_t)result;
      out[used++] = '\0';
      path = next;
    }
  return (int)used;
}

int
wy_lock_file (const char *path)
{
  wy_cleanup_close int fd = (int)wy_sys (SYS_open, path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  long result = fd < 0 ? fd : wy_sys (SYS_flock, fd, LOCK_EX | LOCK_NB);
  if (result < 0)
    return (int)result;
  int locked = fd;
  fd = -1;
  return locked;
}
