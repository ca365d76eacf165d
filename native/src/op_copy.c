/* op_copy.c - copies what an image has at the target of a tmpfs into the tmpfs ("tmpcopyup").
 *
 * Runs in wherry-init only, after the pivot. Every name is looked up below a descriptor of the directory that
 * was just listed; links are copied, never followed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stage.h"
#include "sys.h"

/* Configuration trees are not deeper than this. */
#define DEPTH_MAX 64

static int copy_tree (int from, int to, unsigned depth);

static int
copy_content (int from, int to, off_t size)
{
  for (off_t at = 0; at < size;)
    {
      ssize_t sent = sendfile (to, from, &at, (size_t)(size - at));
      if (sent < 0)
        return -errno;
      if (sent == 0)
        break; /* it was truncated meanwhile */
    }
  return 0;
}

static int
copy_file (int from_dir, int to_dir, const char *name, const struct stat *st)
{
  wy_cleanup_close int from = openat (from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (from < 0)
    return -errno;
  wy_cleanup_close int to = openat (to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (to < 0)
    return -errno;
  int result = copy_content (from, to, st->st_size);
  if (result == 0 && (fchown (to, st->st_uid, st->st_gid) < 0 || fchmod (to, st->st_mode & 07777) < 0))
    result = -errno;
  return result;
}

static int
copy_directory (int from_dir, int to_dir, const char *name, const struct stat *st, unsigned depth)
{
  if (mkdirat (to_dir, name, 0700) < 0)
    return -errno;
  wy_cleanup_close int from = openat (from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  wy_cleanup_close int to = openat (to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (from < 0 || to < 0)
    return -errno;
  int result = copy_tree (from, to, depth + 1);
  if (result == 0 && (fchown (to, st->st_uid, st->st_gid) < 0 || fchmod (to, st->st_mode & 07777) < 0))
    result = -errno;
  return result;
}

static int
copy_link (int from_dir, int to_dir, const char *name, const struct stat *st)
{
  char target[PATH_MAX];
  ssize_t length = readlinkat (from_dir, name, target, sizeof target - 1);
  if (length < 0)
    return -errno;
  target[length] = '\0';
  if (symlinkat (target, to_dir, name) < 0
      || fchownat (to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
    return -errno;
  return 0;
}

static int
copy_entry (int from, int to, const char *name, unsigned depth)
{
  struct stat st;
  if (fstatat (from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return -errno;
  if (S_ISDIR (st.st_mode))
    return copy_directory (from, to, name, &st, depth);
  if (S_ISREG (st.st_mode))
    return copy_file (from, to, name, &st);
  if (S_ISLNK (st.st_mode))
    return copy_link (from, to, name, &st);
  return 0; /* sockets, pipes and devices are not copied */
}

static int
copy_tree (int from, int to, unsigned depth)
{
  int result = 0;
  if (depth > DEPTH_MAX)
    return -ELOOP;
  DIR *listing = fdopendir (dup (from));
  if (listing == NULL)
    return -errno;
  for (struct dirent *entry; result == 0 && (entry = readdir (listing)) != NULL;)
    if (strcmp (entry->d_name, ".") != 0 && strcmp (entry->d_name, "..") != 0)
      result = copy_entry (from, to, entry->d_name, depth);
  closedir (listing);
  return result;
}

int
wy_do_copy_up (struct wy_stage *stage, const struct wy_op *op)
{
  wy_cleanup_close int from = (int)wy_open_in_root (AT_FDCWD, wy_text (stage, op->text[0]),
                                                    O_RDONLY | O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS);
  if (from == -ENOENT)
    return 0;
  if (from < 0)
    return wy_fail (stage, "openat2", from);
  struct stat st;
  wy_cleanup_close int to = openat (stage->fds[op->handle], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int result = to < 0 || fstat (from, &st) < 0 ? -errno : copy_tree (from, to, 0);
  if (result == 0 && op->num != 0
      && (fchown (to, st.st_uid, st.st_gid) < 0 || fchmod (to, st.st_mode & 07777) < 0))
    result = -errno;
  return result < 0 ? wy_fail (stage, "copy", result) : 0;
}
