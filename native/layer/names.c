/* Names of a directory in an order that does not depend on the file system: two runs must produce the same
 * bytes. */

#include "layer.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAMES_START 64u

static int
by_bytes (const void *a, const void *b)
{
  return strcmp (*(char *const *)a, *(char *const *)b);
}

/* All names in DIR but "." and "..". DIR stays open. */
struct wy_names
wy_names_read (int dir, const char *shown)
{
  struct wy_names names = { 0 };
  size_t cap = 0;
  int copy = dup (dir);
  DIR *stream = copy < 0 ? NULL : fdopendir (copy);
  if (stream == NULL)
    wy_fail ("fdopendir", shown);
  errno = 0;
  for (struct dirent *d; (d = readdir (stream)) != NULL; errno = 0)
    {
      if (strcmp (d->d_name, ".") == 0 || strcmp (d->d_name, "..") == 0)
        continue;
      if (names.count == cap)
        {
          cap = cap == 0 ? NAMES_START : cap * 2;
          char **grown = cap > WY_ENTRIES_MAX * 2 ? NULL : realloc (names.items, cap * sizeof *grown);
          if (grown == NULL)
            wy_fail ("malloc", shown);
          names.items = grown;
        }
      names.items[names.count++] = wy_copy_text (d->d_name);
    }
  if (errno != 0)
    wy_fail ("readdir", shown);
  closedir (stream);
  if (names.count > 0)
    qsort (names.items, names.count, sizeof *names.items, by_bytes);
  return names;
}

void
wy_names_free (struct wy_names *names)
{
  for (size_t i = 0; i < names->count; i++)
    free (names->items[i]);
  free (names->items);
  *names = (struct wy_names){ 0 };
}

/* OUT = "PATH/NAME", or NAME when PATH is the root (""). */
void
wy_path_join (char out[WY_PATH_BYTES_MAX], const char *path, const char *name)
{
  int len = snprintf (out, WY_PATH_BYTES_MAX, "%s%s%s", path, *path == '\0' ? "" : "/", name);
  if (len < 0 || (size_t)len >= WY_PATH_BYTES_MAX - 8)
    wy_refuse (path, "has a path below it that is longer than 4096 bytes");
}
