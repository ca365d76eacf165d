/* The root that this process works in: an overlay of layers, or one folder.
 *
 * Layers are passed to overlayfs as descriptors (/proc/self/fd/N): their paths are long, and mount(2) takes
 * one page of options. "userxattr", because the containers of RUN steps mount the same layers in a user
 * namespace and can read no other marks. After wy_enter only descriptors that were opened before lead
 * outside. */

#include "layer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* openat2(2): EAGAIN after a race of ".." with any rename or mount; the caller should try again. */
#define OPEN_TRIES_MAX 1000
#define OPTIONS_BYTES_MAX 4096u

/* Later mounts are private to this process and end with it. */
void
wy_private_mounts (void)
{
  if (unshare (CLONE_NEWNS) < 0)
    wy_fail ("unshare", "");
  if (mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
    wy_fail ("mount", "/");
}

int
wy_open_dir (const char *path)
{
  int fd = open (path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    wy_fail ("open", path);
  return fd;
}

static size_t
append (char *options, size_t used, const char *before, int fd)
{
  int len = snprintf (options + used, OPTIONS_BYTES_MAX - used, "%s/proc/self/fd/%d", before, fd);
  if (len < 0 || used + (size_t)len >= OPTIONS_BYTES_MAX)
    wy_refuse ("", "is a stage with more layers than can be mounted at once");
  return used + (size_t)len;
}

/* Mount COUNT LAYERS (lowest first), and below them the folder EMPTY, at AT; writable when UPPER is not
 * NULL. */
void
wy_mount_overlay (const char *at, const char *empty, char *const *layers, unsigned count, const char *upper,
                  const char *work)
{
  int fds[WY_LAYERS_MAX + 3];
  unsigned opened = 0;
  char options[OPTIONS_BYTES_MAX];
  size_t used = 0;
  if (count > WY_LAYERS_MAX)
    wy_refuse ("", "is a stage with more than 128 layers");
  for (unsigned i = count; i > 0; i--)
    {
      fds[opened] = wy_open_dir (layers[i - 1]);
      used = append (options, used, i == count ? "userxattr,lowerdir=" : ":", fds[opened++]);
    }
  fds[opened] = wy_open_dir (empty);
  used = append (options, used, count == 0 ? "userxattr,lowerdir=" : ":", fds[opened++]);
  if (upper == NULL)
    {
      /* An overlay has two folders at least; the same one twice is refused, so a single one is bound. */
      if (count == 0 && mount (empty, at, NULL, MS_BIND, NULL) < 0)
        wy_fail ("mount", at);
    }
  else
    {
      fds[opened] = wy_open_dir (upper);
      used = append (options, used, ",upperdir=", fds[opened++]);
      fds[opened] = wy_open_dir (work);
      (void)append (options, used, ",workdir=", fds[opened++]);
    }
  if ((upper != NULL || count > 0)
      && mount ("overlay", at, "overlay", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
    wy_fail ("mount", at);
  while (opened > 0)
    close (fds[--opened]);
}

/* Make DIR "/", and keep only the capabilities to set owners, modes, times and file capabilities. */
void
wy_enter (const char *dir)
{
  umask (0);
  if (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    wy_fail ("prctl", "");
  wy_pivot_into (dir);
  wy_drop_capabilities (WY_FILE_CAPABILITIES);
}

/* Open PATH ("" is the root) below the directory ROOT; RESOLVE as openat2(2). Return: a descriptor, or -1
 * with errno. */
int
wy_open_in (int root, const char *path, int flags, uint64_t resolve)
{
  struct open_how how = { .flags = (unsigned)flags | O_CLOEXEC, .resolve = resolve | RESOLVE_NO_MAGICLINKS };
  long fd = -1;
  for (int tries = 0; tries < OPEN_TRIES_MAX; tries++)
    {
      fd = syscall (SYS_openat2, root, *path == '\0' ? "." : path, &how, sizeof how);
      if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
        break;
    }
  return (int)fd;
}
