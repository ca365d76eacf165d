/* start.c - from a checked plan to a running program, in one clone.
 *
 * The child shares the caller's memory (CLONE_VM): copying the page tables of a 200 MB Node process would
 * cost four milliseconds, sharing them costs nothing. CLONE_VFORK is not used, because with a user namespace
 * the caller has work to do while the child waits: id maps can be written only from outside
 * (user_namespaces(7)). Instead the kernel reports when the child has released the memory:
 * CLONE_CHILD_CLEARTID clears a word and wakes its futex at exec and at exit.
 *
 * Three steps:
 *   the caller prepares   - opens what only the host may open
 *   the child performs    - see run_child(); raw system calls only
 *   the caller waits      - and reports "started", or which operation failed */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "stage.h"
#include "sys.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#define STACK_SIZE (128u << 10)
#define GUARD_SIZE (64u << 10) /* a multiple of every page size */
#define START_SECONDS_MAX 2
#define KERNEL_SIGNALS 64
#define KERNEL_SIGSET_BYTES 8
#define TID_UNSET (-1)

/* One start at a time, because the child runs on this stack. wy_start is called from one thread; the flag
 * turns a mistake into an error instead of two children on one stack. */
static char *child_stack;
static volatile int starting;

struct kernel_sigaction
{
  void (*handler) (int);
  unsigned long flags;
  void (*restorer) (void);
  uint64_t mask;
};

void
wy_use_child_stack (struct clone_args *args)
{
  args->stack = (uint64_t)(uintptr_t)child_stack;
  args->stack_size = STACK_SIZE;
}

/* clang-format 14 and 19 disagree on inline assembly. */
/* clang-format off */
/* clone3 onto a separate stack: the child must not return into the caller's frames. */
long
wy_clone_onto_stack (struct clone_args *args, int (*run) (void *), void *argument)
{
#if defined(__x86_64__)
  long result;
  register int (*fn) (void *) __asm__("r12") = run;
  register void *arg __asm__("r13") = argument;
  __asm__ volatile ("syscall\n\t"
                    "test %%rax, %%rax\n\t"
                    "jnz 1f\n\t"
                    "xor %%ebp, %%ebp\n\t"
                    "mov %%r13, %%rdi\n\t"
                    "call *%%r12\n\t"
                    "mov %%eax, %%edi\n\t"
                    "mov $60, %%eax\n\t" /* exit */
                    "syscall\n\t"
                    "hlt\n"
                    "1:"
                    : "=a"(result)
                    : "0"(SYS_clone3), "D"(args), "S"(sizeof *args), "r"(fn), "r"(arg)
                    : "rcx", "r11", "memory");
  return result;
#else
  register long x8 __asm__("x8") = SYS_clone3;
  register long x0 __asm__("x0") = (long) args;
  register long x1 __asm__("x1") = sizeof *args;
  register int (*fn) (void *) __asm__("x19") = run;
  register void *arg __asm__("x20") = argument;
  __asm__ volatile ("svc 0\n\t"
                    "cbnz x0, 1f\n\t"
                    "mov x29, #0\n\t"
                    "mov x0, x20\n\t"
                    "blr x19\n\t"
                    "mov x8, #93\n\t" /* exit */
                    "svc 0\n"
                    "1:"
                    : "+r"(x0)
                    : "r"(x8), "r"(x1), "r"(fn), "r"(arg)
                    : "memory", "x30");
  return x0;
#endif
}
/* clang-format on */

/* CLONE_CLEAR_SIGHAND resets handlers but keeps ignored signals ignored, and Node ignores SIGPIPE. */
static void
reset_signals (void)
{
  struct kernel_sigaction action = { 0 };
  uint64_t none = 0;
  for (int signal = 1; signal <= KERNEL_SIGNALS; signal++)
    wy_sys (SYS_rt_sigaction, signal, &action, NULL, KERNEL_SIGSET_BYTES);
  wy_sys (SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, KERNEL_SIGSET_BYTES);
}

/* You are in the child: a process of its own in the caller's memory. */
static int
run_child (void *argument)
{
  struct wy_stage *stage = argument;
  reset_signals ();
  /* A new session: Ctrl-C at the worker's terminal must not reach it. */
  wy_sys (SYS_setsid);
  for (int i = 0; i < 3; i++)
    if (stage->stdio[i] >= 0)
      {
        long result = wy_sys (SYS_dup3, stage->stdio[i], i, 0);
        if (result < 0)
          {
            stage->err->op = -1;
            wy_fail (stage, "dup3", result);
            return 127;
          }
      }
  for (uint32_t i = 0; i < stage->plan->op_count; i++)
    {
      wy_op_function *perform = wy_op_table[stage->ops[i].kind].perform;
      if (perform != NULL && perform (stage, &stage->ops[i]) < 0)
        {
          stage->err->op = (int32_t)i;
          return 127;
        }
      if (stage->ops[i].kind == WY_OP_ASIDE)
        i += stage->ops[i].num; /* performed before the clone */
    }
  return 127;
}

static int
prepare (struct wy_stage *stage)
{
  for (uint32_t i = 0; i < stage->plan->op_count; i++)
    {
      wy_op_function *function = wy_op_table[stage->ops[i].kind].prepare;
      stage->err->op = (int32_t)i;
      if (wy_op_is_inits (stage->ops[i].kind))
        return wy_fail (stage, "only for wherry-init", -EINVAL);
      if (function != NULL && function (stage, &stage->ops[i]) < 0)
        return -1;
    }
  stage->err->op = -1;
  return 0;
}

/* Pipes rather than sockets: a program may open /dev/stdout, and open(2) refuses sockets.  They
 * belong to the container's user for the same reason. */
static int
open_stdio (struct wy_stage *stage, struct wy_child *child)
{
  for (int i = 0; i < 3; i++)
    {
      int ends[2];
      long result = wy_sys (SYS_pipe2, ends, O_CLOEXEC);
      if (result < 0)
        return wy_fail (stage, "pipe2", result);
      child->stdio[i] = ends[i == 0];
      stage->stdio[i] = ends[i != 0];
      result = wy_sys (SYS_fchown, ends[0], stage->plan->pipe_owner, stage->plan->pipe_owner);
      if (result >= 0)
        result = wy_sys (SYS_fcntl, child->stdio[i], F_SETFL, O_NONBLOCK | (i == 0 ? O_WRONLY : O_RDONLY));
      if (result < 0)
        return wy_fail (stage, "fchown", result);
    }
  return 0;
}

static unsigned
put_number (char *at, uint32_t value)
{
  char digits[10];
  unsigned count = 0, length = 0;
  do
    digits[count++] = (char)('0' + value % 10);
  while ((value /= 10) != 0);
  while (count > 0)
    at[length++] = digits[--count];
  return length;
}

/* Write TEXT, or the plan's one range if TEXT is empty. The kernel takes a map in one write or not at all. */
static long
write_map (int proc, const char *name, const char *text, const struct wy_plan *plan)
{
  char line[32] = "0 ";
  unsigned long length = (unsigned long)(wy_next (text) - text) - 1;
  wy_cleanup_close int fd = (int)wy_sys (SYS_openat, proc, name, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return fd;
  if (length > 0)
    return wy_sys (SYS_write, fd, text, length);
  length = 2;
  length += put_number (line + length, plan->id_base);
  line[length++] = ' ';
  length += put_number (line + length, plan->id_count);
  return wy_sys (SYS_write, fd, line, length);
}

static long
write_maps (const struct wy_stage *stage, long pid)
{
  char path[16] = "/proc/";
  const char *uids = stage->text, *gids = stage->text;
  for (uint32_t i = 0; i < stage->plan->op_count; i++)
    if (stage->ops[i].kind == WY_OP_USER_MAPS)
      {
        uids = wy_text (stage, stage->ops[i].text[0]);
        gids = wy_text (stage, stage->ops[i].text[1]);
      }
  path[6 + put_number (path + 6, (uint32_t)pid)] = '\0';
  wy_cleanup_close int proc = (int)wy_sys (SYS_open, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (proc < 0)
    return proc;
  long result = write_map (proc, "gid_map", gids, stage->plan);
  return result < 0 ? result : write_map (proc, "uid_map", uids, stage->plan);
}

static void
let_child_go (struct wy_stage *stage, long pid)
{
  long result = write_maps (stage, pid);
  stage->maps_written = result < 0 ? (int)result : 1;
  wy_sys (SYS_futex, &stage->maps_written, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* The caller blocks here, so the wait is bounded: a program file with a lease on it (fcntl(2), F_SETLEASE)
 * would make execve wait for up to 45 seconds. */
static void
wait_for_release (struct wy_stage *stage, int pidfd)
{
  const struct timespec patience = { .tv_sec = START_SECONDS_MAX };
  int seen;
  while ((seen = stage->child_tid) != 0)
    if (wy_sys (SYS_futex, &stage->child_tid, FUTEX_WAIT, seen, &patience, NULL, 0) == -ETIMEDOUT)
      {
        wy_sys (SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        stage->at_exec = 0;
        if (stage->err->code == 0)
          wy_fail (stage, "start took too long", -ETIMEDOUT);
      }
}

/* The caller's thread is in the pooled network namespace during the clone: its child starts there, but its
 * user namespace does not own it. */
static long
clone_in_netns (struct wy_stage *stage, struct clone_args *args)
{
  int netns = stage->plan->netns_fd;
  if (netns < 0)
    return wy_clone_onto_stack (args, run_child, stage);
  int result = wy_netns_enter (netns);
  if (result < 0)
    return result;
  long pid = wy_clone_onto_stack (args, run_child, stage);
  wy_netns_leave ();
  return pid;
}

/* Clone, and wait until the child executes its program or dies. Return: 0, or -1 with stage->err. */
static int
launch (struct wy_stage *stage, struct wy_child *child)
{
  uint64_t all = ~0ull, before;
  struct clone_args args = {
    .flags = CLONE_VM | CLONE_PIDFD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_CLEAR_SIGHAND
             | stage->plan->clone_flags,
    .pidfd = (uint64_t)(uintptr_t)&child->pidfd,
    .child_tid = (uint64_t)(uintptr_t)&stage->child_tid,
  };
  wy_use_child_stack (&args);
  if (stage->plan->cgroup_fd >= 0)
    {
      args.flags |= CLONE_INTO_CGROUP;
      args.cgroup = (uint64_t)stage->plan->cgroup_fd;
    }
  /* No signal may run one of Node's handlers in the child, on shared memory. */
  wy_sys (SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, KERNEL_SIGSET_BYTES);
  struct robust_list_head *watch = wy_watch_starter (stage);
  long pid = clone_in_netns (stage, &args);
  if (pid > 0)
    {
      if (stage->plan->clone_flags & CLONE_NEWUSER)
        let_child_go (stage, pid);
      wait_for_release (stage, child->pidfd);
    }
  if (watch != NULL)
    watch->list_op_pending = NULL;
  wy_sys (SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, KERNEL_SIGSET_BYTES);
  if (pid < 0)
    return wy_fail (stage, "clone3", pid);
  child->pid = (int32_t)pid;
  if (stage->err->code == 0 && stage->at_exec)
    return 0;
  siginfo_t info;
  while (wy_sys (SYS_waitid, P_PIDFD, child->pidfd, &info, WEXITED | __WALL, NULL) == -EINTR)
    continue;
  if (stage->err->code == 0)
    wy_fail (stage, "killed while starting", -ENOMEM);
  return -1;
}

void
wy_stage_release (struct wy_stage *stage)
{
  /* A thread that cannot return would start every later child inside this container. */
  if (stage->own_pidns >= 0 && wy_sys (SYS_setns, stage->own_pidns, CLONE_NEWPID) < 0)
    abort ();
  wy_close (&stage->own_pidns);
  for (unsigned i = 0; i < stage->plan->handle_count; i++)
    if (stage->owned[i])
      wy_close (&stage->fds[i]);
  for (unsigned i = 0; i < stage->join_count; i++)
    wy_close (&stage->join_fds[i]);
  for (int i = 0; i < 3; i++)
    wy_close (&stage->stdio[i]);
  free (stage->programs);
  free (stage->argv);
  free (stage->envp);
  free (stage->home);
}

static int
perform (struct wy_stage *stage, int32_t stdio, struct wy_child *child)
{
  if (stdio != 0 && open_stdio (stage, child) < 0)
    return -1;
  if (prepare (stage) < 0)
    return -1;
  return launch (stage, child);
}

struct wy_stage
wy_stage_of (const uint8_t *buffer, struct wy_error *err)
{
  const struct wy_plan *plan = (const struct wy_plan *)(const void *)buffer;
  return (struct wy_stage){
    .plan = plan,
    .ops = (const struct wy_op *)(const void *)(buffer + sizeof *plan),
    .text = (const char *)buffer + plan->text_offset,
    .stdio = { -1, -1, -1 },
    .child_tid = TID_UNSET,
    .own_pidns = -1,
    .report = -1,
    .err = err,
  };
}

int
wy_start (const uint8_t *buffer, uint64_t size, int32_t stdio, struct wy_child *child, struct wy_error *err)
{
  if (wy_plan_check (buffer, size, err) < 0)
    return -1;
  if (child_stack == NULL)
    {
      char *stack = mmap (NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
      if (stack != MAP_FAILED && mprotect (stack, GUARD_SIZE, PROT_NONE) == 0)
        child_stack = stack + GUARD_SIZE;
    }
  struct wy_stage stage = wy_stage_of (buffer, err);
  *child = (struct wy_child){ .pidfd = -1, .stdio = { -1, -1, -1 } };
  if (child_stack == NULL || __atomic_exchange_n (&starting, 1, __ATOMIC_ACQUIRE) != 0)
    return wy_fail (&stage, "wy_start", child_stack == NULL ? -ENOMEM : -EBUSY);
  int result = perform (&stage, stdio, child);
  wy_stage_release (&stage);
  __atomic_store_n (&starting, 0, __ATOMIC_RELEASE);
  if (result < 0)
    {
      for (int i = 0; i < 3; i++)
        wy_close (&child->stdio[i]);
      wy_close (&child->pidfd);
    }
  return result;
}
