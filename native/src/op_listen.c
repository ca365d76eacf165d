/* op_listen.c - a filter with an agent outside that decides on some system calls (seccomp_unotify(2)).
 *
 * The kernel returns the listener to the thread that installs the filter. From then on any of its calls may
 * wait for an answer, sendmsg(2) included. So a second thread, created before and therefore without the
 * filter, sends the listener. The two communicate through shared memory, without system calls; the thread
 * ends before the program is executed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/filter.h>

#include "stage.h"
#include "sys.h"

#define STACK_SIZE (64u << 10)
#define LOOK_NS 200000
#define SEND_MS_MAX 5000
#define PENDING (-0x10000) /* no descriptor, and no -errno */

struct messenger
{
  int socket;
  const char *state;
  volatile int listener; /* PENDING until the filter is installed; then the descriptor, or -errno */
  volatile int result;   /* PENDING until the listener was sent */
};

/* Send as much of TEXT as possible, with FD unless it is negative. Return: bytes sent, or -errno. */
static long
send_some (int socket, const char *text, size_t size, int fd)
{
  union
  {
    char room[CMSG_SPACE (sizeof (int))];
    struct cmsghdr align;
  } control = { .room = { 0 } };
  struct iovec data = { .iov_base = (void *)(uintptr_t)text, .iov_len = size };
  struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };
  if (fd >= 0)
    {
      message.msg_control = control.room;
      message.msg_controllen = sizeof control.room;
      struct cmsghdr *header = CMSG_FIRSTHDR (&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN (sizeof fd);
      *(int *)(void *)CMSG_DATA (header) = fd;
    }
  return wy_sys (SYS_sendmsg, socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Return: 0, or -errno; -ETIMEDOUT if the agent does not read. */
static long
send_state (const struct messenger *messenger, int fd)
{
  const char *at = messenger->state;
  size_t left = (size_t)(wy_next (at) - at) - 1;
  struct pollfd room = { .fd = messenger->socket, .events = POLLOUT };
  const struct timespec patience = { .tv_sec = SEND_MS_MAX / 1000 };
  while (left > 0)
    {
      long sent = send_some (messenger->socket, at, left, fd);
      if (sent == -EAGAIN)
        {
          struct timespec wait = patience;
          long ready = wy_sys (SYS_ppoll, &room, 1, &wait, NULL, 0);
          if (ready <= 0)
            return ready < 0 ? ready : -ETIMEDOUT;
          continue;
        }
      if (sent < 0)
        return sent;
      at += sent;
      left -= (size_t)sent;
      fd = -1;
    }
  return 0;
}

/* You are in the second thread: it shares memory and descriptors, so raw system calls only. */
static int
carry (void *argument)
{
  struct messenger *messenger = argument;
  const struct timespec look = { .tv_nsec = LOOK_NS };
  while (messenger->listener == PENDING)
    wy_sys (SYS_futex, &messenger->listener, FUTEX_WAIT, PENDING, &look, NULL, 0);
  int fd = messenger->listener;
  long result = fd < 0 ? 0 : send_state (messenger, fd);
  wy_close (&fd);
  wy_sys (SYS_close, messenger->socket);
  messenger->result = (int)result;
  return 0;
}

/* clang-format 14 and 19 disagree on inline assembly. */
/* clang-format off */
static inline void
take_breath (void)
{
#if defined(__x86_64__)
  __asm__ volatile ("pause" ::: "memory");
#else
  __asm__ volatile ("yield" ::: "memory");
#endif
}
/* clang-format on */

/* Return: 0, or -errno. */
static long
start_messenger (struct messenger *messenger)
{
  char *stack
      = mmap (NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED)
    return -errno;
  struct clone_args args = {
    .flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
    .stack = (uint64_t)(uintptr_t)stack,
    .stack_size = STACK_SIZE,
  };
  long result = wy_clone_onto_stack (&args, carry, messenger);
  return result < 0 ? result : 0;
}

int
wy_do_seccomp_listen (struct wy_stage *stage, const struct wy_op *op)
{
  struct sock_fprog program = { .len = (unsigned short)(op->num / sizeof (struct sock_filter)),
                                .filter = (struct sock_filter *)(uintptr_t)wy_text (stage, op->text[0]) };
  struct messenger messenger = { .socket = stage->fds[op->handle],
                                 .state = wy_text (stage, op->text[2]),
                                 .listener = PENDING,
                                 .result = PENDING };
  long result = start_messenger (&messenger);
  if (result < 0)
    return wy_fail (stage, "clone3", result);
  long fd
      = wy_sys (SYS_seccomp, SECCOMP_SET_MODE_FILTER, op->num2 | SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  messenger.listener = (int)fd;
  /* No system call from here on: it might wait for the agent, which does not have the listener yet. */
  while (messenger.result == PENDING)
    take_breath ();
  if (fd < 0)
    return wy_fail (stage, "seccomp", fd);
  return messenger.result < 0 ? wy_fail (stage, "sendmsg", messenger.result) : 0;
}
