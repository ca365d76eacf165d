/* Operations of `copy`, read from standard input.
 *
 * An operation is eight texts, each terminated by a NUL: what, FROM, TO, BASE, MODE, UID, GID, FLAGS.
 *   d   create directory TO and those above it; existing ones are left as they are
 *   c   copy FROM to TO: one file, link, fifo or directory without its contents; "" is the root of the source
 * MODE is "-" (the source's) or octal; UID and GID are "-" (the source's) or numbers; FLAGS are letters:
 *   x   keep extended attributes
 *   i   TO may be a directory: then copy to TO/BASE */

#include "layer.h"

#include <stdlib.h>
#include <string.h>

#define FIELDS 8

bool
wy_operation_has (const struct wy_operation *o, char flag)
{
  return strchr (o->flags, flag) != NULL;
}

/* TEXT as an id; "-" means SOURCE. */
uid_t
wy_operation_id (const char *text, uid_t source)
{
  char *end;
  if (strcmp (text, "-") == 0)
    return source;
  unsigned long value = strtoul (text, &end, 10);
  if (*end != '\0' || end == text || value >= UINT32_MAX)
    wy_refuse (text, "is not an id");
  return (uid_t)value;
}

/* TEXT as permission bits; "-" means those of SOURCE. */
mode_t
wy_operation_mode (const char *text, mode_t source)
{
  char *end;
  if (strcmp (text, "-") == 0)
    return source & 07777;
  unsigned long value = strtoul (text, &end, 8);
  if (*end != '\0' || end == text || value > 07777)
    wy_refuse (text, "is not a mode");
  return (mode_t)value;
}

/* Read the next operation into *O, whose texts are valid until the next call. Return: false at the end. */
bool
wy_operation_read (struct wy_operation *o)
{
  static char *fields[FIELDS];
  static size_t caps[FIELDS];
  for (unsigned i = 0; i < FIELDS; i++)
    {
      ssize_t len = getdelim (&fields[i], &caps[i], '\0', stdin);
      if (len < 0 && i == 0 && feof (stdin))
        return false;
      if (len <= 0 || fields[i][len - 1] != '\0')
        wy_refuse ("", "is a truncated operation");
      if ((size_t)len > WY_PATH_BYTES_MAX)
        wy_refuse (fields[i], "is longer than 4096 bytes");
    }
  *o = (struct wy_operation){ fields[0], fields[1], fields[2], fields[3],
                              fields[4], fields[5], fields[6], fields[7] };
  return true;
}
