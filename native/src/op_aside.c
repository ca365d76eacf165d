/* op_aside.c - operations in a separate mount namespace, before the container's clone.
 *
 * Some mounts can be made neither by the caller nor by the child. The layers of an overlay must be in the
 * mount namespace of the process that mounts it (clone_private_mount() in fs/namespace.c), and nothing may be
 * attached in the caller's namespace, where it would survive a kill -9. The child has its own namespace, but
 * is already in its user namespace, where trusted.* attributes cannot be written. So a process with the
 * caller's rights and memory makes these mounts and exits. Its handles stay open in the caller, detached from
 * any namespace; everything else disappears with it. */
#include <errno.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <signal.h>

#include "stage.h"
#include "sys.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#define KERNEL_SIGSET_BYTES 8

struct aside
{
  struct wy_stage *stage;
  const struct wy_op *ops;
  uint32_t count;
  volatile bool done;
};

/* You are in a separate process that shares the caller's memory and descriptor table. */
static int
run_aside (void *argument)
{
  struct aside *aside = argument;
  for (uint32_t i = 0; i < aside->count; i++)
    {
      const struct wy_op *op = &aside->ops[i];
      if (wy_op_table[op->kind].perform (aside->stage, op) < 0)
        {
          aside->stage->err->op += 1 + (int32_t)i;
          return 127;
        }
      if (op->kind == WY_OP_FSMOUNT || op->kind == WY_OP_SUBTREE)
        aside->stage->owned[op->handle] = true;
    }
  aside->done = true;
  return 0;
}

int
wy_prepare_aside (struct wy_stage *stage, const struct wy_op *op)
{
  struct aside aside = { .stage = stage, .ops = op + 1, .count = op->num };
  uint64_t all = ~0ull, before;
  /* CLONE_VFORK: the caller is suspended until the child has released the memory. */
  struct clone_args args
      = { .flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_NEWNS | CLONE_CLEAR_SIGHAND };
  wy_use_child_stack (&args);
  wy_sys (SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, KERNEL_SIGSET_BYTES);
  long pid = wy_clone_onto_stack (&args, run_aside, &aside);
  wy_sys (SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, KERNEL_SIGSET_BYTES);
  if (pid < 0)
    return wy_fail (stage, "clone3", pid);
  wy_sys (SYS_waitid, P_PID, pid, NULL, WEXITED | __WALL, NULL);
  if (stage->err->code != 0)
    return -stage->err->code;
  return aside.done ? 0 : wy_fail (stage, "killed while starting", -ENOMEM);
}
