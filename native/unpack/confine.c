/* Confines this process to the one directory before it reads the first byte of the archive.
 *
 * openat2 already keeps every name inside; this is a second line of defence against unknown bugs: a mount
 * namespace whose only mount is the directory (pivot_root, then the old tree is detached, so that no mount of
 * the machine stays pinned while a large layer unpacks), five capabilities, and no way to gain more. */

#include "unpack.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void
close_inherited (void)
{
  if (syscall (SYS_close_range, 3u, ~0u, 0u) < 0)
    wy_fail ("close_range", "");
}

static void
move_into (const char *dir)
{
  if (unshare (CLONE_NEWNS) < 0)
    wy_fail ("unshare", dir);
  if (mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
    wy_fail ("mount", "/");
  wy_pivot_into (dir);
}

/* Make DIR "/" and drop everything else. */
void
wy_confine (const char *dir)
{
  const struct rlimit none = { 0, 0 };
  close_inherited ();
  umask (0);
  if (setrlimit (RLIMIT_CORE, &none) < 0)
    wy_fail ("setrlimit", "");
  if (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    wy_fail ("prctl", "");
  move_into (dir);
  wy_drop_capabilities (WY_FILE_CAPABILITIES);
}
