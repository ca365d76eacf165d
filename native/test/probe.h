/* probe.h - what the files of the probe share: a verb is a name and what it does with its arguments. */
#ifndef PROBE_H
#define PROBE_H

#include <stddef.h>

struct verb
{
  const char *name; /* NULL ends a table */
  int (*run) (char **argv);
  int arguments;
};

extern const struct verb load_verbs[], stay_verbs[], socket_verbs[], agent_verbs[];

/* Print "ok", or the name of errno when RESULT is negative.  Return: 0. */
int say (long result);

/* Make the system call that the table of probe-calls.c knows as WHAT. Return: its result; -1 with EDOM for a
 * word unknown. */
long try_call (const char *what);

int do_sleep (char **argv);

#endif
