/* plan.c - checks that a buffer is a plan that can be performed without reading outside of it.
 *
 * The buffer comes from our own encoder, yet it is treated as hostile: a spoilt plan must fail here, before
 * the clone, not in a process with half a root. The check covers shape (bounds, handles opened before they
 * are used, order of the two halves); meaning is up to the encoder. */
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>

#include "stage.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#define NAMESPACES                                                                                           \
  (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWUSER | CLONE_NEWCGROUP)

/* What an operation uses. All bounds checks follow from this table. */
enum uses
{
  HANDLE_OUT = 1 << 0,
  HANDLE_IN = 1 << 1,
  FROM_IN = 1 << 2, /* WY_HANDLE_NONE allowed */
  T0 = 1 << 3,
  T1 = 1 << 4,
  T2 = 1 << 5,
  T3 = 1 << 6,
  LIST_T1 = 1 << 7,  /* num texts at t1 */
  BLOB_T0 = 1 << 8,  /* num bytes at t0 */
  IDS_T0 = 1 << 9,   /* from 32-bit numbers at t0 */
  SETS_T0 = 1 << 10, /* five 64-bit numbers at t0 */
  LISTS_EXEC = 1 << 11,
  CALLER = 1 << 12,  /* runs in the caller, so it must come before the child's operations */
  INIT = 1 << 13,    /* only for wherry-init */
  LIST_T0 = 1 << 14, /* num texts at t0 */
  LAST = 1 << 15     /* must be the last operation, and only it may be */
};

static const uint16_t uses_of[WY_OP_KINDS] = {
  [WY_OP_FD] = HANDLE_OUT | CALLER,
  [WY_OP_TREE] = HANDLE_OUT | T0 | CALLER,
  [WY_OP_CGROUP_JOIN] = T0,
  [WY_OP_USER_MAPS] = T0 | T1,
  [WY_OP_UNSHARE] = 0,
  [WY_OP_PROPAGATION] = 0,
  [WY_OP_SETUP_IDS] = 0,
  [WY_OP_FSMOUNT] = HANDLE_OUT | T0 | LIST_T1,
  [WY_OP_MKDIR] = HANDLE_IN | T0,
  [WY_OP_FCHDIR] = HANDLE_IN,
  [WY_OP_ATTACH] = HANDLE_IN | T0,
  [WY_OP_MOUNT] = T0 | T1 | T2 | T3,
  [WY_OP_BIND] = FROM_IN | T0 | T1,
  [WY_OP_SUBTREE] = HANDLE_OUT | FROM_IN | T0,
  [WY_OP_ATTRIBUTES] = T0,
  [WY_OP_PIVOT] = T0,
  [WY_OP_HOSTNAME] = T0,
  [WY_OP_LOOPBACK_UP] = 0,
  [WY_OP_RLIMIT] = 0,
  [WY_OP_IDS] = IDS_T0,
  [WY_OP_CAPABILITIES] = SETS_T0,
  [WY_OP_NO_NEW_PRIVS] = 0,
  [WY_OP_PARENT_DEATH] = 0,
  [WY_OP_STDIO] = HANDLE_IN,
  [WY_OP_CLOSE_FDS] = 0,
  [WY_OP_CHDIR] = T0,
  [WY_OP_SECCOMP] = BLOB_T0,
  [WY_OP_EXEC] = LISTS_EXEC | LAST,
  [WY_OP_PID_NAMESPACE] = HANDLE_IN | CALLER,
  [WY_OP_SETNS] = HANDLE_IN,
  [WY_OP_INHERIT] = HANDLE_IN,
  [WY_OP_EXEC_FD] = HANDLE_IN | LISTS_EXEC | LAST,
  [WY_OP_DOMAINNAME] = T0,
  [WY_OP_UMASK] = 0,
  [WY_OP_PERSONALITY] = 0,
  [WY_OP_KEYRING] = T0,
  [WY_OP_STDIO_OWNER] = 0,
  [WY_OP_WRITE] = HANDLE_IN | T0 | T1,
  [WY_OP_MKNOD] = T0,
  [WY_OP_SYMLINK] = T0 | T1,
  [WY_OP_MASK] = HANDLE_IN | T0,
  [WY_OP_CONSOLE] = HANDLE_IN,
  [WY_OP_CHECK_PROGRAM] = LIST_T0,
  [WY_OP_WAIT] = HANDLE_IN | INIT,
  [WY_OP_HOOK] = LISTS_EXEC | T3 | INIT,
  [WY_OP_SETATTR] = HANDLE_IN,
  [WY_OP_KEEP_FDS] = 0,
  [WY_OP_COPY_UP] = HANDLE_IN | T0 | INIT,
  [WY_OP_CHROOT] = 0,
  [WY_OP_SCHEDULER] = BLOB_T0,
  [WY_OP_IO_PRIORITY] = 0,
  [WY_OP_HOME] = INIT,
  [WY_OP_SECCOMP_LISTEN] = HANDLE_IN | BLOB_T0 | T1 | T2 | INIT,
  [WY_OP_ASIDE] = CALLER,
};

struct check
{
  const struct wy_plan *plan;
  const char *text;
  uint32_t text_size;
  bool made[WY_HANDLES_MAX];
  bool in_child;
  uint32_t aside; /* operations left of the current WY_OP_ASIDE */
  struct wy_error *err;
};

static int
refuse (struct check *c, int op, int code, const char *what)
{
  c->err->code = code;
  c->err->op = op;
  strncpy (c->err->call, what, sizeof c->err->call - 1);
  c->err->call[sizeof c->err->call - 1] = '\0';
  return -1;
}

/* Are COUNT consecutive texts from OFFSET all inside the area? The area ends with a NUL (checked once), so a
 * text that begins inside it also ends inside it. */
static bool
list_fits (const struct check *c, uint32_t offset, uint64_t count)
{
  if (count > WY_LIST_MAX)
    return false;
  for (uint64_t i = 0; i < count; i++)
    {
      if (offset >= c->text_size)
        return false;
      offset += (uint32_t)strlen (c->text + offset) + 1;
    }
  return true;
}

/* The kernel reads blobs as arrays of up to 8-byte words; the encoder aligns them. */
static bool
blob_fits (const struct check *c, uint32_t offset, uint64_t size)
{
  return offset % 8 == 0 && offset <= c->text_size && size <= c->text_size - offset;
}

static const char *
handle_fault (struct check *c, const struct wy_op *op, uint16_t uses)
{
  if (uses & HANDLE_IN && (op->handle >= c->plan->handle_count || !c->made[op->handle]))
    return "handle";
  bool from = (uses & FROM_IN && op->from != WY_HANDLE_NONE) || op->flags & WY_IDMAP_HANDLE;
  if (from && (op->from >= c->plan->handle_count || !c->made[op->from]))
    return "from";
  if (uses & HANDLE_OUT)
    {
      if (op->handle >= c->plan->handle_count || c->made[op->handle])
        return "handle";
      c->made[op->handle] = true;
    }
  return NULL;
}

static const char *
content_fault (const struct check *c, const struct wy_op *op, uint16_t uses)
{
  for (unsigned i = 0; i < 4; i++)
    if (uses & (T0 << i) && op->text[i] >= c->text_size)
      return "text";
  if (uses & LIST_T1 && !list_fits (c, op->text[1], op->num))
    return "list";
  if (uses & LIST_T0 && (op->num == 0 || !list_fits (c, op->text[0], op->num)))
    return "list";
  if (uses & BLOB_T0
      && (op->num % 8 != 0 || op->num / 8 > 4096 || op->num == 0 || !blob_fits (c, op->text[0], op->num)))
    return "blob";
  if (uses & IDS_T0 && (op->from > 65536 || !blob_fits (c, op->text[0], (uint64_t)op->from * 4)))
    return "ids";
  if (uses & SETS_T0 && !blob_fits (c, op->text[0], 40))
    return "sets";
  if (uses & LISTS_EXEC
      && (op->num == 0 || op->num2 == 0 || !list_fits (c, op->text[0], op->num)
          || !list_fits (c, op->text[1], op->num2) || !list_fits (c, op->text[2], op->wide)))
    return "exec lists";
  return NULL;
}

static const char *
meaning_fault (const struct check *c, const struct wy_op *op)
{
  if (op->flags & WY_IDMAP && c->plan->idmap_fd < 0)
    return "idmap without map";
  if (op->kind == WY_OP_STDIO && op->num > 2)
    return "stdio number";
  if (op->kind == WY_OP_KEEP_FDS && op->num > WY_LIST_MAX)
    return "descriptor count";
  if (op->kind == WY_OP_USER_MAPS && !(c->plan->clone_flags & CLONE_NEWUSER))
    return "maps without userns";
  /* Not in clone flags: a time namespace's offsets must be written before a process is in it. */
  if ((op->kind == WY_OP_UNSHARE || op->kind == WY_OP_SETNS)
      && op->wide & ~(uint64_t)(NAMESPACES | CLONE_NEWTIME))
    return "namespace flags";
  /* The kernel reads as much as the first word says (sched_setattr(2), SCHED_ATTR_SIZE_VER0). */
  if (op->kind == WY_OP_SCHEDULER
      && (op->num < 48 || *(const uint32_t *)(const void *)(c->text + op->text[0]) != op->num))
    return "scheduler size";
  if (op->kind == WY_OP_ASIDE && op->num == 0)
    return "nothing aside";
  if (op->flags & WY_IDMAP_HANDLE && op->kind != WY_OP_TREE)
    return "idmap of no tree";
  return NULL;
}

/* Is OP allowed at this position? */
static const char *
order_fault (struct check *c, const struct wy_op *op)
{
  bool callers = (uses_of[op->kind] & CALLER) != 0;
  if (c->aside > 0)
    {
      c->aside--;
      bool mounts = op->kind == WY_OP_PROPAGATION || op->kind == WY_OP_FSMOUNT || op->kind == WY_OP_MKDIR
                    || op->kind == WY_OP_FCHDIR || op->kind == WY_OP_ATTACH || op->kind == WY_OP_MOUNT
                    || op->kind == WY_OP_SUBTREE;
      return mounts ? NULL : "aside";
    }
  if (callers && c->in_child)
    return "order";
  c->in_child = !callers;
  c->aside = op->kind == WY_OP_ASIDE ? op->num : 0;
  return NULL;
}

static int
check_ops (struct check *c, const struct wy_op *ops)
{
  for (uint32_t i = 0; i < c->plan->op_count; i++)
    {
      const struct wy_op *op = &ops[i];
      if (op->kind == 0 || op->kind >= WY_OP_KINDS)
        return refuse (c, (int)i, EINVAL, "kind");
      uint16_t uses = uses_of[op->kind];
      const char *fault = order_fault (c, op);
      if (fault == NULL)
        fault = handle_fault (c, op, uses);
      if (fault == NULL)
        fault = content_fault (c, op, uses);
      if (fault == NULL)
        fault = meaning_fault (c, op);
      if (fault != NULL)
        return refuse (c, (int)i, EINVAL, fault);
      if (((uses & LAST) != 0) != (i == c->plan->op_count - 1))
        return refuse (c, (int)i, EINVAL, "exec must be last");
    }
  return 0;
}

bool
wy_op_is_callers (uint32_t kind)
{
  return (uses_of[kind] & CALLER) != 0;
}

bool
wy_op_is_inits (uint32_t kind)
{
  return (uses_of[kind] & INIT) != 0;
}

uint32_t
wy_abi (void)
{
  return WY_ABI;
}

uint64_t
wy_sizeof (uint32_t what)
{
  static const uint64_t sizes[] = { sizeof (struct wy_plan), sizeof (struct wy_op), sizeof (struct wy_child),
                                    sizeof (struct wy_error), sizeof (struct wy_exit) };
  return what < sizeof sizes / sizeof *sizes ? sizes[what] : 0;
}

int
wy_plan_check (const uint8_t *buffer, uint64_t size, struct wy_error *err)
{
  const struct wy_plan *plan = (const struct wy_plan *)(const void *)buffer;
  struct check c = { .plan = plan, .err = err };
  *err = (struct wy_error){ .op = -1 };
  if (size > WY_PLAN_SIZE_MAX)
    return refuse (&c, -1, E2BIG, "plan size");
  if (size < sizeof *plan || (uintptr_t)buffer % 8 != 0)
    return refuse (&c, -1, EINVAL, "plan header");
  if (plan->magic != WY_PLAN_MAGIC || plan->abi != WY_ABI)
    return refuse (&c, -1, EINVAL, "plan abi");
  if (plan->size != size || plan->op_count == 0 || plan->op_count > WY_OPS_MAX
      || plan->handle_count > WY_HANDLES_MAX)
    return refuse (&c, -1, EINVAL, "plan counts");
  uint64_t ops_end = sizeof *plan + (uint64_t)plan->op_count * sizeof (struct wy_op);
  if (plan->text_offset < ops_end || plan->text_offset >= size || plan->text_offset % 8 != 0)
    return refuse (&c, -1, EINVAL, "plan text offset");
  if (plan->clone_flags & ~(uint64_t)NAMESPACES)
    return refuse (&c, -1, EINVAL, "plan clone flags");
  if (plan->clone_flags & CLONE_NEWUSER
      && (plan->id_count == 0 || plan->id_base > UINT32_MAX - plan->id_count))
    return refuse (&c, -1, EINVAL, "plan id range");
  c.text = (const char *)buffer + plan->text_offset;
  c.text_size = (uint32_t)(size - plan->text_offset);
  if (c.text[0] != '\0' || c.text[c.text_size - 1] != '\0')
    return refuse (&c, -1, EINVAL, "plan text area");
  return check_ops (&c, (const struct wy_op *)(const void *)(buffer + sizeof *plan));
}
