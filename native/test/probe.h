/* probe.h - shared by the files of the probe: a verb is a name and a function. */
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

/* Make the system call WHAT of the table in probe-calls.c. Return: its result; -1 with EDOM for an unknown
 * name. */
long try_call (const char *what);

int do_sleep (char **argv);

#endif
