/* list: lists what is at a path of a stage, to choose from it or to detect changes.
 *
 * For each PATH, whose last link is followed: a line "= ok" or "= missing", then one record per entry, in the
 * order of names:
 *   TYPE MODE UID GID SIZE NAME_BYTES LINK_BYTES XATTR_BYTES\n
 *   followed by name, link target, attributes and, for "contents", SIZE bytes of the file.
 * TYPE is f, d, l or p; names are relative to PATH, whose own name is empty. Devices and sockets are omitted,
 * because wherry-layer does not copy them. */

#include "layer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool with_contents;

static void
put_record (char type, const struct stat *st, const char *name, const char *link,
            const struct wy_xattrs *xattrs)
{
  size_t name_size = strlen (name), link_size = strlen (link);
  if (printf ("%c %o %u %u %llu %zu %zu %zu\n", type, (unsigned)(st->st_mode & 07777), st->st_uid, st->st_gid,
              (unsigned long long)(type == 'f' ? st->st_size : 0), name_size, link_size, xattrs->size)
      < 0)
    wy_fail ("write", "");
  wy_put (name, name_size);
  wy_put (link, link_size);
  wy_put (xattrs->bytes, xattrs->size);
}

static void list_entry (int parent, const char *last, const char *name, unsigned depth);

static void
list_open (int fd, const struct stat *st, const char *name, unsigned depth)
{
  struct wy_xattrs xattrs = wy_xattrs_read (fd, name);
  put_record (S_ISDIR (st->st_mode) ? 'd' : 'f', st, name, "", &xattrs);
  free (xattrs.bytes);
  if (!S_ISDIR (st->st_mode))
    {
      if (with_contents)
        wy_put_file (fd, (uint64_t)st->st_size, name);
      return;
    }
  if (depth > WY_DEPTH_MAX)
    wy_refuse (name, "is nested deeper than a layer may be (256)");
  struct wy_names names = wy_names_read (fd, name);
  for (size_t i = 0; i < names.count; i++)
    {
      char path[WY_PATH_BYTES_MAX];
      wy_path_join (path, name, names.items[i]);
      list_entry (fd, names.items[i], path, depth + 1);
    }
  wy_names_free (&names);
}

static void
list_entry (int parent, const char *last, const char *name, unsigned depth)
{
  struct stat st;
  char target[WY_PATH_BYTES_MAX];
  const struct wy_xattrs none = { 0 };
  if (fstatat (parent, last, &st, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("stat", name);
  if (!S_ISREG (st.st_mode) && !S_ISDIR (st.st_mode) && !S_ISLNK (st.st_mode) && !S_ISFIFO (st.st_mode))
    return;
  wy_count_entry (name);
  if (S_ISLNK (st.st_mode))
    {
      ssize_t len = readlinkat (parent, last, target, sizeof target - 1);
      if (len < 0)
        wy_fail ("readlink", name);
      target[len] = '\0';
      put_record ('l', &st, name, target, &none);
      return;
    }
  if (S_ISFIFO (st.st_mode))
    {
      put_record ('p', &st, name, "", &none);
      return;
    }
  int fd = openat (parent, last, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", name);
  list_open (fd, &st, name, depth);
  close (fd);
}

static void
list_path (int root, const char *path)
{
  struct stat st;
  int fd = wy_open_in (root, path, O_PATH, RESOLVE_IN_ROOT);
  bool missing = fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EXDEV);
  if (fd < 0 && !missing)
    wy_fail ("openat2", path);
  if (puts (missing ? "= missing" : "= ok") < 0)
    wy_fail ("write", "");
  if (missing)
    return;
  if (fstat (fd, &st) < 0)
    wy_fail ("stat", path);
  close (fd);
  if (!S_ISREG (st.st_mode) && !S_ISDIR (st.st_mode))
    wy_refuse (path, "is neither a file nor a directory");
  fd = wy_open_in (root, path, O_RDONLY | O_NONBLOCK, RESOLVE_IN_ROOT);
  if (fd < 0)
    wy_fail ("openat2", path);
  wy_count_entry (path);
  list_open (fd, &st, "", 1);
  close (fd);
}

/* ARGV: "names" or "contents", DRAFT (a folder with "empty" and "source"), number of LAYERs, LAYERs,
 * PATHs. */
void
wy_list (int argc, char **argv)
{
  char empty[WY_PATH_BYTES_MAX], source[WY_PATH_BYTES_MAX];
  with_contents = strcmp (argv[0], "contents") == 0;
  unsigned count = (unsigned)strtoul (argv[2], NULL, 10);
  if (count > WY_LAYERS_MAX || (int)count > argc - 3)
    wy_refuse (argv[2], "is not the number of layers");
  wy_path_join (empty, argv[1], "empty");
  wy_path_join (source, argv[1], "source");
  wy_private_mounts ();
  wy_mount_overlay (source, empty, argv + 3, count, NULL, NULL);
  wy_enter (source);
  int root = open ("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    wy_fail ("open", "/");
  for (int i = 3 + (int)count; i < argc; i++)
    list_path (root, argv[i]);
  close (root);
}
