/* copy: copies files from a folder or a stage into a stage, one operation after the other from standard
 * input.
 *
 * operation.c describes an operation. Missing directories above TO are created with mode 755 and the
 * operation's owner. Links in the stage are followed inside the stage only. In a folder (the build context)
 * no link is followed, because it might lead out. */

#include "layer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Times of directories, set last because every new child changes them. */
struct later
{
  struct later *next;
  struct timespec mtime;
  char path[];
};

struct copy
{
  int root;
  int source;
  uint64_t resolve; /* of names in the source */
  struct wy_links links;
  struct later *later;
};

/* Open directory PATH of the stage, creating missing parts with owner UID and GID. The recursion is as deep
 * as PATH has parts. */
static int
open_or_make (const struct copy *c, const char *path, uid_t uid, gid_t gid, const char *shown)
{
  char above[WY_PATH_BYTES_MAX];
  int fd = wy_open_in (c->root, path, O_PATH | O_DIRECTORY, RESOLVE_IN_ROOT);
  if (fd >= 0)
    return fd;
  if (errno == ENOTDIR)
    wy_refuse (shown, "is, or is below, something in the image that is not a directory");
  if (errno == ELOOP)
    wy_refuse (shown, "passes through too many symbolic links");
  if (errno != ENOENT)
    wy_fail ("openat2", shown);
  const char *slash = strrchr (path, '/');
  const char *last = slash == NULL ? path : slash + 1;
  snprintf (above, sizeof above, "%.*s", slash == NULL ? 0 : (int)(slash - path), path);
  int parent = open_or_make (c, above, uid, gid, shown);
  if (mkdirat (parent, last, 0755) < 0)
    {
      if (errno == EEXIST)
        wy_refuse (shown, "leads through a symbolic link of the image whose target does not exist");
      wy_fail ("mkdir", shown);
    }
  wy_count_entry (shown);
  if (fchownat (parent, last, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("fchownat", shown);
  fd = openat (parent, last, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", shown);
  close (parent);
  return fd;
}

static void
note_time (struct copy *c, const char *path, struct timespec mtime)
{
  struct later *later = wy_alloc (sizeof *later + strlen (path) + 1);
  later->next = c->later;
  later->mtime = mtime;
  strcpy (later->path, path);
  c->later = later;
}

static void
set_times (struct copy *c)
{
  for (struct later *l = c->later; l != NULL; c->later = l)
    {
      const struct timespec times[2] = { l->mtime, l->mtime };
      int fd = wy_open_in (c->root, l->path, O_RDONLY | O_DIRECTORY, RESOLVE_IN_ROOT);
      if (fd < 0 || futimens (fd, times) < 0)
        wy_fail ("futimens", l->path);
      close (fd);
      struct later *next = l->next;
      free (l);
      l = next;
    }
}

static void
set_xattrs (int fd, int source, const char *shown)
{
  struct wy_xattrs xattrs = wy_xattrs_read (source, shown);
  const char *name, *value;
  size_t at = 0, size;
  while ((name = wy_xattrs_next (&xattrs, &at, &value, &size)) != NULL)
    if (fsetxattr (fd, name, value, size, 0) < 0)
      wy_fail ("fsetxattr", shown);
  free (xattrs.bytes);
}

/* chown(2) clears set-user-ID bits and file capabilities, so owner first, then mode, then attributes, then
 * times. */
static void
set_metadata (const struct wy_operation *o, int fd, int source, const struct stat *st)
{
  const struct timespec times[2] = { st->st_mtim, st->st_mtim };
  if (fchown (fd, wy_operation_id (o->uid, st->st_uid), wy_operation_id (o->gid, st->st_gid)) < 0)
    wy_fail ("fchown", o->to);
  if (fchmod (fd, wy_operation_mode (o->mode, st->st_mode)) < 0)
    wy_fail ("fchmod", o->to);
  if (wy_operation_has (o, 'x'))
    set_xattrs (fd, source, o->to);
  if (futimens (fd, times) < 0)
    wy_fail ("futimens", o->to);
}

static void
copy_bytes (int from, int to, const char *shown)
{
  static char buffer[256 * 1024];
  ssize_t got;
  while ((got = read (from, buffer, sizeof buffer)) != 0)
    {
      if (got < 0)
        wy_fail ("read", shown);
      for (ssize_t done = 0; done < got;)
        {
          ssize_t put = write (to, buffer + done, (size_t)(got - done));
          if (put < 0)
            wy_fail ("write", shown);
          done += put;
        }
    }
}

static void
copy_directory (struct copy *c, const struct wy_operation *o, int source, const struct stat *st)
{
  char above[WY_PATH_BYTES_MAX];
  int fd = wy_open_in (c->root, o->to, O_RDONLY | O_DIRECTORY, RESOLVE_IN_ROOT);
  if (fd < 0 && errno == ENOTDIR)
    wy_refuse (o->to, "is not a directory in the image, and a directory cannot be copied over it");
  if (fd < 0 && errno != ENOENT)
    wy_fail ("openat2", o->to);
  if (fd < 0)
    {
      const char *slash = strrchr (o->to, '/');
      const char *last = slash == NULL ? o->to : slash + 1;
      snprintf (above, sizeof above, "%.*s", slash == NULL ? 0 : (int)(slash - o->to), o->to);
      int parent = open_or_make (c, above, wy_operation_id (o->uid, 0), wy_operation_id (o->gid, 0), o->to);
      if (mkdirat (parent, last, 0700) < 0)
        wy_fail ("mkdir", o->to);
      fd = openat (parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (fd < 0)
        wy_fail ("openat", o->to);
      close (parent);
    }
  set_metadata (o, fd, source, st);
  close (fd);
  note_time (c, o->to, st->st_mtim);
}

/* Prepare for creating TO: open its directory and remove what exists at *LAST in it. */
static int
make_room (struct copy *c, const struct wy_operation *o, const char **last)
{
  char above[WY_PATH_BYTES_MAX];
  struct stat st;
  int parent
      = wy_operation_has (o, 'i') ? wy_open_in (c->root, o->to, O_PATH | O_DIRECTORY, RESOLVE_IN_ROOT) : -1;
  *last = o->base;
  if (parent < 0)
    {
      const char *slash = strrchr (o->to, '/');
      *last = slash == NULL ? o->to : slash + 1;
      snprintf (above, sizeof above, "%.*s", slash == NULL ? 0 : (int)(slash - o->to), o->to);
      parent = open_or_make (c, above, wy_operation_id (o->uid, 0), wy_operation_id (o->gid, 0), o->to);
    }
  if (**last == '\0' || strchr (*last, '/') != NULL || strcmp (*last, ".") == 0 || strcmp (*last, "..") == 0)
    wy_refuse (o->to, "is not the name of a file");
  if (fstatat (parent, *last, &st, AT_SYMLINK_NOFOLLOW) == 0)
    {
      if (S_ISDIR (st.st_mode))
        wy_refuse (o->to, "is a directory in the image, and a file cannot be copied over it");
      if (unlinkat (parent, *last, 0) < 0)
        wy_fail ("unlink", o->to);
    }
  return parent;
}

static void
copy_link (struct copy *c, const struct wy_operation *o, int source, const struct stat *st)
{
  char target[WY_PATH_BYTES_MAX];
  const char *last;
  const struct timespec times[2] = { st->st_mtim, st->st_mtim };
  int parent = make_room (c, o, &last);
  if (S_ISLNK (st->st_mode))
    {
      ssize_t len = readlinkat (source, "", target, sizeof target - 1);
      if (len < 0)
        wy_fail ("readlink", o->from);
      target[len] = '\0';
      if (symlinkat (target, parent, last) < 0)
        wy_fail ("symlink", o->to);
    }
  else if (mknodat (parent, last, S_IFIFO | (st->st_mode & 0777), 0) < 0)
    wy_fail ("mknod", o->to);
  if (fchownat (parent, last, wy_operation_id (o->uid, st->st_uid), wy_operation_id (o->gid, st->st_gid),
                AT_SYMLINK_NOFOLLOW)
      < 0)
    wy_fail ("fchownat", o->to);
  if (utimensat (parent, last, times, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("utimensat", o->to);
  close (parent);
}

/* Return: false if the first copy of this file no longer exists. */
static bool
link_again (const struct copy *c, const char *first, int parent, const char *last)
{
  char above[WY_PATH_BYTES_MAX];
  const char *slash = strrchr (first, '/');
  snprintf (above, sizeof above, "%.*s", slash == NULL ? 0 : (int)(slash - first), first);
  int dir = wy_open_in (c->root, above, O_PATH | O_DIRECTORY, RESOLVE_IN_ROOT);
  if (dir < 0)
    return false;
  bool linked = linkat (dir, slash == NULL ? first : slash + 1, parent, last, 0) == 0;
  close (dir);
  return linked;
}

static void
copy_file (struct copy *c, const struct wy_operation *o, int source, const struct stat *st)
{
  const char *last;
  int parent = make_room (c, o, &last);
  const char *first = wy_operation_has (o, 'i') ? NULL : wy_links_find (&c->links, st, o->to);
  if (first == NULL || !link_again (c, first, parent, last))
    {
      int fd = openat (parent, last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
      if (fd < 0)
        wy_fail ("openat", o->to);
      copy_bytes (source, fd, o->to);
      set_metadata (o, fd, source, st);
      if (close (fd) < 0)
        wy_fail ("close", o->to);
    }
  close (parent);
}

static void
copy_one (struct copy *c, const struct wy_operation *o)
{
  struct stat st;
  int fd = wy_open_in (c->source, o->from, O_PATH | O_NOFOLLOW, c->resolve);
  if (fd < 0 && (errno == ELOOP || errno == EXDEV))
    wy_refuse (o->from, "leads out of the folder that it is copied from");
  if (fd < 0)
    wy_fail ("openat2", o->from);
  if (fstat (fd, &st) < 0)
    wy_fail ("stat", o->from);
  wy_count_entry (o->to);
  if (S_ISLNK (st.st_mode) || S_ISFIFO (st.st_mode))
    copy_link (c, o, fd, &st);
  else if (S_ISREG (st.st_mode) || S_ISDIR (st.st_mode))
    {
      /* The O_PATH descriptor serves for stat only; reading needs another, and opening a fifo would block. */
      int source = wy_open_in (c->source, o->from, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, c->resolve);
      if (source < 0)
        wy_fail ("openat2", o->from);
      if (S_ISREG (st.st_mode))
        copy_file (c, o, source, &st);
      else
        copy_directory (c, o, source, &st);
      close (source);
    }
  else
    wy_refuse (o->from, "is a device or a socket; these are not copied");
  close (fd);
}

static unsigned
take_count (int argc, char **argv, int *at)
{
  unsigned count = *at < argc ? (unsigned)strtoul (argv[*at], NULL, 10) : WY_LAYERS_MAX + 1;
  if (count > WY_LAYERS_MAX || (int)count > argc - *at - 1)
    wy_refuse ("", "is not the number of layers");
  *at += 1;
  return count;
}

/* ARGV: DRAFT (a folder with "upper", "work", "empty", "root", "source"), count and LAYERs of the target
 * stage, count and LAYERs of the source, or 0 and the folder DIR. */
void
wy_copy (int argc, char **argv)
{
  char empty[WY_PATH_BYTES_MAX], at_root[WY_PATH_BYTES_MAX], at_source[WY_PATH_BYTES_MAX],
      upper[WY_PATH_BYTES_MAX], work[WY_PATH_BYTES_MAX];
  struct copy c = { .root = -1, .source = -1 };
  struct wy_operation o;
  int at = 1;
  wy_path_join (empty, argv[0], "empty");
  wy_path_join (at_root, argv[0], "root");
  wy_path_join (at_source, argv[0], "source");
  wy_path_join (upper, argv[0], "upper");
  wy_path_join (work, argv[0], "work");
  wy_private_mounts ();
  unsigned count = take_count (argc, argv, &at);
  wy_mount_overlay (at_root, empty, argv + at, count, upper, work);
  at += (int)count;
  count = take_count (argc, argv, &at);
  c.resolve = count > 0 ? RESOLVE_IN_ROOT : RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  if (count > 0)
    wy_mount_overlay (at_source, empty, argv + at, count, NULL, NULL);
  c.source = open (count > 0 ? at_source : at < argc ? argv[at] : empty, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (c.source < 0)
    wy_fail ("open", at < argc ? argv[at] : empty);
  wy_enter (at_root);
  c.root = open ("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (c.root < 0)
    wy_fail ("open", "/");
  while (wy_operation_read (&o))
    {
      if (strcmp (o.what, "d") == 0)
        close (open_or_make (&c, o.to, wy_operation_id (o.uid, 0), wy_operation_id (o.gid, 0), o.to));
      else if (strcmp (o.what, "c") == 0)
        copy_one (&c, &o);
      else
        wy_refuse (o.what, "is not an operation");
    }
  set_times (&c);
}
