/* Confines a process to one folder as its only mount, with the few capabilities that its files need: a second
 * line of defence against unknown bugs. */
#include "confine.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

void
wy_show (char *out, const char *name)
{
  size_t used = 0;
  for (size_t i = 0; name[i] != '\0' && i < WY_SHOWN_BYTES_MAX && used + 5 < WY_SHOWN_CAP; i++)
    {
      unsigned char c = (unsigned char)name[i];
      if (c < 0x20 || c == 0x7f || c == '\\')
        used += (size_t)snprintf (out + used, WY_SHOWN_CAP - used, "\\x%02x", c);
      else
        out[used++] = (char)c;
    }
  out[used] = '\0';
}

void
wy_pivot_into (const char *dir)
{
  /* pivot_root needs a mount point; binding one that already is one, such as an overlay, onto itself is
   * harmless. */
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

void
wy_drop_capabilities (uint32_t kept)
{
  struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
  const struct __user_cap_data_struct sets[2] = { { .effective = kept, .permitted = kept } };
  if (syscall (SYS_capset, &header, sets) < 0)
    wy_fail ("capset", "");
}

void *
wy_alloc (size_t size)
{
  void *p = malloc (size);
  if (p == NULL)
    wy_fail ("malloc", "");
  return p;
}
