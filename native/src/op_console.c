/* op_console.c - a terminal for the container, created inside and its master sent out.
 *
 * The pair belongs to the container's own devpts, so its names are valid inside. The far end is opened
 * through the near one (TIOCGPTPEER, Linux 4.13), never by a name in /dev/pts where another file could have
 * been placed (CVE-2025-52565). */
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "stage.h"
#include "sys.h"

struct window
{
  unsigned short rows, columns, width, height;
};

/* Return: the near end, or -errno. */
static long
open_multiplexer (void)
{
  struct statfs fs;
  wy_cleanup_close int fd
      = (int)wy_open_in_root (AT_FDCWD, "/dev/pts/ptmx", O_RDWR | O_NOCTTY, 0, RESOLVE_NO_MAGICLINKS);
  if (fd < 0)
    return fd;
  long result = wy_sys (SYS_fstatfs, fd, &fs);
  if (result < 0)
    return result;
  if (fs.f_type != DEVPTS_SUPER_MAGIC)
    return -EXDEV;
  result = fd;
  fd = -1;
  return result;
}

/* /dev/console is the same terminal, bound from the descriptor and not from its name. */
static int
attach_console (struct wy_stage *stage, int terminal)
{
  wy_cleanup_close int tree
      = (int)wy_sys (SYS_open_tree, terminal, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
  if (tree < 0)
    return wy_fail (stage, "open_tree", tree);
  return wy_attach (stage, tree, "/dev/console", WY_MAKE_FILE | WY_NO_SYMLINKS);
}

static int
take_terminal (struct wy_stage *stage, int terminal)
{
  for (int fd = 0; fd < 3; fd++)
    {
      long result = wy_sys (SYS_dup3, terminal, fd, 0);
      if (result < 0)
        return wy_fail (stage, "dup3", result);
    }
  long result = wy_sys (SYS_ioctl, 0, TIOCSCTTY, 0);
  return result < 0 ? wy_fail (stage, "ioctl(TIOCSCTTY)", result) : 0;
}

int
wy_do_console (struct wy_stage *stage, const struct wy_op *op)
{
  int unlocked = 0;
  struct window window = { .rows = (unsigned short)op->num, .columns = (unsigned short)op->num2 };
  wy_cleanup_close int master = (int)open_multiplexer ();
  if (master < 0)
    return wy_fail (stage, "/dev/pts/ptmx", master);
  long result = wy_sys (SYS_ioctl, master, TIOCSPTLCK, &unlocked);
  if (result < 0)
    return wy_fail (stage, "ioctl(TIOCSPTLCK)", result);
  wy_cleanup_close int terminal = (int)wy_sys (SYS_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal < 0)
    return wy_fail (stage, "ioctl(TIOCGPTPEER)", terminal);
  if (op->num != 0)
    wy_sys (SYS_ioctl, master, TIOCSWINSZ, &window);
  result = wy_sys (SYS_fchown, terminal, op->wide, -1);
  if (result < 0)
    return wy_fail (stage, "fchown", result);
  if (op->flags & WY_MAKE_FILE && (result = attach_console (stage, terminal)) < 0)
    return (int)result;
  result = wy_send_fd (stage->fds[op->handle], master);
  if (result < 0)
    return wy_fail (stage, "sendmsg", result);
  return take_terminal (stage, terminal);
}
