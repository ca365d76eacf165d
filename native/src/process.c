/* process.c - collects the exit of a container's first process, signals it, sets its OOM score.
 *
 * The first two use the pidfd, so a reused pid is never hit. When the first process of a pid namespace ends,
 * the kernel kills all others, and reports the exit only after the last of them is gone
 * (pid_namespaces(7)). */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/wait.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "sys.h"
#include "wherry.h"

static uint64_t
microseconds (const struct timeval *time)
{
  return (uint64_t)time->tv_sec * 1000000u + (uint64_t)time->tv_usec;
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
    return (int)result;
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
  return (int)wy_sys (SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

/* How often to check whether exec has finished; each check yields the CPU. */
#define OWN_MEMORY_LOOKS_MAX 10000

/* Does PID have its own memory by now? 1, 0, or -errno. exec wakes waiters for child_tid (exec_mm_release) a
 * moment before it switches to the new memory (exec_mmap). */
static int
has_own_memory (int32_t pid)
{
  for (int i = 0; i < OWN_MEMORY_LOOKS_MAX; i++)
    {
      long result = wy_sys (SYS_kcmp, getpid (), pid, KCMP_VM, 0, 0);
      if (result != 0)
        return result < 0 ? (int)result : 1;
      wy_sys (SYS_sched_yield);
    }
  return 0;
}

/* Processes that share memory share one score: written too early, it would become the worker's. */
int
wy_oom_score (int32_t pid, const char *text, uint64_t len)
{
  char path[64];
  if (has_own_memory (pid) != 1)
    return 0;
  snprintf (path, sizeof path, "/proc/%d/oom_score_adj", pid);
  long fd = wy_sys (SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return fd == -ENOENT ? 0 : (int)fd;
  long result = wy_sys (SYS_write, fd, text, len);
  wy_sys (SYS_close, fd);
  return result >= 0 || result == -ESRCH ? 0 : (int)result;
}
