/* stage.h - what the caller and the child share while a plan is performed.
 *
 * One wy_stage lives on the caller's stack during wy_start.  Before the clone only the caller
 * writes to it; after it the child does, but for `maps_written`, by which the caller lets the
 * child go on.  The caller reads it again once the kernel has cleared `child_tid`, that is, when
 * the child has executed its program or died.
 */
#ifndef WY_STAGE_H
#define WY_STAGE_H

#include <stdbool.h>

#include "wherry.h"

struct wy_stage
{
  const struct wy_plan *plan;
  const struct wy_op *ops;
  const char *text;
  int fds[WY_SLOTS_MAX];
  bool owned[WY_SLOTS_MAX]; /* opened here, so closed here */
  int join_fds[WY_SLOTS_MAX]; /* of WY_OP_CGROUP_JOIN, by order of appearance */
  unsigned join_count;
  unsigned joined;
  int stdio[3]; /* the child's ends, -1 when the plan brings its own */
  char **programs;
  char **argv;
  char **envp;
  volatile int child_tid;    /* kernel: tid, then 0 at exec or exit */
  volatile int maps_written; /* futex the child waits on */
  volatile int at_exec;      /* the child got as far as its last operation */
  struct wy_error *err;
};

/* An operation's two halves; either may be missing.  Both return 0, or -errno with stage->err's
 * `call` set by wy_fail; the runner adds the operation's number. */
typedef int wy_op_function (struct wy_stage *stage, const struct wy_op *op);

struct wy_op_entry
{
  wy_op_function *prepare; /* in the caller */
  wy_op_function *perform; /* in the child: raw system calls only */
};

extern const struct wy_op_entry wy_op_table[WY_OP_KINDS];

/* Note that CALL failed with RESULT (-errno).  Return: RESULT. */
static inline int
wy_fail (struct wy_stage *stage, const char *call, long result)
{
  unsigned i = 0;
  for (; call[i] != '\0' && i < sizeof stage->err->call - 1; i++)
    stage->err->call[i] = call[i];
  stage->err->call[i] = '\0';
  stage->err->code = (int) -result;
  return (int) result;
}

static inline const char *
wy_text (const struct wy_stage *stage, uint32_t offset)
{
  return stage->text + offset;
}

/* The text behind T in a list. */
static inline const char *
wy_next (const char *t)
{
  while (*t != '\0')
    t++;
  return t + 1;
}

wy_op_function wy_prepare_fd, wy_prepare_tree, wy_prepare_join, wy_prepare_exec;
wy_op_function wy_do_join, wy_do_maps, wy_do_propagation, wy_do_setup_ids, wy_do_fsmount, wy_do_mkdir, wy_do_chdir_slot,
    wy_do_attach, wy_do_mount, wy_do_bind, wy_do_subtree, wy_do_attributes, wy_do_pivot, wy_do_unshare, wy_do_hostname, wy_do_loopback, wy_do_rlimit, wy_do_ids,
    wy_do_capabilities, wy_do_no_new_privs, wy_do_parent_death, wy_do_stdio, wy_do_close_fds, wy_do_chdir,
    wy_do_seccomp, wy_do_exec;

/* Make PATH (op_mount.c).  Return: a descriptor of it, or -errno. */
long wy_make_target (const char *path, uint32_t flags, uint64_t resolve);

/* Bring `lo` up in the current network namespace.  Return: 0, or -errno with *CALL named. */
int wy_loopback_up (const char **call);

#endif
