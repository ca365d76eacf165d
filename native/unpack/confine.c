/* Before the first byte of the archive is read, this process can reach nothing but the one directory.
 *
 * openat2 already keeps every name inside; this is the second wall, for the bug that we do not know.
 * A mount namespace of its own whose only mount is the directory (pivot_root, then the old tree is let
 * go, so that no mount of the machine stays pinned while a large layer unpacks), five capabilities,
 * no way to get more.
 */

#include "unpack.h"

#include <linux/capability.h>
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
  if (mount (dir, dir, NULL, MS_BIND, NULL) < 0)
    wy_fail ("mount", dir);
  if (mount (NULL, dir, NULL, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
    wy_fail ("mount", dir);
  if (chdir (dir) < 0)
    wy_fail ("chdir", dir);
  /* pivot_root(".", ".") stacks the old root on the new one (pivot_root(2), NOTES). */
  if (syscall (SYS_pivot_root, ".", ".") < 0)
    wy_fail ("pivot_root", dir);
  if (umount2 (".", MNT_DETACH) < 0)
    wy_fail ("umount2", dir);
  if (chdir ("/") < 0)
    wy_fail ("chdir", "/");
}

/* Give up all capabilities but KEPT. */
void
wy_drop_capabilities (uint32_t kept)
{
  struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
  const struct __user_cap_data_struct sets[2] = { { .effective = kept, .permitted = kept } };
  if (syscall (SYS_capset, &header, sets) < 0)
    wy_fail ("capset", "");
}

/* Leave the machine behind; DIR becomes "/". */
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
  /* Owners, modes and file capabilities of others' files can be set; nothing else of root is left. */
  wy_drop_capabilities (1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_FSETID | 1u << CAP_SETFCAP);
}
