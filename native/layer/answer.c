/* The one line that wherry-layer writes to standard error before it exits.
 *
 * An error can occur at any depth, the parent discards the output in every case but "ok", and nothing
 * outlives the process; so errors do not propagate, they exit. Names are untrusted: control characters are
 * shown as \xNN so that a line stays one line. */

#include "layer.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static uint64_t entries;

void
wy_answer_ok (uint64_t count)
{
  if (dprintf (STDERR_FILENO, "ok %llu\n", (unsigned long long)count) < 0)
    _exit (WY_SYSTEM);
}

/* Write 'refused "NAME" REASON' and exit. */
wy_noreturn void
wy_refuse (const char *name, const char *reason)
{
  char shown[WY_SHOWN_CAP];
  wy_show (shown, name);
  (void)dprintf (STDERR_FILENO, "refused \"%s\" %s\n", shown, reason);
  _exit (WY_REFUSED);
}

/* The kernel refused CALL (errno says why) while NAME was handled: 'system ERRNO CALL "NAME"'. */
wy_noreturn void
wy_fail (const char *call, const char *name)
{
  char shown[WY_SHOWN_CAP];
  const char *error = strerrorname_np (errno);
  wy_show (shown, name);
  (void)dprintf (STDERR_FILENO, "system %s %s \"%s\"\n", error == NULL ? "EIO" : error, call, shown);
  _exit (WY_SYSTEM);
}

/* Count one more file, directory or link. */
void
wy_count_entry (const char *name)
{
  if (++entries > WY_ENTRIES_MAX)
    wy_refuse (name, "is one file more than a layer may have (1000000)");
}

uint64_t
wy_entries (void)
{
  return entries;
}

/* strdup that does not return NULL. */
char *
wy_copy_text (const char *text)
{
  char *copy = strdup (text);
  if (copy == NULL)
    wy_fail ("malloc", text);
  return copy;
}
