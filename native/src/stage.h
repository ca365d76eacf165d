/* stage.h - the state that caller and child share while a plan is performed.
 *
 * One wy_stage lives on the caller's stack during wy_start. Before the clone only the caller writes to it,
 * afterwards only the child; the exception is `maps_written`, with which the caller releases the child. The
 * caller reads it again once the kernel has cleared `child_tid`: when the child has executed its program or
 * died. */
#ifndef WY_STAGE_H
#define WY_STAGE_H

#include <stdbool.h>

#include "wherry.h"

struct wy_stage
{
  const struct wy_plan *plan;
  const struct wy_op *ops;
  const char *text;
  int fds[WY_HANDLES_MAX];
  bool owned[WY_HANDLES_MAX];   /* opened by this stage, which closes it */
  int join_fds[WY_HANDLES_MAX]; /* of WY_OP_CGROUP_JOIN, by order of appearance */
  unsigned join_count;
  unsigned joined;
  int stdio[3]; /* the child's ends, -1 without stdio */
  char **programs;
  char **argv;
  char **envp;
  char *home;                /* wherry-init: "HOME=…" to add to the environment; NULL for none */
  volatile int child_tid;    /* kernel: tid, then 0 at exec or exit */
  volatile int maps_written; /* futex the child waits on */
  volatile int at_exec;      /* the child has reached its last operation */
  volatile uint32_t starter; /* kernel: FUTEX_OWNER_DIED once the caller's thread has died */
  int own_pidns;             /* the caller's pid namespace while WY_OP_PID_NAMESPACE is in effect; else -1 */
  int report;                /* wherry-init: where results go */
  struct wy_error *err;
};

/* One half of an operation. Returns 0, or -errno with stage->err set by wy_fail; the runner adds the
 * operation's index. */
typedef int wy_op_function (struct wy_stage *stage, const struct wy_op *op);

struct wy_op_entry
{
  wy_op_function *prepare; /* in the caller */
  wy_op_function *perform; /* in the child: raw system calls only */
};

extern const struct wy_op_entry wy_op_table[WY_OP_KINDS];

/* Record that CALL failed with RESULT (-errno). Return: RESULT. */
static inline int
wy_fail (struct wy_stage *stage, const char *call, long result)
{
  unsigned i = 0;
  for (; call[i] != '\0' && i < sizeof stage->err->call - 1; i++)
    stage->err->call[i] = call[i];
  stage->err->call[i] = '\0';
  stage->err->code = (int)-result;
  return (int)result;
}

static inline const char *
wy_text (const struct wy_stage *stage, uint32_t offset)
{
  return stage->text + offset;
}

/* The text after T in a list. */
static inline const char *
wy_next (const char *t)
{
  while (*t != '\0')
    t++;
  return t + 1;
}

wy_op_function wy_prepare_fd, wy_prepare_tree, wy_prepare_aside, wy_prepare_join, wy_prepare_exec;
wy_op_function wy_do_join, wy_do_maps, wy_do_propagation, wy_do_setup_ids, wy_do_fsmount, wy_do_mkdir,
    wy_do_fchdir, wy_do_attach, wy_do_mount, wy_do_bind, wy_do_subtree, wy_do_attributes, wy_do_pivot,
    wy_do_unshare, wy_do_hostname, wy_do_loopback, wy_do_rlimit, wy_do_ids, wy_do_capabilities,
    wy_do_no_new_privs, wy_do_parent_death, wy_do_stdio, wy_do_close_fds, wy_do_chdir, wy_do_seccomp,
    wy_do_exec;
wy_op_function wy_prepare_pid_namespace;
wy_op_function wy_do_setns, wy_do_inherit, wy_do_exec_fd, wy_do_domainname, wy_do_umask, wy_do_personality,
    wy_do_keyring, wy_do_stdio_owner, wy_do_write, wy_do_mknod, wy_do_symlink, wy_do_mask, wy_do_console,
    wy_do_check_program, wy_do_wait, wy_do_hook, wy_do_setattr, wy_do_keep_fds, wy_do_copy_up, wy_do_chroot,
    wy_do_scheduler, wy_do_io_priority, wy_do_home, wy_do_seccomp_listen;

/* Does the caller perform KIND ([p])?  Only wherry-init ([i])?  (plan.c) */
bool wy_op_is_callers (uint32_t kind);
bool wy_op_is_inits (uint32_t kind);

/* COUNT texts from LIST as a NULL-terminated vector; NULL when out of memory. Not for a child that shares
 * memory. */
char **wy_vector_of (const char *list, uint64_t count);

/* Close the descriptors and free the memory that STAGE holds (start.c). */
void wy_stage_release (struct wy_stage *stage);

/* A stage for BUFFER, which has been checked (start.c). */
struct wy_stage wy_stage_of (const uint8_t *buffer, struct wy_error *err);

struct clone_args;

/* clone3(2) into RUN (ARGUMENT) on the stack that ARGS names (start.c). Return: as clone3, in the caller
 * only. */
long wy_clone_onto_stack (struct clone_args *args, int (*run) (void *), void *argument);

/* Make the kernel mark stage->starter if this thread dies before list_op_pending of the returned list is
 * cleared (op_process.c). Return: the list, or NULL if this thread cannot be watched. */
struct robust_list_head *wy_watch_starter (struct wy_stage *stage);

/* Has the thread that called wy_start died, so that no one will wait for this child? (op_process.c) */
bool wy_starter_died (const struct wy_stage *stage);

/* Send or receive one descriptor with one byte (send.c).  Return: 0 or the descriptor; -errno. */
int wy_send_fd (int socket, int fd);

/* Set the stack of ARGS to the one stack for children (start.c). */
void wy_use_child_stack (struct clone_args *args);

/* Open PATH below DIR with openat2(2) (op_attach.c).  Return: a descriptor, or -errno. */
long wy_open_in_root (int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

/* Attach TREE at PATH, see WY_OP_ATTACH (op_attach.c). */
int wy_attach (struct wy_stage *stage, int tree, const char *path, uint32_t flags);

/* Open the directory that holds PATH, creating it if missing; *NAME is PATH's last part (op_attach.c).
 * Return: a descriptor, or -errno. */
long wy_open_parent (const char *path, const char **name);

/* Create PATH (op_attach.c). Return: a descriptor of it, or -errno. */
long wy_make_target (const char *path, uint32_t flags, uint64_t resolve);

/* Move this thread into the network namespace NETNS, and back (namespace.c).
 * Return: 0, or -errno. */
int wy_netns_enter (int netns);
void wy_netns_leave (void);

/* Bring `lo` up in the current network namespace.  Return: 0, or -errno with *CALL named. */
int wy_loopback_up (const char **call);

#endif
