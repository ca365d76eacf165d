/* op_identity.c - who the process is and what it may do: ids, capabilities, filters, names.
 *
 * The plan decides the order, which matters to the kernel: capabilities leave the bounding set
 * while the process still has CAP_SETPCAP, ids change while it has CAP_SETUID, and the seccomp
 * filter comes last because it may forbid all of this.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>

#include "stage.h"
#include "sys.h"

#define LAST_CAPABILITY_MAX 63

int
wy_do_setup_ids (struct wy_stage *stage, const struct wy_op *op)
{
  (void)op;
  long result = wy_sys (SYS_setgroups, 0, NULL);
  if (result < 0)
    return wy_fail (stage, "setgroups", result);
  result = wy_sys (SYS_setresgid, 0, 0, 0);
  if (result < 0)
    return wy_fail (stage, "setresgid", result);
  result = wy_sys (SYS_setresuid, 0, 0, 0);
  return result < 0 ? wy_fail (stage, "setresuid", result) : 0;
}

int
wy_do_ids (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_setgroups, op->from, wy_text (stage, op->text[0]));
  if (result < 0)
    return wy_fail (stage, "setgroups", result);
  result = wy_sys (SYS_setresgid, op->num2, op->num2, op->num2);
  if (result < 0)
    return wy_fail (stage, "setresgid", result);
  /* Leaving uid 0 would empty the permitted set before WY_OP_CAPABILITIES has set it. */
  result = wy_sys (SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
  if (result < 0)
    return wy_fail (stage, "prctl", result);
  result = wy_sys (SYS_setresuid, op->num, op->num, op->num);
  return result < 0 ? wy_fail (stage, "setresuid", result) : 0;
}

static long
drop_bounding (uint64_t keep)
{
  for (unsigned long cap = 0; cap <= LAST_CAPABILITY_MAX; cap++)
    {
      if (keep >> cap & 1)
        continue;
      long result = wy_sys (SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
      if (result == -EINVAL)
        break; /* past the last capability that this kernel knows */
      if (result < 0)
        return result;
    }
  return 0;
}

static long
raise_ambient (uint64_t ambient)
{
  long result = wy_sys (SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  for (unsigned long cap = 0; result >= 0 && cap <= LAST_CAPABILITY_MAX; cap++)
    if (ambient >> cap & 1)
      result = wy_sys (SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
  return result;
}

/* Leaving uid 0 kept the permitted set (PR_SET_KEEPCAPS) but emptied the effective one, and the
 * bounding set needs CAP_SETPCAP in effect (capabilities(7)). */
static long
raise_effective (struct __user_cap_header_struct *header, struct __user_cap_data_struct data[2])
{
  long result = wy_sys (SYS_capget, header, data);
  if (result < 0)
    return result;
  for (unsigned i = 0; i < 2; i++)
    data[i].effective = data[i].permitted;
  return wy_sys (SYS_capset, header, data);
}

int
wy_do_capabilities (struct wy_stage *stage, const struct wy_op *op)
{
  enum
  {
    BOUNDING,
    PERMITTED,
    INHERITABLE,
    EFFECTIVE,
    AMBIENT
  };
  const uint64_t *sets = (const uint64_t *)(const void *)wy_text (stage, op->text[0]);
  struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3, .pid = 0 };
  struct __user_cap_data_struct data[2];
  long result = raise_effective (&header, data);
  if (result < 0)
    return wy_fail (stage, "capset", result);
  result = drop_bounding (sets[BOUNDING]);
  if (result < 0)
    return wy_fail (stage, "prctl(CAPBSET_DROP)", result);
  for (unsigned i = 0; i < 2; i++)
    {
      data[i].permitted = (uint32_t)(sets[PERMITTED] >> (32 * i));
      data[i].inheritable = (uint32_t)(sets[INHERITABLE] >> (32 * i));
      data[i].effective = (uint32_t)(sets[EFFECTIVE] >> (32 * i));
    }
  result = wy_sys (SYS_capset, &header, data);
  if (result < 0)
    return wy_fail (stage, "capset", result);
  result = raise_ambient (sets[AMBIENT]);
  return result < 0 ? wy_fail (stage, "prctl(CAP_AMBIENT)", result) : 0;
}

int
wy_do_no_new_privs (struct wy_stage *stage, const struct wy_op *op)
{
  (void)op;
  long result = wy_sys (SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  return result < 0 ? wy_fail (stage, "prctl(NO_NEW_PRIVS)", result) : 0;
}

int
wy_do_seccomp (struct wy_stage *stage, const struct wy_op *op)
{
  struct sock_fprog program = { .len = (unsigned short)(op->num / sizeof (struct sock_filter)),
                                .filter = (struct sock_filter *)(uintptr_t)wy_text (stage, op->text[0]) };
  long result = wy_sys (SYS_seccomp, SECCOMP_SET_MODE_FILTER, op->num2, &program);
  return result < 0 ? wy_fail (stage, "seccomp", result) : 0;
}

int
wy_do_unshare (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_unshare, op->wide);
  return result < 0 ? wy_fail (stage, "unshare", result) : 0;
}

int
wy_do_hostname (struct wy_stage *stage, const struct wy_op *op)
{
  const char *name = wy_text (stage, op->text[0]);
  long result = wy_sys (SYS_sethostname, name, wy_next (name) - name - 1);
  return result < 0 ? wy_fail (stage, "sethostname", result) : 0;
}

int
wy_do_domainname (struct wy_stage *stage, const struct wy_op *op)
{
  const char *name = wy_text (stage, op->text[0]);
  long result = wy_sys (SYS_setdomainname, name, wy_next (name) - name - 1);
  return result < 0 ? wy_fail (stage, "setdomainname", result) : 0;
}

/* The container must not see the caller's keys. A kernel without keyrings has none to hide. */
int
wy_do_keyring (struct wy_stage *stage, const struct wy_op *op)
{
  enum
  {
    JOIN_SESSION_KEYRING = 1
  };
  long result = wy_sys (SYS_keyctl, JOIN_SESSION_KEYRING, wy_text (stage, op->text[0]));
  return result < 0 && result != -ENOSYS ? wy_fail (stage, "keyctl", result) : 0;
}

int
wy_do_setns (struct wy_stage *stage, const struct wy_op *op)
{
  long result = wy_sys (SYS_setns, stage->fds[op->handle], op->wide);
  return result < 0 ? wy_fail (stage, "setns", result) : 0;
}

/* setns(2) to a pid namespace does not move the caller: it sets where its children start. The caller's thread
 * switches for the duration of the clone, and back in wy_stage_release. */
int
wy_prepare_pid_namespace (struct wy_stage *stage, const struct wy_op *op)
{
  if (stage->own_pidns >= 0)
    return wy_fail (stage, "two pid namespaces", -EINVAL);
  long fd = wy_sys (SYS_open, "/proc/thread-self/ns/pid_for_children", O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return wy_fail (stage, "open", fd);
  stage->own_pidns = (int)fd;
  long result = wy_sys (SYS_setns, stage->fds[op->handle], CLONE_NEWPID);
  return result < 0 ? wy_fail (stage, "setns", result) : 0;
}

int
wy_do_loopback (struct wy_stage *stage, const struct wy_op *op)
{
  (void)op;
  const char *call = "";
  int result = wy_loopback_up (&call);
  return result < 0 ? wy_fail (stage, call, result) : 0;
}
