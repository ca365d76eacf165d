/* start-test.c - a starter that is killed in the middle of a start leaves no program running.
 * Prints TAP; needs no privileges: the plan has no namespaces. Two fifos hold up the child of wy_start: at
 * the first it reports its arrival, at the second it waits until its starter is dead. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stage.h"
#include "tap.h"

enum
{
  OPS = 5,
  TEXT = 64,
  PATIENCE_MS = 60000
};

struct sample
{
  struct wy_plan plan;
  struct wy_op ops[OPS];
  char text[TEXT];
};

/* Write to the fifos "a" and "b" in FOLDER, set the death signal, then run "echo ran". */
static struct sample
plan_in (int folder)
{
  struct sample s = { 0 };
  s.plan = (struct wy_plan){ .magic = WY_PLAN_MAGIC,
                             .abi = WY_ABI,
                             .size = sizeof s,
                             .op_count = OPS,
                             .text_offset = offsetof (struct sample, text),
                             .handle_count = 1,
                             .cgroup_fd = -1,
                             .idmap_fd = -1,
                             .netns_fd = -1 };
  memcpy (s.text, "\0a\0b\0/bin/echo\0ran", 19);
  s.ops[0] = (struct wy_op){ .kind = WY_OP_FD, .handle = 0, .num = (uint32_t)folder };
  s.ops[1] = (struct wy_op){ .kind = WY_OP_WRITE, .handle = 0, .text = { 1, 1 } };
  s.ops[2] = (struct wy_op){ .kind = WY_OP_WRITE, .handle = 0, .text = { 3, 3 } };
  s.ops[3] = (struct wy_op){ .kind = WY_OP_PARENT_DEATH, .num = SIGKILL };
  s.ops[4] = (struct wy_op){ .kind = WY_OP_EXEC, .num = 1, .num2 = 2, .text = { 5, 5 } };
  return s;
}

/* Does not block until a writer opens it. */
static int
open_fifo (int folder, const char *name)
{
  return openat (folder, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

_Noreturn static void
be_starter (int folder, int output)
{
  struct sample s = plan_in (folder);
  struct wy_child child;
  struct wy_error err;
  dup2 (output, 1);
  if (wy_start ((const uint8_t *)&s, sizeof s, 0, &child, &err) == 0)
    waitpid (child.pid, NULL, __WALL);
  _exit (0);
}

/* Read the output of a start whose starter is killed, if KILLED, before the last operations. */
static ssize_t
start_and_listen (int folder, int killed, char *said, size_t room)
{
  int output[2], first = open_fifo (folder, "a"), second = killed ? -1 : open_fifo (folder, "b");
  struct pollfd there = { .fd = first, .events = POLLIN };
  if (first < 0 || pipe2 (output, O_CLOEXEC) < 0)
    return -1;
  fflush (stdout);
  pid_t starter = fork ();
  if (starter == 0)
    be_starter (folder, output[1]);
  close (output[1]);
  poll (&there, 1, PATIENCE_MS);
  if (killed)
    {
      kill (starter, SIGKILL);
      waitpid (starter, NULL, 0);
      second = open_fifo (folder, "b");
    }
  ssize_t size = 0, got;
  while ((got = read (output[0], said + size, room - (size_t)size)) > 0)
    size += got;
  if (!killed)
    waitpid (starter, NULL, 0);
  close (output[0]);
  close (first);
  close (second);
  return size;
}

static void
test_waiting_for_maps (void)
{
  struct wy_error err;
  struct sample s = plan_in (0);
  struct wy_stage stage = wy_stage_of ((const uint8_t *)&s, &err);
  struct wy_op op = { .kind = WY_OP_USER_MAPS };
  stage.starter = FUTEX_OWNER_DIED;
  expect (wy_do_maps (&stage, &op) == -ESRCH, "a child does not wait for the id maps of a dead starter");
  stage.maps_written = 1;
  expect (wy_do_maps (&stage, &op) == 0, "and takes those that were written before");
}

int
main (void)
{
  char path[] = "/tmp/wherry-start-XXXXXX", said[16];
  if (mkdtemp (path) == NULL)
    return 1;
  int folder = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0 || mkfifoat (folder, "a", 0600) < 0 || mkfifoat (folder, "b", 0600) < 0)
    return 1;
  expect (start_and_listen (folder, 0, said, sizeof said) == 4 && memcmp (said, "ran\n", 4) == 0,
          "a program runs whose starter lives");
  expect (start_and_listen (folder, 1, said, sizeof said) == 0,
          "none runs whose starter was killed before the end of the start");
  test_waiting_for_maps ();
  unlinkat (folder, "a", 0);
  unlinkat (folder, "b", 0);
  close (folder);
  rmdir (path);
  return finish ();
}
