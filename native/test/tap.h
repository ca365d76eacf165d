/* tap.h - output of a test program as TAP (testanything.org), for programs of one source file. */
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

/* Print the plan, after all results. Return: the program's exit code. */
static int
finish (void)
{
  printf ("1..%d\n", count);
  return failures != 0;
}

#endif
