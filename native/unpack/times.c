/* Modification times of directories.
 *
 * Every new entry changes the time of its directory, so times are recorded while unpacking and set at the
 * end. The records are in one bounded buffer. A directory that was replaced meanwhile is skipped. */

#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORDS_BYTES_MAX (64u * 1024u * 1024u)
#define RECORDS_BYTES_START (64u * 1024u)

/* Record that directory PATH ("" is the root) has MTIME. */
void
wy_times_note (struct wy_unpack *u, const char *path, struct timespec mtime)
{
  struct wy_times *t = &u->times;
  size_t path_size = strlen (path) + 1, need = t->len + sizeof mtime + path_size;
  if (need > RECORDS_BYTES_MAX)
    wy_refuse (WY_LIMIT, path, "the layer has more directories than its limit");
  if (need > t->cap)
    {
      size_t cap = t->cap == 0 ? RECORDS_BYTES_START : t->cap;
      while (cap < need)
        cap *= 2;
      unsigned char *grown = realloc (t->records, cap);
      if (grown == NULL)
        wy_fail ("malloc", path);
      t->records = grown;
      t->cap = cap;
    }
  memcpy (t->records + t->len, &mtime, sizeof mtime);
  memcpy (t->records + t->len + sizeof mtime, path, path_size);
  t->len = need;
}

/* Set all recorded times. */
void
wy_times_set (struct wy_unpack *u)
{
  for (size_t at = 0; at < u->times.len;)
    {
      struct timespec times[2];
      memcpy (&times[0], u->times.records + at, sizeof times[0]);
      times[1] = times[0];
      const char *path = (const char *)u->times.records + at + sizeof times[0];
      at += sizeof times[0] + strlen (path) + 1;
      int fd = wy_open_beneath (u, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EXDEV))
        continue;
      if (fd < 0)
        wy_fail ("openat2", path);
      if (futimens (fd, times) < 0)
        wy_fail ("futimens", path);
      close (fd);
    }
}
