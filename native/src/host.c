/* host.c - host services that Node does not offer: sockets by descriptor, sealed memory, device filters. */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/mount.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "sys.h"
#include "wherry.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#define BPF_INSTRUCTIONS_MAX 4096u
#define LOAD_TRIES_MAX 16u

int
wy_pair (int32_t ends[2])
{
  return socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ? -errno : 0;
}

/* sun_path holds 108 bytes, and state folders of engines are longer: use the folder's descriptor. */
static int
with_address (const char *dir, const char *name, int (*use) (int, const struct sockaddr *, socklen_t))
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  wy_cleanup_close int folder = open (dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
  wy_cleanup_close int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (folder < 0 || fd < 0)
    return -errno;
  int length = snprintf (address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", folder, name);
  if (length < 0 || (size_t)length >= sizeof address.sun_path)
    return -ENAMETOOLONG;
  if (use (fd, (const struct sockaddr *)&address, sizeof address) < 0)
    return -errno;
  int result = fd;
  fd = -1;
  return result;
}

int
wy_listen (const char *dir, const char *name)
{
  wy_cleanup_close int fd = with_address (dir, name, bind);
  if (fd < 0)
    return fd;
  if (listen (fd, 1) < 0)
    return -errno;
  int result = fd;
  fd = -1;
  return result;
}

int
wy_connect (const char *dir, const char *name)
{
  return with_address (dir, name, connect);
}

int
wy_sealed_copy (const char *path)
{
  struct stat st;
  wy_cleanup_close int from = open (path, O_RDONLY | O_CLOEXEC);
  if (from < 0 || fstat (from, &st) < 0)
    return -errno;
  wy_cleanup_close int to = memfd_create ("wherry-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
  if (to < 0 && errno == EINVAL) /* before Linux 6.3 the flag is unknown and every memfd is executable */
    to = memfd_create ("wherry-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (to < 0)
    return -errno;
  for (off_t at = 0; at < st.st_size;)
    if (sendfile (to, from, &at, (size_t)(st.st_size - at)) <= 0)
      return errno == 0 ? -EIO : -errno;
  if (fcntl (to, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
    return -errno;
  int result = to;
  to = -1;
  return result;
}

int
wy_device_filter (const char *dir, const uint8_t *program, uint32_t size)
{
  static const char license[] = "MIT";
  if (size % sizeof (struct bpf_insn) != 0 || size / sizeof (struct bpf_insn) > BPF_INSTRUCTIONS_MAX)
    return -EINVAL;
  wy_cleanup_close int cgroup = open (dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (cgroup < 0)
    return -errno;
  union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
                          .insn_cnt = size / (uint32_t)sizeof (struct bpf_insn),
                          .insns = (uint64_t)(uintptr_t)program,
                          .license = (uint64_t)(uintptr_t)license };
  /* The verifier fails with EAGAIN when a signal is pending, and Node's threads get many. */
  wy_cleanup_close int loaded = -1;
  for (unsigned tries = 0; loaded < 0 && tries < LOAD_TRIES_MAX; tries++)
    {
      loaded = (int)syscall (SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
      if (loaded < 0 && errno != EAGAIN)
        break;
    }
  if (loaded < 0)
    return -errno;
  union bpf_attr attach = { .target_fd = (uint32_t)cgroup,
                            .attach_bpf_fd = (uint32_t)loaded,
                            .attach_type = BPF_CGROUP_DEVICE,
                            .attach_flags = BPF_F_ALLOW_MULTI };
  return syscall (SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach) < 0 ? -errno : 0;
}

int
wy_tmpfs_probe (void)
{
  wy_cleanup_close int context = (int)wy_sys (SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
  if (context < 0)
    return context;
  long result = wy_sys (SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
  wy_cleanup_close int mount
      = result < 0 ? (int)result : (int)wy_sys (SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
  wy_cleanup_close int root = mount < 0 ? mount : openat (mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    return mount < 0 ? mount : -errno;
  return fsetxattr (root, "user.wherry", "y", 1, 0) < 0 ? -errno : 0;
}
