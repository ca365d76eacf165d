/* pack: writes what a step changed as the tar of a layer (OCI image-spec, layer.md), and turns the folder
 * into that layer.
 *
 * overlayfs has its own marks: a character device 0:0 hides a name, user.overlay.opaque hides the contents of
 * a directory. They become the archive's markers, ".wh.NAME" and ".wh..wh..opq", where a lower LAYER has
 * something to hide; others (overlayfs marks every new directory) are dropped from both archive and folder.
 * So are its other marks, and sockets, which an archive cannot hold. With CLAMP, later times become CLAMP in
 * both. Afterwards the folder is exactly what wherry-unpack would create from the archive, and needs no
 * unpacking. */

#include "layer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct pack
{
  int layers[WY_LAYERS_MAX];
  unsigned layer_count;
  bool clamps;
  time_t clamp;
  struct wy_links links;
};

/* Does a lower layer have anything (a directory, when DIRECTORY) at PATH? */
static bool
is_below (const struct pack *p, const char *path, bool directory)
{
  for (unsigned i = 0; i < p->layer_count; i++)
    {
      int flags = O_PATH | O_NOFOLLOW | (directory ? O_DIRECTORY : 0);
      int fd = wy_open_in (p->layers[i], path, flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
      if (fd >= 0)
        {
          close (fd);
          return true;
        }
    }
  return false;
}

/* Clamp ST's time, and with it that of the file NAME in PARENT. */
static void
settle_time (const struct pack *p, int parent, const char *name, struct stat *st)
{
  if (!p->clamps || st->st_mtim.tv_sec < p->clamp
      || (st->st_mtim.tv_sec == p->clamp && st->st_mtim.tv_nsec == 0))
    return;
  st->st_mtim = (struct timespec){ .tv_sec = p->clamp };
  const struct timespec times[2] = { st->st_mtim, st->st_mtim };
  if (utimensat (parent, name, times, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("utimensat", name);
}

static void
put_marker (const char *directory, const char *name)
{
  char path[WY_PATH_BYTES_MAX];
  wy_path_join (path, directory, name);
  wy_count_entry (path);
  wy_tar_entry (&(struct wy_tar_entry){ .name = path, .link = "", .type = '0' });
}

static void
pack_whiteout (const struct pack *p, int parent, const char *directory, const char *name, const char *path)
{
  char marker[WY_PATH_BYTES_MAX];
  if (!is_below (p, path, false))
    {
      if (unlinkat (parent, name, 0) < 0)
        wy_fail ("unlink", path);
      return;
    }
  snprintf (marker, sizeof marker, ".wh.%s", name);
  put_marker (directory, marker);
}

static void
pack_file (struct pack *p, int parent, const char *name, const char *path, struct stat *st)
{
  struct wy_tar_entry entry = { .name = path, .link = "", .type = '0' };
  int fd = openat (parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", path);
  settle_time (p, parent, name, st);
  const char *first = wy_links_find (&p->links, st, path);
  if (first != NULL)
    {
      entry.type = '1';
      entry.link = first;
    }
  else
    entry.xattrs = wy_xattrs_read (fd, path);
  entry.st = *st;
  wy_tar_entry (&entry);
  if (first == NULL)
    {
      wy_tar_contents (fd, (uint64_t)st->st_size, path);
      wy_xattrs_settle (fd, false, path);
    }
  free (entry.xattrs.bytes);
  close (fd);
}

static void
pack_symlink (const struct pack *p, int parent, const char *name, const char *path, struct stat *st)
{
  char target[WY_PATH_BYTES_MAX];
  ssize_t len = readlinkat (parent, name, target, sizeof target - 1);
  if (len < 0)
    wy_fail ("readlink", path);
  target[len] = '\0';
  settle_time (p, parent, name, st);
  wy_tar_entry (&(struct wy_tar_entry){ .name = path, .link = target, .type = '2', .st = *st });
}

static void pack_contents (struct pack *p, int dir, const char *path, unsigned depth);

static void
pack_directory (struct pack *p, int parent, const char *name, const char *path, struct stat *st,
                unsigned depth)
{
  char shown[WY_PATH_BYTES_MAX + 1];
  int fd = openat (parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("openat", path);
  struct stat own = *st;
  if (p->clamps && own.st_mtim.tv_sec >= p->clamp)
    own.st_mtim = (struct timespec){ .tv_sec = p->clamp };
  snprintf (shown, sizeof shown, "%s/", path);
  struct wy_tar_entry entry
      = { .name = shown, .link = "", .type = '5', .st = own, .xattrs = wy_xattrs_read (fd, path) };
  wy_tar_entry (&entry);
  free (entry.xattrs.bytes);
  bool opaque = wy_is_opaque (fd) && is_below (p, path, true);
  wy_xattrs_settle (fd, opaque, path);
  if (opaque)
    put_marker (path, ".wh..wh..opq");
  pack_contents (p, fd, path, depth + 1);
  close (fd);
  /* Removing entries from it has changed its time. */
  const struct timespec times[2] = { own.st_mtim, own.st_mtim };
  if (utimensat (parent, name, times, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("utimensat", path);
}

static void
pack_entry (struct pack *p, int parent, const char *directory, const char *name, unsigned depth)
{
  char path[WY_PATH_BYTES_MAX];
  struct stat st;
  wy_path_join (path, directory, name);
  if (fstatat (parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    wy_fail ("stat", path);
  if (S_ISCHR (st.st_mode) && st.st_rdev == makedev (0, 0))
    {
      pack_whiteout (p, parent, directory, name, path);
      return;
    }
  if (S_ISSOCK (st.st_mode))
    {
      if (unlinkat (parent, name, 0) < 0)
        wy_fail ("unlink", path);
      return;
    }
  if (strncmp (name, ".wh.", 4) == 0)
    wy_refuse (path, "has a name that layers use for \"deleted\" (.wh.…) and cannot be kept");
  wy_count_entry (path);
  if (S_ISREG (st.st_mode))
    pack_file (p, parent, name, path, &st);
  else if (S_ISLNK (st.st_mode))
    pack_symlink (p, parent, name, path, &st);
  else if (S_ISDIR (st.st_mode))
    pack_directory (p, parent, name, path, &st, depth);
  else if (S_ISFIFO (st.st_mode))
    {
      settle_time (p, parent, name, &st);
      wy_tar_entry (&(struct wy_tar_entry){ .name = path, .link = "", .type = '6', .st = st });
    }
  else
    wy_refuse (path, "is a device; layers have none");
}

static void
pack_contents (struct pack *p, int dir, const char *path, unsigned depth)
{
  if (depth > WY_DEPTH_MAX)
    wy_refuse (path, "is nested deeper than a layer may be (256)");
  struct wy_names names = wy_names_read (dir, path);
  for (size_t i = 0; i < names.count; i++)
    pack_entry (p, dir, path, names.items[i], depth);
  wy_names_free (&names);
}

/* A root with the owner and mode that wherry-unpack gives it by default (root, 755) needs no entry; its time
 * does not matter. */
static void
pack_root (const struct pack *p, int root)
{
  struct stat st;
  if (fstat (root, &st) < 0)
    wy_fail ("stat", "/");
  wy_xattrs_settle (root, false, "/");
  if ((st.st_mode & 07777) == 0755 && st.st_uid == 0 && st.st_gid == 0)
    return;
  st.st_mtim = (struct timespec){ .tv_sec = p->clamps ? p->clamp : 0 };
  wy_count_entry ("./");
  wy_tar_entry (&(struct wy_tar_entry){ .name = "./", .link = "", .type = '5', .st = st });
}

/* ARGV: UPPER, CLAMP (seconds since 1970, or "-"), LAYER… (any order). */
void
wy_pack (int argc, char **argv)
{
  struct pack p = { 0 };
  if (strcmp (argv[1], "-") != 0)
    {
      char *end;
      p.clamps = true;
      p.clamp = (time_t)strtoll (argv[1], &end, 10);
      if (*end != '\0' || end == argv[1])
        wy_refuse (argv[1], "is not a time in seconds");
    }
  if (argc - 2 > (int)WY_LAYERS_MAX)
    wy_refuse ("", "is a stage with more than 128 layers");
  for (int i = 2; i < argc; i++)
    p.layers[p.layer_count++] = wy_open_dir (argv[i]);
  wy_private_mounts ();
  wy_enter (argv[0]);
  int root = open ("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    wy_fail ("open", "/");
  pack_root (&p, root);
  pack_contents (&p, root, "", 1);
  wy_tar_end ();
  if (fflush (stdout) != 0)
    wy_fail ("write", "");
  /* The parent renames the folder next; its contents must reach the disk before its new name does. */
  if (syncfs (root) < 0)
    wy_fail ("syncfs", "/");
}
