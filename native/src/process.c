/* process.c - what can be done to a container's first process: collect its exit, signal it.
 *
 * Both work on the pidfd, so a number that the kernel has given to somebody else is never hit.
 * The first process of a pid namespace takes all others with it, and is reported as exited only
 * after the last of them is gone (pid_namespaces(7)).
 */
#include <linux/wait.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

#include "sys.h"
#include "wherry.h"

static uint64_t
microseconds (const struct timeval *time)
{
  return (uint64_t) time->tv_sec * 1000000u + (uint64_t) time->tv_usec;
}

int
wy_wait (int32_t pidfd, struct wy_exit *out)
{
  siginfo_t info = { 0 };
  struct rusage usage = { 0 };
  memset (out, 0, sizeof *out);
  /* __WALL: the child was cloned without an exit signal (waitid(2)). */
  long result = wy_sys (SYS_waitid, P_PIDFD, pidfd, &info, WEXITED | WNOHANG | __WALL, &usage);
  if (result < 0)
    return (int) result;
  if (info.si_pid == 0)
    return 0;
  out->exited = 1;
  out->exit_code = info.si_code == CLD_EXITED ? info.si_status : -1;
  out->signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
  out->user_us = microseconds (&usage.ru_utime);
  out->system_us = microseconds (&usage.ru_stime);
  return 0;
}

int
wy_kill (int32_t pidfd, int32_t signal)
{
  return (int) wy_sys (SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}
