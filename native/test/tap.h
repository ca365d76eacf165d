/* tap.h - what a test program says, as TAP (testanything.org).  For one source file per program. */
#ifndef TAP_H
#define TAP_H

#include <stdio.h>

static int failures, count;

static void
expect (int passed, const char *what)
{
  count++;
  failures += !passed;
  printf ("%s %d - %s\n", passed ? "ok" : "not ok", count, what);
}

/* The plan, behind all of it.  Return: the program's exit code. */
static int
finish (void)
{
  printf ("1..%d\n", count);
  return failures != 0;
}

#endif
