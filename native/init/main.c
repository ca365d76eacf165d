/* wherry-init - prepares a bundle's container from inside and becomes its program.
 *
 * A child that shares memory with its starter can neither wait nor run hooks. So for a bundle it enters its
 * namespaces and at once executes this static program, a copy in sealed memory that exposes no file of the
 * host. wherry-init receives a plan and its descriptors over the socket whose number is its only argument
 * (src/send.c), performs the plan with the same code as libwherry.so, and executes the container's program.
 * If an operation fails it reports which one, and exits. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stage.h"
#include "sys.h"

#define BATCH 128
#define EXIT_FAILED 127

static int
receive_all (int socket, void *into, size_t size)
{
  ssize_t got;
  do
    got = recv (socket, into, size, MSG_WAITALL);
  while (got < 0 && errno == EINTR);
  return got == (ssize_t)size ? 0 : -EPIPE;
}

/* The plan's bytes; NULL if our starter went away before it sent one. */
static uint8_t *
receive_plan (int socket, uint64_t *size)
{
  struct wy_plan head;
  if (receive_all (socket, &head, sizeof head) < 0 || head.size < sizeof head || head.size > WY_PLAN_SIZE_MAX)
    return NULL;
  uint8_t *plan = aligned_alloc (8, (head.size + 7) & ~7u);
  if (plan == NULL)
    return NULL;
  memcpy (plan, &head, sizeof head);
  if (receive_all (socket, plan + sizeof head, head.size - sizeof head) < 0)
    {
      free (plan);
      return NULL;
    }
  *size = head.size;
  return plan;
}

/* Return: how many were received, at most BATCH; -errno. */
static int
receive_fds (int socket, int fds[BATCH])
{
  char byte;
  union
  {
    char room[CMSG_SPACE (sizeof (int) * BATCH)];
    struct cmsghdr align;
  } control;
  struct iovec data = { .iov_base = &byte, .iov_len = 1 };
  struct msghdr message = {
    .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room
  };
  ssize_t got = recvmsg (socket, &message, MSG_CMSG_CLOEXEC);
  struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR (&message) : NULL;
  if (header == NULL || header->cmsg_type != SCM_RIGHTS || message.msg_flags & MSG_CTRUNC)
    return got < 0 ? -errno : -EPIPE;
  size_t size = header->cmsg_len - CMSG_LEN (0);
  memcpy (fds, CMSG_DATA (header), size);
  return (int)(size / sizeof (int));
}

/* The caller has performed its operations; their descriptors arrive in the same order. */
static int
fill_handles (struct wy_stage *stage, int socket)
{
  int fds[BATCH], count = 0, next = 0;
  for (uint32_t i = 0; i < stage->plan->op_count && wy_op_is_callers (stage->ops[i].kind); i++)
    {
      if (next == count)
        {
          next = 0;
          count = receive_fds (socket, fds);
          if (count <= 0)
            return wy_fail (stage, "recvmsg", count < 0 ? count : -EPIPE);
        }
      stage->fds[stage->ops[i].handle] = fds[next++];
    }
  return 0;
}

static int
perform (struct wy_stage *stage)
{
  for (uint32_t i = 0; i < stage->plan->op_count; i++)
    {
      const struct wy_op *op = &stage->ops[i];
      const struct wy_op_entry *entry = &wy_op_table[op->kind];
      if (wy_op_is_callers (op->kind))
        continue;
      if ((entry->prepare != NULL && entry->prepare (stage, op) < 0)
          || (entry->perform != NULL && entry->perform (stage, op) < 0))
        {
          stage->err->op = (int32_t)i;
          return -1;
        }
    }
  return -1;
}

int
main (int argc, char **argv)
{
  struct wy_error err;
  uint64_t size = 0;
  int control = argc == 2 ? atoi (argv[1]) : -1;
  /* Processes in our pid namespace must not open our descriptors (CVE-2016-9962); exec undoes this. */
  prctl (PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (control < 3 || fcntl (control, F_SETFD, FD_CLOEXEC) < 0)
    {
      fputs ("wherry-init: this program is for wherry-oci\n", stderr);
      return EXIT_FAILED;
    }
  uint8_t *plan = receive_plan (control, &size);
  if (plan == NULL)
    return EXIT_FAILED;
  struct wy_stage stage = wy_stage_of (plan, &err);
  stage.report = control;
  if (wy_plan_check (plan, size, &err) == 0 && fill_handles (&stage, control) == 0)
    perform (&stage);
  wy_sys (SYS_sendto, stage.report, &err, sizeof err, MSG_NOSIGNAL, NULL, 0);
  return EXIT_FAILED;
}
