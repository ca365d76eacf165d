/* Extended attributes, byte for byte. The policy is that of wherry-unpack (native/unpack/pax.c):
 *   user.*, security.capability, system.posix_acl_*   kept
 *   user.overlay.*                                     marks of overlayfs: never part of an image
 *   anything else                                      a label of this machine: omitted */

#include "layer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#define LIST_BYTES_MAX 65536u
static const char overlay_prefix[] = "user.overlay.";
static const char opaque_name[] = "user.overlay.opaque";

static bool
begins (const char *text, const char *prefix)
{
  return strncmp (text, prefix, strlen (prefix)) == 0;
}

static bool
is_kept (const char *name)
{
  if (begins (name, overlay_prefix))
    return false;
  return begins (name, "user.") || strcmp (name, "security.capability") == 0
         || strcmp (name, "system.posix_acl_access") == 0 || strcmp (name, "system.posix_acl_default") == 0;
}

static int
by_bytes (const void *a, const void *b)
{
  return strcmp (*(char *const *)a, *(char *const *)b);
}

/* The names of FD's attributes, sorted, in *NAMES, which point into LIST.  Return: how many. */
static size_t
sorted_names (int fd, char list[LIST_BYTES_MAX], const char ***names, const char *shown)
{
  ssize_t size = flistxattr (fd, list, LIST_BYTES_MAX);
  if (size < 0 && errno == ENOTSUP)
    size = 0;
  if (size < 0)
    wy_fail ("flistxattr", shown);
  size_t count = 0;
  for (ssize_t at = 0; at < size; at += (ssize_t)strlen (list + at) + 1)
    count++;
  const char **found = wy_alloc ((count + 1) * sizeof *found);
  size_t i = 0;
  for (ssize_t at = 0; at < size; at += (ssize_t)strlen (list + at) + 1)
    found[i++] = list + at;
  if (count > 0)
    qsort (found, count, sizeof *found, by_bytes);
  *names = found;
  return count;
}

/* The attributes of file FD that belong to an image, sorted by name. */
struct wy_xattrs
wy_xattrs_read (int fd, const char *shown)
{
  static char list[LIST_BYTES_MAX], value[WY_XATTRS_BYTES_MAX];
  struct wy_xattrs out = { 0 };
  const char **names;
  size_t count = sorted_names (fd, list, &names, shown);
  for (size_t i = 0; i < count; i++)
    {
      if (!is_kept (names[i]))
        continue;
      ssize_t size = fgetxattr (fd, names[i], value, sizeof value);
      if (size < 0)
        wy_fail ("fgetxattr", shown);
      char head[LIST_BYTES_MAX / 128];
      int len = snprintf (head, sizeof head, "%s%c%zd%c", names[i], '\0', size, '\0');
      size_t need = out.size + (size_t)len + (size_t)size;
      char *grown = need > WY_XATTRS_BYTES_MAX * 4 ? NULL : realloc (out.bytes, need);
      if (grown == NULL)
        wy_refuse (shown, "has more extended attributes than fit into a layer");
      memcpy (grown + out.size, head, (size_t)len);
      memcpy (grown + out.size + (size_t)len, value, (size_t)size);
      out.bytes = grown;
      out.size = need;
    }
  free (names);
  return out;
}

/* The attribute at *AT, which moves on. Return: its name, or NULL at the end. */
const char *
wy_xattrs_next (const struct wy_xattrs *xattrs, size_t *at, const char **value, size_t *size)
{
  if (*at >= xattrs->size)
    return NULL;
  const char *name = xattrs->bytes + *at;
  const char *length = name + strlen (name) + 1;
  *size = (size_t)strtoul (length, NULL, 10);
  *value = length + strlen (length) + 1;
  *at = (size_t)(*value - xattrs->bytes) + *size;
  return name;
}

/* Remove the marks of overlayfs from FD; with KEEP_OPAQUE the mark of an opaque directory stays. */
void
wy_xattrs_settle (int fd, bool keep_opaque, const char *shown)
{
  static char list[LIST_BYTES_MAX];
  const char **names;
  size_t count = sorted_names (fd, list, &names, shown);
  for (size_t i = 0; i < count; i++)
    {
      if (!begins (names[i], overlay_prefix) || (keep_opaque && strcmp (names[i], opaque_name) == 0))
        continue;
      if (fremovexattr (fd, names[i]) < 0)
        wy_fail ("fremovexattr", shown);
    }
  free (names);
}

/* Does the directory FD hide its contents in lower layers? (overlayfs.rst, "Whiteouts and opaque
 * directories") */
bool
wy_is_opaque (int fd)
{
  char value[8];
  return fgetxattr (fd, opaque_name, value, sizeof value) == 1 && value[0] == 'y';
}
