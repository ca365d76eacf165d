/* op_home.c - the home directory of a user whose environment has no HOME.
 *
 * Engines leave this to the runtime, because the container's /etc/passwd can be read safely only from inside
 * its root: from outside, a link in the image could lead to the host's file. A missing or malformed passwd
 * file is not an error, because programs run without a home directory, too; HOME is then "/". */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stage.h"
#include "sys.h"

#define PASSWD_SIZE_MAX (1u << 20)

/* Up to PASSWD_SIZE_MAX bytes of /etc/passwd, NUL-terminated; NULL if it cannot be read. */
static char *
read_passwd (void)
{
  struct stat st;
  size_t size = 0;
  wy_cleanup_close int fd = (int)wy_open_in_root (AT_FDCWD, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY,
                                                  0, RESOLVE_NO_MAGICLINKS);
  if (fd < 0 || fstat (fd, &st) < 0 || !S_ISREG (st.st_mode))
    return NULL;
  char *text = malloc (PASSWD_SIZE_MAX + 1);
  while (text != NULL && size < PASSWD_SIZE_MAX)
    {
      ssize_t got = read (fd, text + size, PASSWD_SIZE_MAX - size);
      if (got <= 0)
        break;
      size += (size_t)got;
    }
  if (text != NULL)
    text[size] = '\0';
  return text;
}

/* Field NUMBER of LINE, NUL-terminated in place; NULL if LINE has fewer fields. */
static char *
field_of (char *line, unsigned number)
{
  while (number-- > 0 && line != NULL)
    {
      char *colon = strchr (line, ':');
      line = colon == NULL ? NULL : colon + 1;
    }
  if (line != NULL)
    line[strcspn (line, ":")] = '\0';
  return line;
}

/* The home directory of user UID in PASSWD (passwd(5)), an absolute path; "/" if it has none. */
static const char *
home_of (char *passwd, uint32_t uid)
{
  for (char *rest = passwd, *line; (line = strsep (&rest, "\n")) != NULL;)
    {
      char *end;
      char *home = field_of (line, 5);
      char *number = home == NULL ? NULL : field_of (line, 2);
      if (number == NULL || *number < '0' || *number > '9')
        continue;
      unsigned long id = strtoul (number, &end, 10);
      if (*end == '\0' && id == uid)
        return home[0] == '/' ? home : "/";
    }
  return "/";
}

int
wy_do_home (struct wy_stage *stage, const struct wy_op *op)
{
  char *passwd = read_passwd ();
  int result = asprintf (&stage->home, "HOME=%s", passwd == NULL ? "/" : home_of (passwd, op->num));
  free (passwd);
  return result < 0 ? wy_fail (stage, "asprintf", -ENOMEM) : 0;
}
