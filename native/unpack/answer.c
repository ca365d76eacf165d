/* The one line that a process of wherry-unpack writes before it exits.
 *
 * An error can occur at any depth, the worker discards the directory in every case but "ok", and nothing
 * outlives the process; so errors do not propagate, they exit. Names come from the archive: control
 * characters are shown as \xNN so that a line stays one line. */

#include "unpack.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const verdict_words[] = { "ok", "system", "usage", "unsafe", "limit", "invalid" };

/* The process that reads this process's answer; 0: the worker. */
static pid_t reader;

/* PID is the child that reads this process's answer and must be reaped. */
void
wy_answer_before (pid_t pid)
{
  reader = pid;
}

/* The reader exits at the end of its input and output; reap it, so that no zombie is left. */
wy_noreturn static void
end (enum wy_verdict verdict)
{
  close (STDIN_FILENO);
  close (STDOUT_FILENO);
  if (reader > 0)
    while (waitpid (reader, NULL, 0) < 0 && errno == EINTR)
      ;
  _exit ((int)verdict);
}

/* Write "ok ENTRIES BYTES DROPPED" and exit. */
wy_noreturn void
wy_answer_ok (const struct wy_unpack *u)
{
  (void)dprintf (STDOUT_FILENO, "ok %llu %llu %llu\n", (unsigned long long)u->entries,
                 (unsigned long long)u->stream.total, (unsigned long long)u->dropped);
  end (WY_OK);
}

/* Write 'VERDICT "NAME" REASON' and exit. */
wy_noreturn void
wy_refuse (enum wy_verdict verdict, const char *name, const char *reason)
{
  char shown[WY_SHOWN_CAP];
  wy_show (shown, name);
  (void)dprintf (STDOUT_FILENO, "%s \"%s\" %s\n", verdict_words[verdict], shown, reason);
  end (verdict);
}

/* The kernel refused CALL (errno says why) while NAME was handled: "system ERRNO CALL NAME". */
wy_noreturn void
wy_fail (const char *call, const char *name)
{
  char shown[WY_SHOWN_CAP];
  const char *error = strerrorname_np (errno);
  wy_show (shown, name);
  (void)dprintf (STDOUT_FILENO, "system %s %s \"%s\"\n", error == NULL ? "EIO" : error, call, shown);
  end (WY_SYSTEM);
}
