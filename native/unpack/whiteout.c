/* Whiteouts: how a layer deletes files of lower layers (OCI image-spec, layer.md).
 *
 * The archive has marker files, overlayfs has its own marks: a character device 0:0 hides one name, the
 * attribute user.overlay.opaque=y hides the contents of a directory. "user." because the overlay is mounted
 * with -o userxattr, in a user namespace, where trusted.* cannot be read. A device 0:0 needs no CAP_MKNOD
 * since Linux 5.8, so this program has none and cannot make any other device.
 *
 * A marker affects lower layers only: an entry of that name in its own layer stays, before or after it. */

#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PREFIX ".wh."
#define PREFIX_LEN 4u

static bool
begins (const char *text, const char *prefix)
{
  return strncmp (text, prefix, strlen (prefix)) == 0;
}

/* Is LAST in PARENT overlayfs's mark for a deleted file? */
bool
wy_whiteout_is_node (int parent, const char *last)
{
  struct stat st;
  return fstatat (parent, last, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR (st.st_mode)
         && st.st_rdev == makedev (0, 0);
}

/* Hide the contents of lower layers in directory LAST of PARENT. */
void
wy_opaque_set (int parent, const char *last, const char *shown)
{
  int fd = openat (parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", shown);
  if (fsetxattr (fd, "user.overlay.opaque", "y", 1, 0) < 0)
    wy_fail ("fsetxattr", shown);
  close (fd);
}

/* Is the normalized NAME inside a directory of aufs (".wh..wh.plnk/…")? A directory named like any other
 * marker is refused. */
bool
wy_whiteout_below_special (const char *name)
{
  const char *part = name;
  for (const char *slash; (slash = strchr (part, '/')) != NULL; part = slash + 1)
    {
      if (begins (part, ".wh..wh."))
        return true;
      if (begins (part, PREFIX))
        wy_refuse (WY_UNSAFE, name, "is inside a directory with the name of a whiteout");
    }
  return false;
}

static void
hide (struct wy_unpack *u, int parent, const char *target)
{
  struct stat st;
  if (mknodat (parent, target, S_IFCHR, makedev (0, 0)) == 0)
    return;
  if (errno != EEXIST)
    wy_fail ("mknod", u->entry.name);
  if (fstatat (parent, target, &st, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("stat", u->entry.name);
  if (S_ISDIR (st.st_mode))
    wy_opaque_set (parent, target, u->entry.name);
}

/* If LAST is a marker, apply it in PARENT. Return: whether it was one. */
bool
wy_whiteout_apply (struct wy_unpack *u, int parent, const char *last)
{
  if (!begins (last, PREFIX))
    return false;
  const char *target = last + PREFIX_LEN;
  if (strcmp (last, ".wh..wh..opq") == 0)
    wy_opaque_set (parent, ".", u->entry.name);
  else if (begins (target, PREFIX))
    return true; /* bookkeeping of aufs */
  else if (*target == '\0' || strcmp (target, ".") == 0 || strcmp (target, "..") == 0)
    wy_refuse (WY_UNSAFE, u->entry.name, "is a whiteout of no name, or of \".\" or \"..\"");
  else
    hide (u, parent, target);
  return true;
}
