/* op_process.c - operations on the process itself: cgroup, limits, descriptors, the final exec. */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "stage.h"
#include "sys.h"

int
wy_prepare_join (struct wy_stage *stage, const struct wy_op *op)
{
  if (stage->join_count == WY_HANDLES_MAX)
    return wy_fail (stage, "too many joins", -E2BIG);
  long fd = wy_sys (SYS_open, wy_text (stage, op->text[0]), O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return wy_fail (stage, "open", fd);
  stage->join_fds[stage->join_count++] = (int)fd;
  return 0;
}

/* On v1 a thread that moves only itself ("0" into `tasks`) skips the global lock that `cgroup.procs` takes
 * (cgroup_threadgroup_rwsem); the child has one thread. */
int
wy_do_join (struct wy_stage *stage, const struct wy_op *op)
{
  (void)op;
  long result = wy_sys (SYS_write, stage->join_fds[stage->joined++], "0", 1);
  return result < 0 ? wy_fail (stage, "write", result) : 0;
}

/* While a child shares our memory the kernel can tell it when this thread dies, also by SIGKILL: before the
 * children of a dying thread get their death signals, the kernel marks the futexes on the thread's robust
 * list (Documentation/locking/robust-futexes). The list belongs to the C library; the one entry that is free
 * outside of its locks is list_op_pending, which the kernel marks as well. */
struct robust_list_head *
wy_watch_starter (struct wy_stage *stage)
{
  struct robust_list_head *head = NULL;
  size_t size = 0;
  if (wy_sys (SYS_get_robust_list, 0, &head, &size) < 0 || head == NULL || size != sizeof *head
      || head->list_op_pending != NULL)
    return NULL;
  stage->starter = (uint32_t)wy_sys (SYS_gettid);
  head->list_op_pending = (struct robust_list *)((uintptr_t)&stage->starter - (uintptr_t)head->futex_offset);
  return head;
}

bool
wy_starter_died (const struct wy_stage *stage)
{
  /* A death signal that was set before must be visible to all before this reads. */
  __atomic_thread_fence (__ATOMIC_SEQ_CST);
  return (stage->starter & FUTEX_OWNER_DIED) != 0;
}

/* The caller may be killed before it writes the maps, and nothing else would end the wait. */
int
wy_do_maps (struct wy_stage *stage, const struct wy_op *op)
{
  const struct timespec patience = { .tv_nsec = 50 * 1000 * 1000 };
  (void)op;
  while (stage->maps_written == 0)
    if (wy_sys (SYS_futex, &stage->maps_written, FUTEX_WAIT, 0, &patience, NULL, 0) == -ETIMEDOUT
        && wy_starter_died (stage))
      return wy_fail (stage, "starter died", -ESRCH);
  return stage->maps_written > 0 ? 0 : wy_fail (stage, "uid_map", stage->maps_written);
}

int
wy_do_rlimit (struct wy_stage *stage, const struct wy_op *op)
{
  struct rlimit64 limit = { .rlim_cur = op->wide, .rlim_max = op->wide2 }, before = limit;
  long result = op->flags & WY_RAISE_ONLY ? wy_sys (SYS_prlimit64, 0, op->num, NULL, &before) : 0;
  if (limit.rlim_cur < before.rlim_cur)
    limit.rlim_cur = before.rlim_cur;
  if (limit.rlim_max < before.rlim_max)
    limit.rlim_max = before.rlim_max;
  if (result >= 0)
    result = wy_sys (SYS_prlimit64, 0, op->num, &limit, NULL);
  return result < 0 ? wy_fail (stage, "prlimit64", result) : 0;
}

/* The signal is sent at a future death only. A caller that has already died sends none, and the program would
 * run on without a worker. */
int
wy_do_parent_death (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_prctl, PR_SET_PDEATHSIG, op->num, 0, 0, 0);
  if (result < 0)
    return wy_fail (stage, "prctl(PDEATHSIG)", result);
  return wy_starter_died (stage) ? wy_fail (stage, "starter died", -ESRCH) : 0;
}

int
wy_do_stdio (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_dup3, stage->fds[op->handle], op->num, 0);
  /* dup3 refuses equal descriptors; then only close-on-exec must be cleared. */
  if (result == -EINVAL && stage->fds[op->handle] == (int)op->num)
    result = wy_sys (SYS_fcntl, op->num, F_SETFD, 0);
  return result < 0 ? wy_fail (stage, "dup3", result) : 0;
}

int
wy_do_close_fds (struct wy_stage *stage, const struct wy_op *op)
{
  /* Closed now unless a later operation needs them: exec resolves a program such as /proc/self/fd/N/… while
   * close-on-exec descriptors are still open. */
  unsigned flags = op->flags & WY_KEEP_UNTIL_EXEC ? CLOSE_RANGE_CLOEXEC : 0;
  long result = wy_sys (SYS_close_range, 3 + op->num, ~0u, flags);
  return result < 0 ? wy_fail (stage, "close_range", result) : 0;
}

/* A working directory such as /proc/self/fd/7 can lead out of the root through a leaked descriptor
 * (CVE-2024-21626): getcwd(2) then returns "(unreachable)…". */
int
wy_do_chdir (struct wy_stage *stage, const struct wy_op *op)
{
  const char *path = wy_text (stage, op->text[0]);
  char where[4096];
  if (op->flags & WY_MAKE_DIR)
    {
      int made = (int)wy_make_target (path, WY_MAKE_DIR, RESOLVE_NO_MAGICLINKS);
      wy_close (&made);
    }
  long result = wy_sys (SYS_chdir, path);
  if (result < 0)
    return wy_fail (stage, "chdir", result);
  result = wy_sys (SYS_getcwd, where, sizeof where);
  if (result < 0)
    return wy_fail (stage, "getcwd", result);
  return where[0] == '/' ? 0 : wy_fail (stage, "getcwd", -EXDEV);
}

char **
wy_vector_of (const char *list, uint64_t count)
{
  char **vector = calloc (count + 1, sizeof *vector);
  if (vector == NULL)
    return NULL;
  for (uint64_t i = 0; i < count; i++, list = wy_next (list))
    vector[i] = (char *)(uintptr_t)list;
  return vector;
}

/* The environment of OP, with the HOME that WY_OP_HOME found; NULL when out of memory. */
static char **
environment_of (const struct wy_stage *stage, const struct wy_op *op)
{
  char **vector = calloc (op->wide + 2, sizeof *vector);
  const char *entry = wy_text (stage, op->text[2]);
  if (vector == NULL)
    return NULL;
  for (uint64_t i = 0; i < op->wide; i++, entry = wy_next (entry))
    vector[i] = (char *)(uintptr_t)entry;
  vector[op->wide] = stage->home;
  return vector;
}

int
wy_prepare_exec (struct wy_stage *stage, const struct wy_op *op)
{
  stage->programs = wy_vector_of (wy_text (stage, op->text[0]), op->num);
  stage->argv = wy_vector_of (wy_text (stage, op->text[1]), op->num2);
  stage->envp = environment_of (stage, op);
  if (stage->programs == NULL || stage->argv == NULL || stage->envp == NULL)
    return wy_fail (stage, "calloc", -ENOMEM);
  return 0;
}

/* A program behind a magic link would be the host's: /proc/self/exe is still the caller's program here
 * (CVE-2019-5736). Return: 0, or -errno. */
static long
find_program (const char *program)
{
  struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS };
  long found = wy_sys (SYS_openat2, AT_FDCWD, program, &how, sizeof how);
  if (found < 0)
    return found;
  wy_sys (SYS_close, found);
  return 0;
}

/* As execvp(3): try the next directory of PATH while the program is missing; if one existed but was not
 * executable, report that in the end. */
int
wy_do_exec (struct wy_stage *stage, const struct wy_op *op)
{
  long refused = 0, result = -ENOENT;
  stage->at_exec = 1;
  for (char **program = stage->programs; *program != NULL; program++)
    {
      long found = op->flags & WY_CHECKED ? 0 : find_program (*program);
      result = found < 0 ? found : wy_sys (SYS_execve, *program, stage->argv, stage->envp);
      if (result == -EACCES)
        refused = result;
      else if (result != -ENOENT && result != -ENOTDIR)
        break;
    }
  return wy_fail (stage, "execve",
                  refused < 0 && (result == -ENOENT || result == -ENOTDIR) ? refused : result);
}

/* execveat(2) of a descriptor: no path is resolved in the root that this process has by now. */
int
wy_do_exec_fd (struct wy_stage *stage, const struct wy_op *op)
{
  stage->at_exec = 1;
  return wy_fail (stage, "execveat",
                  wy_sys (SYS_execveat, stage->fds[op->handle], "", stage->argv, stage->envp, AT_EMPTY_PATH));
}

/* So that a command that is missing is said before the container counts as created.  What the kernel
 * thinks of its format and its interpreter only execve can tell. */
int
wy_do_check_program (struct wy_stage *stage, const struct wy_op *op)
{
  const char *program = wy_text (stage, op->text[0]);
  struct stat st;
  long refused = 0, result = -ENOENT;
  for (uint32_t i = 0; i < op->num; i++, program = wy_next (program))
    {
      result = find_program (program);
      if (result >= 0)
        result = wy_sys (SYS_newfstatat, AT_FDCWD, program, &st, 0);
      if (result >= 0)
        result = !S_ISREG (st.st_mode) ? -EACCES : wy_sys (SYS_faccessat, AT_FDCWD, program, 1 /* X_OK */);
      if (result >= 0)
        return 0;
      if (result == -EACCES)
        refused = result;
    }
  return wy_fail (stage, "execve", refused < 0 ? refused : result);
}

int
wy_do_inherit (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_fcntl, stage->fds[op->handle], F_SETFD, 0);
  return result < 0 ? wy_fail (stage, "fcntl", result) : 0;
}

int
wy_do_umask (struct wy_stage *stage, const struct wy_op *op)
{
  (void)stage;
  wy_sys (SYS_umask, op->num);
  return 0;
}

int
wy_do_scheduler (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_sched_setattr, 0, wy_text (stage, op->text[0]), 0);
  return result < 0 ? wy_fail (stage, "sched_setattr", result) : 0;
}

int
wy_do_io_priority (struct wy_stage *stage, const struct wy_op *op)
{
  enum
  {
    IOPRIO_WHO_PROCESS = 1
  };
  long result = wy_sys (SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, op->num);
  return result < 0 ? wy_fail (stage, "ioprio_set", result) : 0;
}

int
wy_do_personality (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_personality, op->num);
  return result < 0 ? wy_fail (stage, "personality", result) : 0;
}

/* At its start Node marks all inherited descriptors close-on-exec (uv_disable_stdio_inheritance). */
int
wy_do_keep_fds (struct wy_stage *stage, const struct wy_op *op)
{
  for (uint32_t fd = 0; fd < op->num; fd++)
    {
      long result = wy_sys (SYS_fcntl, fd, F_SETFD, 0);
      if (result < 0 && result != -EBADF)
        return wy_fail (stage, "fcntl", result);
    }
  return 0;
}
