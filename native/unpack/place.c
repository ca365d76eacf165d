/* From a name in the archive to a place in the layer.
 *
 * The kernel resolves every name from the root's descriptor with openat2(2) RESOLVE_BENEATH: a path that
 * would leave the root, by "..", by an absolute or by a climbing symlink, fails with EXDEV and is refused
 * here. Everything else uses that directory's descriptor and the last component, so that no second resolution
 * can end elsewhere.
 *
 * Relative symlinks inside the layer are followed (a /lib -> usr/lib is normal), which lets a short name
 * reach deep: so the limits of depth and length apply to the true path, from getcwd(2). Otherwise a layer
 * could build trees that cannot be removed by path. */

#include "unpack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* openat2(2): EAGAIN after a race of ".." with any rename or mount; the caller should try again. */
#define OPEN_TRIES_MAX 1000

/* Count one more entry, or refuse. */
void
wy_count_entry (struct wy_unpack *u)
{
  if (++u->entries > u->limits.entries)
    wy_refuse (WY_LIMIT, "", "the layer has more entries than its limit");
}

/* Remove the ACLs that the new file FD inherited from the default ACL of its directory (acl(5)); the archive
 * names all ACLs that it wants. */
void
wy_forget_inherited (const struct wy_unpack *u, int fd)
{
  const char *const inherited[] = { WY_ACCESS_ACL, WY_DEFAULT_ACL };
  for (size_t i = 0; u->default_acls && i < 2; i++)
    if (fremovexattr (fd, inherited[i]) < 0 && errno != ENODATA && errno != EACCES && errno != EOPNOTSUPP)
      wy_fail ("fremovexattr", u->entry.name);
}

/* Open PATH below the root, "" being the root.  Return: a descriptor, or -1 with errno. */
int
wy_open_beneath (const struct wy_unpack *u, const char *path, int flags)
{
  struct open_how how = {
    .flags = (unsigned)flags | O_CLOEXEC,
    .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
  };
  long fd = -1;
  for (int tries = 0; tries < OPEN_TRIES_MAX; tries++)
    {
      fd = syscall (SYS_openat2, u->root, *path == '\0' ? "." : path, &how, sizeof how);
      if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
        break;
    }
  return (int)fd;
}

wy_noreturn static void
refuse_path (const char *name)
{
  switch (errno)
    {
    case EXDEV:
      wy_refuse (WY_UNSAFE, name, "leads out of the layer through a symbolic link");
    case ELOOP:
      wy_refuse (WY_UNSAFE, name, "passes through too many symbolic links");
    case ENOTDIR:
      wy_refuse (WY_INVALID, name, "is below something that is not a directory");
    case ENAMETOOLONG:
      wy_refuse (WY_LIMIT, name, "has a name longer than the kernel allows");
    case ENOENT:
      wy_refuse (WY_INVALID, name, "links to something that is not in the layer before it");
    default:
      wy_fail ("openat2", name);
    }
}

/* Check the limits for the true path of directory FD. */
static void
check_depth (const struct wy_unpack *u, int fd, const char *name)
{
  char path[4096];
  if (fchdir (fd) < 0)
    wy_fail ("fchdir", name);
  long len = syscall (SYS_getcwd, path, sizeof path);
  if (len < 0 && errno != ERANGE && errno != ENAMETOOLONG)
    wy_fail ("getcwd", name);
  if (len < 0 || (uint64_t)len > u->limits.path_bytes)
    wy_refuse (WY_LIMIT, name, "has a path longer than its limit");
  uint64_t depth = 1;
  for (const char *p = path; *p != '\0'; p++)
    depth += *p == '/' && p[1] != '\0';
  if (depth > u->limits.depth)
    wy_refuse (WY_LIMIT, name, "is nested deeper than its limit");
}

/* mkdirat(2) with mode 0755, whatever the parent's ACL. Return: false if LAST already exists. */
static bool
make_new (const struct wy_unpack *u, int parent, const char *last)
{
  if (mkdirat (parent, last, 0755) < 0)
    {
      if (errno != EEXIST)
        wy_fail ("mkdir", u->entry.name);
      return false;
    }
  if (!u->default_acls)
    return true;
  int fd = openat (parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", u->entry.name);
  wy_forget_inherited (u, fd);
  if (fchmod (fd, 0755) < 0)
    wy_fail ("fchmod", u->entry.name);
  close (fd);
  return true;
}

/* Create directory LAST in PARENT unless it exists. Anything else of that name is an error, or removed with
 * REPLACE. */
void
wy_dir_make (struct wy_unpack *u, int parent, const char *last, bool replace)
{
  struct stat st;
  if (make_new (u, parent, last))
    return;
  if (fstatat (parent, last, &st, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("stat", u->entry.name);
  if (S_ISDIR (st.st_mode))
    return;
  bool whiteout = wy_whiteout_is_node (parent, last);
  if (!whiteout && !replace)
    wy_refuse (S_ISLNK (st.st_mode) ? WY_UNSAFE : WY_INVALID, u->entry.name,
               "is below something that is not a directory");
  wy_remove (u, parent, last);
  (void)make_new (u, parent, last);
  /* Deleted and recreated in one layer: nothing of the lower directory may show through. */
  if (whiteout)
    wy_opaque_set (parent, last, u->entry.name);
}

/* Open directory PATH ("" is the root), creating missing parts, owned by root, mode 0755.
 *
 * The recursion is as deep as the path has parts. Return: a descriptor.
 */
static int
open_or_make (struct wy_unpack *u, char *path)
{
  char root[] = "";
  int fd = wy_open_beneath (u, path, O_PATH | O_DIRECTORY);
  if (fd >= 0)
    return fd;
  if (errno != ENOENT && errno != ENOTDIR)
    refuse_path (u->entry.name);
  char *slash = strrchr (path, '/');
  const char *part = slash == NULL ? path : slash + 1;
  if (slash != NULL)
    *slash = '\0';
  int above = open_or_make (u, slash == NULL ? root : path);
  wy_count_entry (u);
  wy_dir_make (u, above, part, false);
  fd = openat (above, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", u->entry.name);
  close (above);
  if (slash != NULL)
    *slash = '/';
  return fd;
}

/* Open the directory of entry NAME ("a/b/c", normalized), creating it if missing; *LAST is "c".
 *
 * Return: a descriptor that U owns, valid until the next call.
 */
int
wy_place (struct wy_unpack *u, char *name, const char **last)
{
  char *slash = strrchr (name, '/');
  *last = slash == NULL ? name : slash + 1;
  size_t len = slash == NULL ? 0 : (size_t)(slash - name);
  /* Entries of one directory usually follow each other: resolve it once. An entry that replaces a part of
   * this name is in another directory, which then takes this one's place. */
  if (u->parent >= 0 && strlen (u->parent_name) == len && memcmp (u->parent_name, name, len) == 0)
    return u->parent;
  if (u->parent >= 0)
    close (u->parent);
  char *path = strndup (name, len);
  if (path == NULL)
    wy_fail ("malloc", name);
  u->parent = open_or_make (u, path);
  free (path);
  memcpy (u->parent_name, name, len);
  u->parent_name[len] = '\0';
  check_depth (u, u->parent, name);
  return u->parent;
}

/* Open the directory of NAME, which must exist. Return: a descriptor for the caller to close. */
int
wy_place_existing (struct wy_unpack *u, char *name, const char **last)
{
  char *slash = strrchr (name, '/');
  *last = slash == NULL ? name : slash + 1;
  if (slash != NULL)
    *slash = '\0';
  int fd = wy_open_beneath (u, slash == NULL ? "" : name, O_PATH | O_DIRECTORY);
  if (slash != NULL)
    *slash = '/';
  if (fd < 0)
    refuse_path (u->entry.name);
  return fd;
}

/* check_depth bounds the depth, and so recursion and open descriptors. */
static void
remove_tree (int parent, const char *last, const char *shown)
{
  int fd = openat (parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", shown);
  DIR *dir = fdopendir (fd);
  if (dir == NULL)
    wy_fail ("fdopendir", shown);
  for (struct dirent *d; (d = readdir (dir)) != NULL;)
    {
      if (strcmp (d->d_name, ".") == 0 || strcmp (d->d_name, "..") == 0)
        continue;
      if (unlinkat (dirfd (dir), d->d_name, 0) == 0)
        continue;
      if (errno != EISDIR)
        wy_fail ("unlink", shown);
      remove_tree (dirfd (dir), d->d_name, shown);
    }
  closedir (dir);
  if (unlinkat (parent, last, AT_REMOVEDIR) < 0)
    wy_fail ("rmdir", shown);
}

/* Remove LAST from PARENT, with everything below it. */
void
wy_remove (struct wy_unpack *u, int parent, const char *last)
{
  if (unlinkat (parent, last, 0) == 0)
    return;
  if (errno != EISDIR)
    wy_fail ("unlink", u->entry.name);
  remove_tree (parent, last, u->entry.name);
}
