/* op_mount.c - operations on mounts.
 *
 * The rule that confines a hostile image: before the pivot no path is resolved through the image. Whatever
 * comes from the host is opened in the caller as a detached tree (open_tree(2)) and attached after the pivot,
 * when every path the kernel resolves begins and ends inside the container's root. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <sys/mount.h>

#include "stage.h"
#include "sys.h"

/* Since 5.12 <sys/mount.h> of glibc 2.36 and <linux/mount.h> define the same constants; only what both lack
 * on older machines is defined here. */
#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif

int
wy_prepare_fd (struct wy_stage *stage, const struct wy_op *op)
{
  stage->fds[op->handle] = (int)op->num;
  stage->owned[op->handle] = false;
  return 0;
}

static long
set_attributes (int fd, uint64_t attributes, uint64_t cleared, uint32_t flags, int idmap_fd)
{
  struct mount_attr attr = { .attr_set = attributes, .attr_clr = cleared };
  if (flags & WY_IDMAP)
    {
      attr.attr_set |= MOUNT_ATTR_IDMAP;
      attr.userns_fd = (uint64_t)idmap_fd;
    }
  if (attr.attr_set == 0 && attr.attr_clr == 0)
    return 0;
  unsigned at = AT_EMPTY_PATH | (flags & WY_RECURSIVE_ATTRIBUTES ? (unsigned)AT_RECURSIVE : 0u);
  return wy_sys (SYS_mount_setattr, fd, "", at, &attr, sizeof attr);
}

/* PROPAGATION as in mount(2): MS_SHARED and the like, with MS_REC also for the mounts below. */
static long
set_propagation (int fd, uint64_t propagation)
{
  struct mount_attr attr = { .propagation = propagation & ~(uint64_t)MS_REC };
  if (propagation == 0)
    return 0;
  return wy_sys (SYS_mount_setattr, fd, "",
                 AT_EMPTY_PATH | (propagation & MS_REC ? (unsigned)AT_RECURSIVE : 0u), &attr, sizeof attr);
}

/* Map ids through the tree's own user namespace; separate from the other attributes, which may apply to fewer
 * mounts. */
static long
map_ids (const struct wy_stage *stage, const struct wy_op *op, int fd)
{
  if (!(op->flags & WY_IDMAP_HANDLE))
    return 0;
  uint32_t below = op->flags & WY_RECURSIVE ? (uint32_t)WY_RECURSIVE_ATTRIBUTES : 0;
  return set_attributes (fd, 0, 0, WY_IDMAP | below, stage->fds[op->from]);
}

int
wy_prepare_tree (struct wy_stage *stage, const struct wy_op *op)
{
  unsigned flags
      = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (op->flags & WY_RECURSIVE ? (unsigned)AT_RECURSIVE : 0u);
  long fd = wy_sys (SYS_open_tree, AT_FDCWD, wy_text (stage, op->text[0]), flags);
  if (fd < 0)
    return wy_fail (stage, "open_tree", fd);
  stage->fds[op->handle] = (int)fd;
  stage->owned[op->handle] = true;
  long result = set_attributes ((int)fd, op->wide, op->wide2, op->flags, stage->plan->idmap_fd);
  if (result >= 0)
    result = map_ids (stage, op, (int)fd);
  if (result >= 0)
    result = set_propagation ((int)fd, op->num);
  return result < 0 ? wy_fail (stage, "mount_setattr", result) : 0;
}

int
wy_do_setattr (struct wy_stage *stage, const struct wy_op *op)
{
  long result
      = set_attributes (stage->fds[op->handle], op->wide, op->wide2, op->flags, stage->plan->idmap_fd);
  if (result >= 0)
    result = set_propagation (stage->fds[op->handle], op->num);
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
  /* fsconfig takes key and value separately, and the text area is read-only. */
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
  wy_cleanup_close int context = (int)wy_sys (SYS_fsopen, wy_text (stage, op->text[0]), FSOPEN_CLOEXEC);
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
  stage->fds[op->handle] = (int)fd;
  return 0;
}

int
wy_do_mkdir (struct wy_stage *stage, const struct wy_op *op)
{
  int dir = stage->fds[op->handle];
  const char *name = wy_text (stage, op->text[0]);
  long result = wy_sys (SYS_mkdirat, dir, name, op->num);
  if (result < 0)
    return wy_fail (stage, "mkdirat", result);
  /* A mode such as 1777 must not depend on the caller's umask. */
  result = wy_sys (SYS_fchmodat, dir, name, op->num);
  if (result < 0)
    return wy_fail (stage, "fchmodat", result);
  if (op->num2 == 0)
    return 0;
  result = wy_sys (SYS_fchownat, dir, name, op->num2, op->num2, AT_SYMLINK_NOFOLLOW);
  return result < 0 ? wy_fail (stage, "fchownat", result) : 0;
}

int
wy_do_fchdir (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_fchdir, stage->fds[op->handle]);
  return result < 0 ? wy_fail (stage, "fchdir", result) : 0;
}

int
wy_do_mount (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_mount, wy_text (stage, op->text[0]), wy_text (stage, op->text[1]),
                        wy_text (stage, op->text[2]), op->wide, wy_text (stage, op->text[3]));
  return result < 0 ? wy_fail (stage, "mount", result) : 0;
}

/* Make a detached clone of PATH below DIR. Return: its descriptor, or -errno with the call recorded. */
static int
clone_tree (struct wy_stage *stage, const struct wy_op *op, int dir, const char *path)
{
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
                   | (op->flags & WY_FOLLOW ? 0u : (unsigned)AT_SYMLINK_NOFOLLOW)
                   | (op->flags & WY_RECURSIVE ? (unsigned)AT_RECURSIVE : 0u);
  wy_cleanup_close int tree = (int)wy_sys (SYS_open_tree, dir, path, flags);
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

static int
subtree (struct wy_stage *stage, const struct wy_op *op)
{
  return clone_tree (stage, op, op->from == WY_HANDLE_NONE ? AT_FDCWD : stage->fds[op->from],
                     wy_text (stage, op->text[0]));
}

int
wy_do_subtree (struct wy_stage *stage, const struct wy_op *op)
{
  int tree = subtree (stage, op);
  if (tree < 0)
    return tree;
  stage->fds[op->handle] = tree;
  return 0;
}

/* Open the target of a link in the image first, without magic links, which could lead to our descriptors. */
static int
linked_subtree (struct wy_stage *stage, const struct wy_op *op)
{
  wy_cleanup_close int target
      = (int)wy_open_in_root (AT_FDCWD, wy_text (stage, op->text[0]), O_PATH, 0, RESOLVE_NO_MAGICLINKS);
  return target < 0 ? wy_fail (stage, "openat2", target) : clone_tree (stage, op, target, "");
}

int
wy_do_bind (struct wy_stage *stage, const struct wy_op *op)
{
  wy_cleanup_close int tree = op->flags & WY_FOLLOW ? linked_subtree (stage, op) : subtree (stage, op);
  if ((tree == -ENOENT || tree == -ENOTDIR) && op->flags & WY_OPTIONAL)
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
  unsigned flags = AT_SYMLINK_NOFOLLOW | (op->flags & WY_RECURSIVE_ATTRIBUTES ? (unsigned)AT_RECURSIVE : 0u);
  long result = wy_sys (SYS_mount_setattr, AT_FDCWD, wy_text (stage, op->text[0]), flags, &attr, sizeof attr);
  return result < 0 ? wy_fail (stage, "mount_setattr", result) : 0;
}

int
wy_do_chroot (struct wy_stage *stage, const struct wy_op *op)
{
  (void)op;
  long result = wy_sys (SYS_chroot, ".");
  return result < 0 ? wy_fail (stage, "chroot", result) : 0;
}

/* pivot_root(".", ".") stacks the old root on the new one, so the image needs no scratch directory
 * (pivot_root(2), NOTES). */
int
wy_do_pivot (struct wy_stage *stage, const struct wy_op *op)
{
  wy_cleanup_close int old_root = (int)wy_sys (SYS_open, "/", O_DIRECTORY | O_PATH | O_CLOEXEC);
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
  /* Without this the detach below would propagate to the host. */
  result = wy_sys (SYS_mount, NULL, ".", NULL, MS_REC | MS_PRIVATE, NULL);
  if (result < 0)
    return wy_fail (stage, "mount", result);
  result = wy_sys (SYS_umount2, ".", MNT_DETACH);
  if (result < 0)
    return wy_fail (stage, "umount2", result);
  result = wy_sys (SYS_chdir, "/");
  return result < 0 ? wy_fail (stage, "chdir", result) : 0;
}
