/* Normalizes names of the archive.
 *
 * This is the only code that parses a name, and it makes one decision about safety: ".." is refused anywhere,
 * so that a name cannot mean two places. The kernel decides where a name leads (place.c). */

#include "unpack.h"

#include <limits.h>
#include <string.h>

static void
check_part (const char *name, const char *part, size_t len)
{
  if (len > NAME_MAX)
    wy_refuse (WY_LIMIT, name, "has a part longer than a file system allows");
  if (len == 2 && part[0] == '.' && part[1] == '.')
    wy_refuse (WY_UNSAFE, name, "has \"..\" in its path");
}

/* Normalize NAME to "a/b/c": no "/" at the ends, no empty parts, no "."; refuse "..".
 *
 * Return: the number of parts; 0 is the root itself.
 */
size_t
wy_name_clean (char *name, const struct wy_limits *limits)
{
  size_t parts = 0;
  char *out = name;
  if (strlen (name) > limits->path_bytes)
    wy_refuse (WY_LIMIT, name, "has a name longer than its limit");
  for (const char *p = name; *p != '\0'; p += strcspn (p, "/"), p += *p == '/')
    check_part (name, p, strcspn (p, "/"));
  for (const char *p = name; *p != '\0';)
    {
      size_t len = strcspn (p, "/");
      const char *next = p + len + (p[len] == '/');
      if (len > 0 && !(len == 1 && p[0] == '.'))
        {
          if (parts++ > 0)
            *out++ = '/';
          memmove (out, p, len);
          out += len;
        }
      p = next;
    }
  *out = '\0';
  if (parts > limits->depth)
    wy_refuse (WY_LIMIT, name, "is nested deeper than its limit");
  return parts;
}
