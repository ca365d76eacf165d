/* op_join.c - synchronizes wherry-init with the processes that create and start it.
 *
 * A created container waits for "start", maybe minutes later and from another process. It waits on a
 * listening unix socket in the container's state folder: connecting means "start", the connection carries the
 * error if one of the last operations fails, and it closes at exec. No path is resolved for it inside the
 * container. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stage.h"
#include "sys.h"

/* A missing reader is not an error of the container: its creator may have exited. */
static void
report (const struct wy_stage *stage)
{
  wy_sys (SYS_sendto, stage->report, stage->err, sizeof *stage->err, MSG_NOSIGNAL, NULL, 0);
}

int
wy_do_wait (struct wy_stage *stage, const struct wy_op *op)
{
  *stage->err = (struct wy_error){ .op = -1 };
  report (stage);
  wy_close (&stage->report);
  long result;
  do
    result = wy_sys (SYS_accept4, stage->fds[op->handle], NULL, NULL, SOCK_CLOEXEC);
  while (result == -EINTR || result == -ECONNABORTED);
  if (result < 0)
    return wy_fail (stage, "accept4", result);
  stage->report = (int)result;
  return 0;
}

/* A memfd with TEXT, at offset 0: a pipe would block on a hook that does not read. */
static int
stdin_with (const char *text)
{
  int fd = memfd_create ("hook", MFD_CLOEXEC);
  size_t left = strlen (text);
  while (fd >= 0 && left > 0)
    {
      ssize_t written = write (fd, text, left);
      if (written < 0)
        {
          int result = -errno;
          close (fd);
          return result;
        }
      text += written;
      left -= (size_t)written;
    }
  if (fd >= 0)
    lseek (fd, 0, SEEK_SET);
  return fd < 0 ? -errno : fd;
}

_Noreturn static void
become_hook (const struct wy_stage *stage, const struct wy_op *op, int input)
{
  char **argv = wy_vector_of (wy_text (stage, op->text[1]), op->num2);
  char **envp = wy_vector_of (wy_text (stage, op->text[2]), op->wide);
  if (argv != NULL && envp != NULL && dup2 (input, 0) == 0)
    execve (wy_text (stage, op->text[0]), argv, envp);
  _exit (127);
}

/* Wait for PID for at most TIMEOUT_MS (0: no limit). Return: its wait(2) status, or -errno. */
static int
await (pid_t pid, uint32_t timeout_ms)
{
  int status = -1;
  int result = 0;
  wy_cleanup_close int pidfd = (int)wy_sys (SYS_pidfd_open, pid, 0);
  struct pollfd exits = { .fd = pidfd, .events = POLLIN };
  if (poll (&exits, 1, timeout_ms == 0 ? -1 : (int)timeout_ms) == 0)
    {
      kill (pid, SIGKILL);
      result = -ETIMEDOUT;
    }
  while (waitpid (pid, &status, 0) < 0 && errno == EINTR)
    continue;
  return result < 0 ? result : status;
}

int
wy_do_hook (struct wy_stage *stage, const struct wy_op *op)
{
  wy_cleanup_close int input = stdin_with (wy_text (stage, op->text[3]));
  if (input < 0)
    return wy_fail (stage, "memfd_create", input);
  pid_t pid = fork ();
  if (pid < 0)
    return wy_fail (stage, "fork", -errno);
  if (pid == 0)
    become_hook (stage, op, input);
  int status = await (pid, op->from);
  if (status < 0)
    return wy_fail (stage, "hook", status);
  if (status != 0)
    return wy_fail (stage,
                    WIFSIGNALED (status)          ? "hook was killed"
                    : WEXITSTATUS (status) == 127 ? "hook cannot be run"
                                                  : "hook failed",
                    -ECANCELED);
  return 0;
}
