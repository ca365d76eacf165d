/* op_files.c - operations on files of the container: nodes, links, kernel settings, hidden paths.
 *
 * All of them come after the pivot, so a path begins and ends in the container's root, whatever links its
 * image has. Kernel settings are written through a proc file system of our own that is mounted nowhere, so
 * neither image nor volume can replace it (CVE-2019-19921, CVE-2025-52881). */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "stage.h"
#include "sys.h"

int
wy_do_write (struct wy_stage *stage, const struct wy_op *op)
{
  const char *value = wy_text (stage, op->text[1]);
  wy_cleanup_close int fd = (int)wy_open_in_root (stage->fds[op->handle], wy_text (stage, op->text[0]),
                                                  O_WRONLY, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
  if (fd < 0)
    return wy_fail (stage, "openat2", fd);
  long result = wy_sys (SYS_write, fd, value, wy_next (value) - value - 1);
  return result < 0 ? wy_fail (stage, "write", result) : 0;
}

int
wy_do_mknod (struct wy_stage *stage, const struct wy_op *op)
{
  const char *name;
  wy_cleanup_close int dir = (int)wy_open_parent (wy_text (stage, op->text[0]), &name);
  if (dir < 0)
    return wy_fail (stage, "openat2", dir);
  long result = wy_sys (SYS_mknodat, dir, name, op->num, op->wide);
  if (result == -EEXIST)
    {
      /* An existing node of the image may stay if it is the same device (CVE-2025-31133). */
      struct stat st;
      result = wy_sys (SYS_newfstatat, dir, name, &st, AT_SYMLINK_NOFOLLOW);
      if (result >= 0 && ((st.st_mode & S_IFMT) != (op->num & S_IFMT) || st.st_rdev != op->wide))
        result = -EEXIST;
    }
  if (result < 0)
    return wy_fail (stage, "mknodat", result);
  result = wy_sys (SYS_fchownat, dir, name, op->num2, op->from, AT_SYMLINK_NOFOLLOW);
  if (result < 0)
    return wy_fail (stage, "fchownat", result);
  /* The umask is the caller's. */
  result = wy_sys (SYS_fchmodat, dir, name, op->num & 07777);
  return result < 0 ? wy_fail (stage, "fchmodat", result) : 0;
}

int
wy_do_symlink (struct wy_stage *stage, const struct wy_op *op)
{
  const char *name;
  wy_cleanup_close int dir = (int)wy_open_parent (wy_text (stage, op->text[1]), &name);
  if (dir < 0)
    return wy_fail (stage, "openat2", dir);
  long result = wy_sys (SYS_symlinkat, wy_text (stage, op->text[0]), dir, name);
  return result < 0 && result != -EEXIST ? wy_fail (stage, "symlinkat", result) : 0;
}

/* Create an empty, read-only directory. Return: a detached mount, or -errno. */
static long
empty_directory (void)
{
  wy_cleanup_close int context = (int)wy_sys (SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
  if (context < 0)
    return context;
  long result = wy_sys (SYS_fsconfig, context, FSCONFIG_SET_STRING, "nr_inodes", "1", 0);
  if (result >= 0)
    result = wy_sys (SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
  if (result < 0)
    return result;
  return wy_sys (SYS_fsmount, context, FSMOUNT_CLOEXEC,
                 MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

int
wy_do_mask (struct wy_stage *stage, const struct wy_op *op)
{
  const char *path = wy_text (stage, op->text[0]);
  struct stat st;
  wy_cleanup_close int target = (int)wy_open_in_root (AT_FDCWD, path, O_PATH, 0, RESOLVE_NO_MAGICLINKS);
  if (target == -ENOENT || target == -ENOTDIR)
    return 0;
  if (target < 0)
    return wy_fail (stage, "openat2", target);
  long result = wy_sys (SYS_newfstatat, target, "", &st, AT_EMPTY_PATH);
  if (result < 0)
    return wy_fail (stage, "newfstatat", result);
  wy_cleanup_close int empty = -1;
  if (S_ISDIR (st.st_mode) && (empty = (int)empty_directory ()) < 0)
    return wy_fail (stage, "fsmount", empty);
  result = wy_sys (SYS_move_mount, empty >= 0 ? empty : stage->fds[op->handle], "", target, "",
                   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  return result < 0 ? wy_fail (stage, "move_mount", result) : 0;
}

/* A program may open /dev/stdout, which checks the owner again. Descriptors whose owner cannot change (a
 * read-only file, a device of the host) are left alone. */
int
wy_do_stdio_owner (struct wy_stage *stage, const struct wy_op *op)
{
  for (int fd = 0; fd < 3; fd++)
    {
      struct stat st;
      if (wy_sys (SYS_fstat, fd, &st) < 0 || st.st_uid == op->num || S_ISCHR (st.st_mode))
        continue;
      long result = wy_sys (SYS_fchown, fd, op->num, -1);
      if (result < 0 && result != -EPERM && result != -EROFS && result != -EINVAL)
        return wy_fail (stage, "fchown", result);
    }
  return 0;
}
