/* probe-agent.c - a verb that decides on other programs' system calls: a seccomp agent of the OCI runtime
 * spec. It runs outside of containers, listens, prints the states it receives, and answers every waiting
 * call. */
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

#define STATE_SIZE (1u << 20)

/* Print the text received over CONNECTION up to its end. Return: the descriptor received with it, or -1. */
static int
receive_state (int connection)
{
  static char text[STATE_SIZE];
  int fd = -1;
  ssize_t got;
  do
    {
      union
      {
        char room[CMSG_SPACE (sizeof (int))];
        struct cmsghdr align;
      } control;
      struct iovec data = { .iov_base = text, .iov_len = sizeof text };
      struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room
      };
      got = recvmsg (connection, &message, MSG_CMSG_CLOEXEC);
      struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR (&message) : NULL;
      if (header != NULL && header->cmsg_type == SCM_RIGHTS)
        memcpy (&fd, CMSG_DATA (header), sizeof fd);
      if (got > 0)
        fwrite (text, 1, (size_t)got, stdout);
    }
  while (got > 0);
  putchar ('\n');
  fflush (stdout);
  return fd;
}

/* Fail mkdir(2) with ENOMSG and let everything else continue, until no process is left under the filter. */
static void
answer_calls (int listener)
{
  struct pollfd calls = { .fd = listener, .events = POLLIN };
  while (poll (&calls, 1, -1) > 0 && !(calls.revents & POLLHUP))
    {
      struct seccomp_notif call = { 0 };
      if (ioctl (listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
        continue;
      struct seccomp_notif_resp answer = { .id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };
      if (call.data.nr == SYS_mkdirat
#ifdef SYS_mkdir
          || call.data.nr == SYS_mkdir
#endif
      )
        answer = (struct seccomp_notif_resp){ .id = call.id, .error = -ENOMSG };
      ioctl (listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
      printf ("call %d\n", call.data.nr);
      fflush (stdout);
    }
}

/* agent PATH N: listen at PATH, serve N processes. */
static int
do_agent (char **argv)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  strncpy (address.sun_path, argv[0], sizeof address.sun_path - 1);
  int socket_fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind (socket_fd, (struct sockaddr *)&address, sizeof address) < 0 || listen (socket_fd, 8) < 0)
    return say (-1);
  puts ("ready");
  fflush (stdout);
  for (int left = argv[1][0] - '0'; left > 0; left--)
    {
      int connection = accept4 (socket_fd, NULL, NULL, SOCK_CLOEXEC);
      if (fork () == 0)
        {
          int listener = receive_state (connection);
          if (listener >= 0)
            answer_calls (listener);
          return 0;
        }
      close (connection);
    }
  while (wait (NULL) > 0)
    continue;
  return 0;
}

const struct verb agent_verbs[] = { { "agent", do_agent, 2 }, { NULL, NULL, 0 } };
