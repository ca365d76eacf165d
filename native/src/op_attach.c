/* op_attach.c - finds or creates a target in the container's root and mounts on it.
 *
 * Callers have pivoted, so every path that the kernel resolves begins and ends inside the root, whatever
 * links the image has. Magic links (/proc/self/fd/7) are never followed: they lead out. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "stage.h"
#include "sys.h"

#define PATH_SIZE 4096
#define LINKS_MAX 40 /* the kernel's limit (path_resolution(7)) */

long
wy_open_in_root (int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
  struct open_how how = { .flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve };
  return wy_sys (SYS_openat2, dir, path, &how, sizeof how);
}

/* Open the directory NAME below DIR, creating it if missing.  Return: a descriptor, or -errno. */
static long
enter_or_make (int dir, const char *name, uint64_t resolve)
{
  long fd = wy_open_in_root (dir, name, O_PATH | O_DIRECTORY, 0, resolve);
  if (fd != -ENOENT)
    return fd;
  long made = wy_sys (SYS_mkdirat, dir, name, 0755);
  if (made < 0 && made != -EEXIST)
    return made;
  return wy_open_in_root (dir, name, O_PATH | O_DIRECTORY, 0, resolve);
}

/* NAME in DIR is a link whose target is missing, and *PATH is the rest of the path after it: set *PATH to
 * target and rest, written into ROOM. Return: 0, -ENOENT if NAME is not a link, or -errno. */
static long
follow (int *dir, const char *name, const char **path, char room[PATH_SIZE])
{
  char link[PATH_SIZE];
  unsigned i = 0;
  long length = wy_sys (SYS_readlinkat, *dir, name, link, sizeof link - 1);
  if (length <= 0)
    return -ENOENT;
  for (const char *rest = *path; *rest != '\0'; rest++)
    {
      if (length == sizeof link - 1)
        return -ENAMETOOLONG;
      link[length++] = *rest;
    }
  for (; i < length; i++)
    room[i] = link[i];
  room[i] = '\0';
  *path = room;
  if (room[0] != '/')
    return 0;
  wy_close (dir);
  *dir = (int)wy_sys (SYS_open, "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  return *dir < 0 ? *dir : 0;
}

/* Create PATH, a directory or a file, with all directories above it. Works component by component on
 * descriptors, so that nothing can be swapped in between. The kernel resolves symbolic links on the way
 * inside the root; dangling ones are followed by hand, in the same root, because the caller has pivoted.
 * Return: a descriptor of PATH, or -errno. */
long
wy_make_target (const char *path, uint32_t flags, uint64_t resolve)
{
  char room[PATH_SIZE];
  unsigned links = 0;
  wy_cleanup_close int dir = (int)wy_sys (SYS_open, "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0)
    return dir;
  for (;;)
    {
      char name[256];
      unsigned length = 0;
      while (*path == '/')
        path++;
      for (; path[length] != '\0' && path[length] != '/'; length++)
        {
          if (length == sizeof name - 1)
            return -ENAMETOOLONG;
          name[length] = path[length];
        }
      name[length] = '\0';
      if (length == 0)
        {
          int result = dir;
          dir = -1;
          return result;
        }
      path += length;
      bool last = *path == '\0';
      long next = last && flags & WY_MAKE_FILE
                      ? wy_open_in_root (dir, name, O_CREAT | O_WRONLY | O_NOCTTY | O_NONBLOCK, 0644, resolve)
                      : enter_or_make (dir, name, resolve);
      if (next == -ENOENT && links++ < LINKS_MAX && (next = follow (&dir, name, &path, room)) == 0)
        continue;
      if (next < 0)
        return next;
      wy_close (&dir);
      dir = (int)next;
    }
}

long
wy_open_parent (const char *path, const char **name)
{
  char above[4096];
  unsigned length = 0, last = 0;
  for (; path[length] != '\0'; length++)
    {
      if (length == sizeof above - 1)
        return -ENAMETOOLONG;
      if (path[length] == '/')
        last = length;
      above[length] = path[length];
    }
  above[last] = '\0';
  *name = path[last] == '/' ? path + last + 1 : path;
  return wy_make_target (above, WY_MAKE_DIR, RESOLVE_NO_MAGICLINKS);
}

/* Open the target of an attach. Return: an O_PATH descriptor, or -errno; *MADE says whether it was
 * missing. */
static long
open_target (const char *path, uint32_t flags, int *made)
{
  uint64_t resolve = RESOLVE_NO_MAGICLINKS | (flags & WY_NO_SYMLINKS ? RESOLVE_NO_SYMLINKS : 0);
  long fd = wy_open_in_root (AT_FDCWD, path, O_PATH, 0, resolve);
  *made = fd == -ENOENT;
  if (fd == -ENOENT && flags & (WY_MAKE_DIR | WY_MAKE_FILE))
    return wy_make_target (path, flags, resolve);
  return fd;
}

/* A mount over a part of /proc could make other programs believe that they write to the kernel
 * (CVE-2019-16884, CVE-2025-52881). Return: 0, -EXDEV on a proc file system, or -errno. */
static long
refuse_proc (int target)
{
  struct statfs fs;
  long result = wy_sys (SYS_fstatfs, target, &fs);
  return result < 0 ? result : fs.f_type == PROC_SUPER_MAGIC ? -EXDEV : 0;
}

/* Return: the mode of FD, or -errno. */
static long
mode_of (int fd)
{
  struct stat st;
  long result = wy_sys (SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH);
  return result < 0 ? result : (long)st.st_mode;
}

/* Copy the mode of the directory TARGET to the root of TREE, which is about to cover it. Return: 0, or
 * -errno. */
static long
copy_mode (int tree, int target)
{
  long mode = mode_of (target);
  if (mode < 0)
    return mode;
  wy_cleanup_close int root = (int)wy_sys (SYS_openat, tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return root < 0 ? root : wy_sys (SYS_fchmod, root, mode & 07777);
}

int
wy_attach (struct wy_stage *stage, int tree, const char *path, uint32_t flags)
{
  int made;
  wy_cleanup_close int target = (int)open_target (path, flags, &made);
  if (target == -ENOENT && flags & WY_OPTIONAL)
    return 0;
  if (target < 0)
    return wy_fail (stage, "openat2", target);
  long result = flags & WY_NOT_ON_PROC ? refuse_proc (target) : 0;
  if (result < 0)
    return wy_fail (stage, "fstatfs", result);
  if (flags & WY_COPY_MODE && !made && (result = copy_mode (tree, target)) < 0)
    return wy_fail (stage, "fchmod", result);
  result = wy_sys (SYS_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  /* A file cannot be mounted on a directory, nor a directory on a file; the kernel returns EINVAL for that
   * and for much else. */
  if (result == -EINVAL && S_ISDIR (mode_of (tree)) != S_ISDIR (mode_of (target)))
    return wy_fail (stage, S_ISDIR (mode_of (target)) ? "a file over a directory" : "a directory over a file",
                    -ENOTDIR);
  return result < 0 ? wy_fail (stage, "move_mount", result) : 0;
}

int
wy_do_attach (struct wy_stage *stage, const struct wy_op *op)
{
  return wy_attach (stage, stage->fds[op->handle], wy_text (stage, op->text[0]), op->flags);
}
