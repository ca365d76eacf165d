/* op_mount.c - operations on mounts.
 *
 * The rule that keeps a hostile image inside: before the pivot nothing is ever looked up by a
 * path that leads through the image.  Whatever comes from the host is opened in the caller as a
 * detached tree (open_tree(2)) and attached after the pivot, when every path the kernel resolves
 * begins and ends inside the container's own root.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "stage.h"
#include "sys.h"

/* <sys/mount.h> of glibc 2.36 and <linux/mount.h> agree on these since 5.12, under include guards
 * of their own; only what both lack on older machines is named here. */
#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif

int
wy_prepare_fd (struct wy_stage *stage, const struct wy_op *op)
{
  stage->fds[op->slot] = (int) op->num;
  stage->owned[op->slot] = false;
  return 0;
}

static long
set_attributes (int fd, uint64_t attributes, uint64_t cleared, uint32_t flags, int idmap_fd)
{
  struct mount_attr attr = { .attr_set = attributes, .attr_clr = cleared };
  if (flags & WY_IDMAP)
    {
      attr.attr_set |= MOUNT_ATTR_IDMAP;
      attr.userns_fd = (uint64_t) idmap_fd;
    }
  if (attr.attr_set == 0 && attr.attr_clr == 0)
    return 0;
  unsigned at = AT_EMPTY_PATH | (flags & WY_RECURSIVE_ATTRIBUTES ? (unsigned) AT_RECURSIVE : 0u);
  return wy_sys (SYS_mount_setattr, fd, "", at, &attr, sizeof attr);
}

/* PROPAGATION as mount(2) takes it: MS_SHARED and the like, MS_REC for the mounts below as well. */
static long
set_propagation (int fd, uint64_t propagation)
{
  struct mount_attr attr = { .propagation = propagation & ~(uint64_t) MS_REC };
  if (propagation == 0)
    return 0;
  return wy_sys (SYS_mount_setattr, fd, "", AT_EMPTY_PATH | (propagation & MS_REC ? (unsigned) AT_RECURSIVE : 0u), &attr, sizeof attr);
}

/* Ids through a user namespace of the tree's own.  Apart from the other attributes, which may be meant for
 * fewer mounts. */
static long
map_ids (const struct wy_stage *stage, const struct wy_op *op, int fd)
{
  if (!(op->flags & WY_IDMAP_SLOT))
    return 0;
  uint32_t below = op->flags & WY_RECURSIVE ? (uint32_t) WY_RECURSIVE_ATTRIBUTES : 0;
  return set_attributes (fd, 0, 0, WY_IDMAP | below, stage->fds[op->from]);
}

int
wy_prepare_tree (struct wy_stage *stage, const struct wy_op *op)
{
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (op->flags & WY_RECURSIVE ? (unsigned) AT_RECURSIVE : 0u);
  long fd = wy_sys (SYS_open_tree, AT_FDCWD, wy_text (stage, op->text[0]), flags);
  if (fd < 0)
    return wy_fail (stage, "open_tree", fd);
  stage->fds[op->slot] = (int) fd;
  stage->owned[op->slot] = true;
  long result = set_attributes ((int) fd, op->wide, op->wide2, op->flags, stage->plan->idmap_fd);
  if (result >= 0)
    result = map_ids (stage, op, (int) fd);
  if (result >= 0)
    result = set_propagation ((int) fd, op->num);
  return result < 0 ? wy_fail (stage, "mount_setattr", result) : 0;
}

int
wy_do_setattr (struct wy_stage *stage, const struct wy_op *op)
{
  long result = set_attributes (stage->fds[op->slot], op->wide, op->wide2, op->flags, stage->plan->idmap_fd);
  if (result >= 0)
    result = set_propagation (stage->fds[op->slot], op->num);
  return result < 0 ? wy_fail (stage, "mount_setattr", result) : 0;
}

int
wy_do_propagation (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_mount, NULL, "/", NULL, op->wide, NULL);
  return result < 0 ? wy_fail (stage, "mount", result) : 0;
}

static long
configure (int context, const char *option)
{
  /* fsconfig wants key and value apart, and the text area may not be written to. */
  char key[64];
  unsigned i = 0;
  for (; option[i] != '\0' && option[i] != '='; i++)
    {
      if (i == sizeof key - 1)
        return -EINVAL;
      key[i] = option[i];
    }
  key[i] = '\0';
  if (option[i] == '\0')
    return wy_sys (SYS_fsconfig, context, FSCONFIG_SET_FLAG, key, NULL, 0);
  return wy_sys (SYS_fsconfig, context, FSCONFIG_SET_STRING, key, option + i + 1, 0);
}

int
wy_do_fsmount (struct wy_stage *stage, const struct wy_op *op)
{
  wy_cleanup_close int context = (int) wy_sys (SYS_fsopen, wy_text (stage, op->text[0]), FSOPEN_CLOEXEC);
  if (context < 0)
    return wy_fail (stage, "fsopen", context);
  const char *option = wy_text (stage, op->text[1]);
  for (uint32_t i = 0; i < op->num; i++, option = wy_next (option))
    {
      long result = configure (context, option);
      if (result < 0)
        return wy_fail (stage, "fsconfig", result);
    }
  long result = wy_sys (SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
  if (result < 0)
    return wy_fail (stage, "fsconfig", result);
  long fd = wy_sys (SYS_fsmount, context, FSMOUNT_CLOEXEC, op->wide);
  if (fd < 0)
    return wy_fail (stage, "fsmount", fd);
  stage->fds[op->slot] = (int) fd;
  return 0;
}

int
wy_do_mkdir (struct wy_stage *stage, const struct wy_op *op)
{
  int dir = stage->fds[op->slot];
  const char *name = wy_text (stage, op->text[0]);
  long result = wy_sys (SYS_mkdirat, dir, name, op->num);
  if (result < 0)
    return wy_fail (stage, "mkdirat", result);
  /* The umask is the caller's; a mode such as 1777 must not depend on it. */
  result = wy_sys (SYS_fchmodat, dir, name, op->num);
  return result < 0 ? wy_fail (stage, "fchmodat", result) : 0;
}

int
wy_do_chdir_slot (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_fchdir, stage->fds[op->slot]);
  return result < 0 ? wy_fail (stage, "fchdir", result) : 0;
}

long
wy_open_in_root (int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
  struct open_how how = { .flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve };
  return wy_sys (SYS_openat2, dir, path, &how, sizeof how);
}

/* Open the directory NAME below DIR, making it when missing.  Return: a descriptor, or -errno. */
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

/* Make PATH, a directory or a file, with all directories above it.  Works on descriptors component
 * by component, so that nothing can be swapped in between.  A symbolic link on the way is resolved
 * by the kernel inside the root: the caller of this has pivoted already.
 * Return: a descriptor of PATH, or -errno. */
long
wy_make_target (const char *path, uint32_t flags, uint64_t resolve)
{
  wy_cleanup_close int dir = (int) wy_sys (SYS_open, "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
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
      long next = last && flags & WY_MAKE_FILE ? wy_open_in_root (dir, name, O_CREAT | O_WRONLY | O_NOCTTY | O_NONBLOCK, 0644, resolve)
                                               : enter_or_make (dir, name, resolve);
      if (next < 0)
        return next;
      wy_close (&dir);
      dir = (int) next;
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

/* Where to attach.  Return: an O_PATH descriptor, or -errno. */
static long
open_target (const char *path, uint32_t flags)
{
  uint64_t resolve = RESOLVE_NO_MAGICLINKS | (flags & WY_NO_SYMLINKS ? RESOLVE_NO_SYMLINKS : 0);
  long fd = wy_open_in_root (AT_FDCWD, path, O_PATH, 0, resolve);
  if (fd == -ENOENT && flags & (WY_MAKE_DIR | WY_MAKE_FILE))
    return wy_make_target (path, flags, resolve);
  return fd;
}

/* What stands over a part of /proc could make others believe that they wrote to the kernel
 * (CVE-2019-16884, CVE-2025-52881).  Return: 0, -EXDEV on a proc file system, or -errno. */
static long
refuse_proc (int target)
{
  struct statfs fs;
  long result = wy_sys (SYS_fstatfs, target, &fs);
  return result < 0 ? result : fs.f_type == PROC_SUPER_MAGIC ? -EXDEV : 0;
}

int
wy_attach (struct wy_stage *stage, int tree, const char *path, uint32_t flags)
{
  wy_cleanup_close int target = (int) open_target (path, flags);
  if (target == -ENOENT && flags & WY_OPTIONAL)
    return 0;
  if (target < 0)
    return wy_fail (stage, "openat2", target);
  long result = flags & WY_NOT_ON_PROC ? refuse_proc (target) : 0;
  if (result < 0)
    return wy_fail (stage, "fstatfs", result);
  result = wy_sys (SYS_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  return result < 0 ? wy_fail (stage, "move_mount", result) : 0;
}

int
wy_do_attach (struct wy_stage *stage, const struct wy_op *op)
{
  return wy_attach (stage, stage->fds[op->slot], wy_text (stage, op->text[0]), op->flags);
}

int
wy_do_mount (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_mount, wy_text (stage, op->text[0]), wy_text (stage, op->text[1]), wy_text (stage, op->text[2]), op->wide,
                        wy_text (stage, op->text[3]));
  return result < 0 ? wy_fail (stage, "mount", result) : 0;
}

/* A detached clone of t0 below op->from.  Return: its descriptor, or -errno with the call named. */
static int
subtree (struct wy_stage *stage, const struct wy_op *op)
{
  int dir = op->from == WY_SLOT_NONE ? AT_FDCWD : stage->fds[op->from];
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (op->flags & WY_FOLLOW ? 0u : (unsigned) AT_SYMLINK_NOFOLLOW)
                   | (op->flags & WY_RECURSIVE ? (unsigned) AT_RECURSIVE : 0u);
  wy_cleanup_close int tree = (int) wy_sys (SYS_open_tree, dir, wy_text (stage, op->text[0]), flags);
  if (tree < 0)
    return wy_fail (stage, "open_tree", tree);
  long result = set_attributes (tree, op->wide, op->wide2, op->flags, stage->plan->idmap_fd);
  if (result >= 0)
    result = set_propagation (tree, op->num);
  if (result < 0)
    return wy_fail (stage, "mount_setattr", result);
  int made = tree;
  tree = -1;
  return made;
}

int
wy_do_subtree (struct wy_stage *stage, const struct wy_op *op)
{
  int tree = subtree (stage, op);
  if (tree < 0)
    return tree;
  stage->fds[op->slot] = tree;
  return 0;
}

int
wy_do_bind (struct wy_stage *stage, const struct wy_op *op)
{
  wy_cleanup_close int tree = subtree (stage, op);
  if (tree == -ENOENT && op->flags & WY_OPTIONAL)
    {
      stage->err->code = 0;
      return 0;
    }
  return tree < 0 ? tree : wy_attach (stage, tree, wy_text (stage, op->text[1]), op->flags);
}

int
wy_do_attributes (struct wy_stage *stage, const struct wy_op *op)
{
  struct mount_attr attr = { .attr_set = op->wide, .attr_clr = op->wide2 };
  unsigned flags = AT_SYMLINK_NOFOLLOW | (op->flags & WY_RECURSIVE_ATTRIBUTES ? (unsigned) AT_RECURSIVE : 0u);
  long result = wy_sys (SYS_mount_setattr, AT_FDCWD, wy_text (stage, op->text[0]), flags, &attr, sizeof attr);
  return result < 0 ? wy_fail (stage, "mount_setattr", result) : 0;
}

int
wy_do_chroot (struct wy_stage *stage, const struct wy_op *op)
{
  (void) op;
  long result = wy_sys (SYS_chroot, ".");
  return result < 0 ? wy_fail (stage, "chroot", result) : 0;
}

/* pivot_root(".", ".") stacks the old root on the new one, so the image needs no scratch directory
 * (pivot_root(2), NOTES). */
int
wy_do_pivot (struct wy_stage *stage, const struct wy_op *op)
{
  wy_cleanup_close int old_root = (int) wy_sys (SYS_open, "/", O_DIRECTORY | O_PATH | O_CLOEXEC);
  if (old_root < 0)
    return wy_fail (stage, "open", old_root);
  long result = wy_sys (SYS_chdir, wy_text (stage, op->text[0]));
  if (result < 0)
    return wy_fail (stage, "chdir", result);
  result = wy_sys (SYS_pivot_root, ".", ".");
  if (result < 0)
    return wy_fail (stage, "pivot_root", result);
  result = wy_sys (SYS_fchdir, old_root);
  if (result < 0)
    return wy_fail (stage, "fchdir", result);
  /* Without this the detach below would travel back to the host. */
  result = wy_sys (SYS_mount, NULL, ".", NULL, MS_REC | MS_PRIVATE, NULL);
  if (result < 0)
    return wy_fail (stage, "mount", result);
  result = wy_sys (SYS_umount2, ".", MNT_DETACH);
  if (result < 0)
    return wy_fail (stage, "umount2", result);
  result = wy_sys (SYS_chdir, "/");
  return result < 0 ? wy_fail (stage, "chdir", result) : 0;
}
