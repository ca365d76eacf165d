/* send.c - sends a plan to a wherry-init: bytes and descriptors over a unix socket.
 *
 * The plan is the one that wy_start takes. Its [p] operations are performed here, where the host's files can
 * be opened. The descriptors that they open are sent in the order of the operations; wherry-init
 * (init/main.c) assigns them to handles and performs the other operations. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stage.h"
#include "sys.h"

/* SCM_MAX_FD of the kernel: the most that one message carries. */
#define BATCH 128

static int
send_all (int socket, const void *data, size_t size)
{
  const char *at = data;
  while (size > 0)
    {
      ssize_t sent = send (socket, at, size, MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR)
        continue;
      if (sent < 0)
        return -errno;
      at += sent;
      size -= (size_t)sent;
    }
  return 0;
}

/* Send COUNT descriptors with one byte: a message without bytes carries no descriptors (unix(7)). */
static int
send_fds (int socket, const int *fds, unsigned count)
{
  char byte = 0;
  union
  {
    char room[CMSG_SPACE (sizeof (int) * BATCH)];
    struct cmsghdr align;
  } control;
  memset (&control, 0, sizeof control);
  struct iovec data = { .iov_base = &byte, .iov_len = 1 };
  struct msghdr message = { .msg_iov = &data,
                            .msg_iovlen = 1,
                            .msg_control = control.room,
                            .msg_controllen = CMSG_SPACE (sizeof (int) * count) };
  struct cmsghdr *header = CMSG_FIRSTHDR (&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN (sizeof (int) * count);
  memcpy (CMSG_DATA (header), fds, sizeof (int) * count);
  return sendmsg (socket, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int
wy_send_fd (int socket, int fd)
{
  return send_fds (socket, &fd, 1);
}

static int
prepare_callers (struct wy_stage *stage, int *made, unsigned *count)
{
  for (uint32_t i = 0; i < stage->plan->op_count; i++)
    {
      const struct wy_op *op = &stage->ops[i];
      if (!wy_op_is_callers (op->kind))
        break; /* they come before all others (plan.c) */
      stage->err->op = (int32_t)i;
      if (op->kind == WY_OP_PID_NAMESPACE || op->kind == WY_OP_ASIDE)
        return wy_fail (stage, "only for a clone", -EINVAL);
      if (wy_op_table[op->kind].prepare (stage, op) < 0)
        return -1;
      made[(*count)++] = stage->fds[op->handle];
    }
  stage->err->op = -1;
  return 0;
}

static int
send_plan (struct wy_stage *stage, int socket, uint64_t size)
{
  int made[WY_HANDLES_MAX];
  unsigned count = 0;
  if (prepare_callers (stage, made, &count) < 0)
    return -1;
  int result = send_all (socket, stage->plan, size);
  for (unsigned at = 0; result >= 0 && at < count; at += BATCH)
    result = send_fds (socket, made + at, count - at < BATCH ? count - at : BATCH);
  return result < 0 ? wy_fail (stage, "send", result) : 0;
}

int
wy_send (int32_t socket, const uint8_t *plan, uint64_t size, struct wy_error *err)
{
  if (wy_plan_check (plan, size, err) < 0)
    return -1;
  struct wy_stage stage = wy_stage_of (plan, err);
  int result = send_plan (&stage, socket, size);
  wy_stage_release (&stage);
  return result < 0 ? -1 : 0;
}

int
wy_report (int32_t socket, struct wy_error *err)
{
  ssize_t got;
  do
    got = recv (socket, err, sizeof *err, MSG_WAITALL);
  while (got < 0 && errno == EINTR);
  if (got == (ssize_t)sizeof *err)
    {
      err->call[sizeof err->call - 1] = '\0';
      return err->code == 0 ? 1 : -1;
    }
  *err = (struct wy_error){ .op = -1 };
  return 0;
}

int
wy_receive_fd (int32_t socket)
{
  char byte;
  union
  {
    char room[CMSG_SPACE (sizeof (int))];
    struct cmsghdr align;
  } control;
  struct iovec data = { .iov_base = &byte, .iov_len = 1 };
  struct msghdr message = {
    .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room
  };
  ssize_t got = recvmsg (socket, &message, MSG_CMSG_CLOEXEC);
  if (got <= 0)
    return got < 0 ? -errno : -EPIPE;
  struct cmsghdr *header = CMSG_FIRSTHDR (&message);
  if (header == NULL || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN (sizeof (int)))
    return -EBADMSG;
  int fd;
  memcpy (&fd, CMSG_DATA (header), sizeof fd);
  /* A write to a terminal blocks until its reader makes room, so make it non-blocking. */
  int flags = fcntl (fd, F_GETFL);
  if (flags < 0 || fcntl (fd, F_SETFL, flags | O_NONBLOCK) < 0)
    {
      int result = -errno;
      close (fd);
      return result;
    }
  return fd;
}
