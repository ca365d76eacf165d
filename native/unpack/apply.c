/* Creates one file in the layer for each entry of the archive.
 *
 * Order matters: chown(2) clears set-user-ID bits and file capabilities, so owner first, then mode, then
 * attributes; times last because all of these change them. Symlinks and fifos have no attributes (the kernel
 * allows none of those we keep). Device nodes are omitted: the runtime creates /dev in a container, and a
 * node in a layer only helps to break out. */

#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* linux/limits.h PATH_MAX with its NUL: the longest target that symlink(2) takes. */
#define TARGET_BYTES_MAX 4095u

static void
set_metadata (struct wy_unpack *u, int fd)
{
  const struct wy_entry *e = &u->entry;
  const struct timespec times[2] = { e->mtime, e->mtime };
  if (fchown (fd, e->uid, e->gid) < 0)
    wy_fail ("fchown", e->name);
  if (fchmod (fd, e->mode) < 0)
    wy_fail ("fchmod", e->name);
  if (wy_pax_set_xattrs (e, fd))
    u->default_acls = true;
  if (futimens (fd, times) < 0)
    wy_fail ("futimens", e->name);
}

static void
set_link_metadata (const struct wy_entry *e, int parent, const char *last)
{
  const struct timespec times[2] = { e->mtime, e->mtime };
  if (fchownat (parent, last, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("fchownat", e->name);
  if (utimensat (parent, last, times, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("utimensat", e->name);
}

static void
write_all (const struct wy_entry *e, int fd, const unsigned char *bytes, size_t len)
{
  while (len > 0)
    {
      ssize_t put = write (fd, bytes, len);
      if (put < 0 && errno == EINTR)
        continue;
      if (put < 0)
        wy_fail ("write", e->name);
      bytes += put;
      len -= (size_t)put;
    }
}

static void
put_file (struct wy_unpack *u, int parent, const char *last)
{
  const struct wy_entry *e = &u->entry;
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  if (e->size > u->limits.file_bytes)
    wy_refuse (WY_LIMIT, e->name, "is larger than a file may be");
  int fd = openat (parent, last, flags, 0600);
  if (fd < 0 && errno == EEXIST)
    {
      wy_remove (u, parent, last);
      fd = openat (parent, last, flags, 0600);
    }
  if (fd < 0)
    wy_fail ("openat", e->name);
  const unsigned char *piece;
  for (size_t len; (len = wy_tar_data (u, &piece)) > 0;)
    write_all (e, fd, piece, len);
  wy_forget_inherited (u, fd);
  set_metadata (u, fd);
  if (close (fd) < 0)
    wy_fail ("close", e->name);
}

static void
put_directory (struct wy_unpack *u, int parent, const char *last)
{
  wy_dir_make (u, parent, last, true);
  int fd = openat (parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", u->entry.name);
  set_metadata (u, fd);
  close (fd);
  wy_times_note (u, u->entry.name, u->entry.mtime);
}

static void
put_symlink (struct wy_unpack *u, int parent, const char *last)
{
  const struct wy_entry *e = &u->entry;
  if (e->link[0] == '\0' || strlen (e->link) > TARGET_BYTES_MAX)
    wy_refuse (WY_INVALID, e->name, "is a symbolic link without a target or with one that is too long");
  int result = symlinkat (e->link, parent, last);
  if (result < 0 && errno == EEXIST)
    {
      wy_remove (u, parent, last);
      result = symlinkat (e->link, parent, last);
    }
  if (result < 0)
    wy_fail ("symlinkat", e->name);
  set_link_metadata (e, parent, last);
}

/* The target is resolved as strictly as the name. It may be a symlink: linkat(2) does not follow it, and no
 * metadata is set through it afterwards, as in CVE-2021-32760; owner and mode are the target's. */
static void
put_hard_link (struct wy_unpack *u, int parent, const char *last)
{
  struct wy_entry *e = &u->entry;
  struct stat target, existing;
  const char *target_last;
  if (wy_name_clean (e->link, &u->limits) == 0)
    wy_refuse (WY_UNSAFE, e->name, "is a hard link to the root");
  int target_parent = wy_place_existing (u, e->link, &target_last);
  if (fstatat (target_parent, target_last, &target, AT_SYMLINK_NOFOLLOW) < 0)
    wy_refuse (WY_INVALID, e->name, "links to something that is not in the layer before it");
  if (!S_ISREG (target.st_mode) && !S_ISLNK (target.st_mode) && !S_ISFIFO (target.st_mode))
    wy_refuse (WY_UNSAFE, e->name, "is a hard link to something other than a file");
  if (fstatat (parent, last, &existing, AT_SYMLINK_NOFOLLOW) == 0)
    {
      if (existing.st_ino == target.st_ino && existing.st_dev == target.st_dev)
        {
          close (target_parent);
          return;
        }
      wy_remove (u, parent, last);
    }
  if (linkat (target_parent, target_last, parent, last, 0) < 0)
    {
      if (errno == EMLINK || errno == ENOENT)
        wy_refuse (WY_INVALID, e->name, "is a hard link that cannot be made");
      wy_fail ("linkat", e->name);
    }
  close (target_parent);
}

static void
put_fifo (struct wy_unpack *u, int parent, const char *last)
{
  const struct wy_entry *e = &u->entry;
  int result = mknodat (parent, last, S_IFIFO | (e->mode & 0777), 0);
  if (result < 0 && errno == EEXIST)
    {
      wy_remove (u, parent, last);
      result = mknodat (parent, last, S_IFIFO | (e->mode & 0777), 0);
    }
  if (result < 0)
    wy_fail ("mknod", e->name);
  set_link_metadata (e, parent, last);
}

static void
put_root (struct wy_unpack *u)
{
  if (u->entry.type != '5')
    wy_refuse (WY_UNSAFE, u->entry.name, "would replace the root of the layer");
  set_metadata (u, u->root);
  wy_times_note (u, "", u->entry.mtime);
}

/* Create U's current entry in the layer. */
void
wy_apply (struct wy_unpack *u)
{
  struct wy_entry *e = &u->entry;
  const char *last;
  if (wy_name_clean (e->name, &u->limits) == 0)
    {
      put_root (u);
      return;
    }
  if (wy_whiteout_below_special (e->name))
    return;
  if (e->type == '3' || e->type == '4')
    {
      u->dropped++;
      return;
    }
  int parent = wy_place (u, e->name, &last);
  if (wy_whiteout_apply (u, parent, last))
    return;
  switch (e->type)
    {
    case '0':
      put_file (u, parent, last);
      break;
    case '1':
      put_hard_link (u, parent, last);
      break;
    case '2':
      put_symlink (u, parent, last);
      break;
    case '5':
      put_directory (u, parent, last);
      break;
    default:
      put_fifo (u, parent, last);
    }
}
