/* probe-stay.c - processes that are hard to end; a container's end must end them all. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

/* A grandchild that outlives the call: fork, let the child sleep, exit. */
static int
do_leave_child (char **argv)
{
  (void)argv;
  if (fork () == 0)
    {
      sleep (60);
      _exit (0);
    }
  return say (0);
}

static int ready[2];

static void
be_ready (void)
{
  if (write (ready[1], "x", 1) != 1)
    _exit (1);
}

static void
stay_for_ever (void)
{
  be_ready ();
  for (;;)
    pause ();
}

/* Detached from its parent, its session and its terminal, as a daemon. */
static void
stay_as_daemon (void)
{
  if (fork () > 0)
    _exit (0);
  setsid ();
  if (fork () > 0)
    _exit (0);
  stay_for_ever ();
}

static void
stay_deaf (void)
{
  sigset_t all;
  sigfillset (&all);
  for (int number = 1; number < NSIG; number++)
    signal (number, SIG_IGN);
  sigprocmask (SIG_SETMASK, &all, NULL);
  stay_for_ever ();
}

static void
stay_stopped (void)
{
  be_ready ();
  raise (SIGSTOP);
  stay_for_ever ();
}

/* The parent of a vfork sleeps in the kernel until its child releases the memory. */
static void
stay_in_vfork (void)
{
  if (vfork () == 0)
    stay_for_ever ();
}

static void
stay_busy (void)
{
  be_ready ();
  for (;;)
    continue;
}

/* A zombie, and its parent. */
static void
stay_with_zombie (void)
{
  if (fork () == 0)
    _exit (0);
  stay_for_ever ();
}

/* stay HOW: one process of each kind; once all are running the first one exits ("exit"), aborts ("crash"),
 * or waits. */
static int
do_stay (char **argv)
{
  static void (*const kinds[]) (void) = { stay_for_ever, stay_as_daemon, stay_deaf,       stay_stopped,
                                          stay_in_vfork, stay_busy,      stay_with_zombie };
  char byte;
  if (pipe (ready) < 0)
    return say (-1);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (fork () == 0)
      kinds[i]();
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (read (ready[0], &byte, 1) != 1)
      return say (-1);
  say (0);
  fflush (stdout);
  if (strcmp (argv[0], "crash") == 0)
    __builtin_trap ();
  return strcmp (argv[0], "exit") == 0 ? 3 : do_sleep ((char *[]){ "600000" });
}

/* deaf: the first process, with every signal ignored and blocked. */
static int
do_deaf (char **argv)
{
  (void)argv;
  if (pipe (ready) < 0)
    return say (-1);
  stay_deaf ();
  return 0;
}

/* stopped: stops itself, which the first process of a pid namespace cannot do. */
static int
do_stopped (char **argv)
{
  (void)argv;
  raise (SIGSTOP);
  return say (0);
}

const struct verb stay_verbs[] = {
  { "leave-child", do_leave_child, 0 }, { "stay", do_stay, 1 }, { "deaf", do_deaf, 0 },
  { "stopped", do_stopped, 0 },         { NULL, NULL, 0 },
};
