/* wherry-unpack: one packed image layer from standard input into one empty directory.
 *
 *   wherry-unpack DIR COMPRESSION STREAM_BYTES ENTRIES FILE_BYTES PATH_BYTES DEPTH PAX_BYTES RATIO
 *   RATIO_FREE_BYTES < layer
 *
 * A layer is an untrusted archive, unpacked by root. So this is a separate program (the worker's event loop
 * stays free, and a vulnerability here is not one of the worker), in C (openat2, xattrs byte for byte), and
 * it does not verify digests: the worker keeps the directory only if the answer has the digest and the diffID
 * of the manifest.
 *
 * Two processes: one inflates and hashes (feed.c, inflate.c), this one creates files from its output.
 *
 * Reading order: confine.c (confinement), feed.c, tar.c and pax.c (bytes to entries), name.c and place.c
 * (names to places), apply.c and whiteout.c (entries to files), times.c, answer.c.
 *
 * Its last line on standard output is "ok ENTRIES BYTES DROPPED DIGEST DIFFID", or a verdict and the reason
 * (answer.c). */

#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Enough for any name in a plain header. */
#define PATH_BYTES_MIN 512u
#define ARGUMENTS 11

static uint64_t
parse_limit (const char *text, uint64_t min, uint64_t max)
{
  char *end;
  errno = 0;
  unsigned long long value = strtoull (text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || value < min || value > max)
    wy_refuse (WY_USAGE, text, "is not a limit");
  return value;
}

static void
prepare (struct wy_unpack *u, char **argv)
{
  u->limits = (struct wy_limits){
    .stream_bytes = parse_limit (argv[3], 0, INT64_MAX),
    .entries = parse_limit (argv[4], 0, INT64_MAX),
    .file_bytes = parse_limit (argv[5], 0, INT64_MAX),
    .path_bytes = parse_limit (argv[6], PATH_BYTES_MIN, 4096),
    .depth = parse_limit (argv[7], 1, 512),
    .pax_bytes = parse_limit (argv[8], 0, 16u * 1024u * 1024u),
    .ratio = parse_limit (argv[9], 1, UINT32_MAX),
    .ratio_free_bytes = parse_limit (argv[10], 0, INT64_MAX),
  };
  wy_stream_init (&u->stream, u->limits.stream_bytes);
  u->entry.name = wy_alloc (u->limits.path_bytes + 2);
  u->entry.link = wy_alloc (u->limits.path_bytes + 2);
  u->entry.pax = wy_alloc (u->limits.pax_bytes + 1);
  u->entry.name[0] = '\0';
  u->parent_name = wy_alloc (u->limits.path_bytes + 2);
  u->parent = -1;
}

int
main (int argc, char **argv)
{
  struct wy_unpack u = { 0 };
  /* After a kill -9 of the worker its successor removes the directory, so this process must not outlive the
   * worker. */
  if (prctl (PR_SET_PDEATHSIG, SIGKILL) < 0)
    wy_fail ("prctl", "");
  if (argc != ARGUMENTS)
    wy_refuse (WY_USAGE, "wherry-unpack", "wants DIR COMPRESSION and eight limits");
  prepare (&u, argv);
  wy_confine (argv[1]);
  wy_feed_start (argv[2], &u.limits);
  u.root = open ("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (u.root < 0)
    wy_fail ("open", argv[1]);
  if (fchmod (u.root, 0755) < 0)
    wy_fail ("fchmod", argv[1]);
  while (wy_tar_next (&u))
    wy_apply (&u);
  wy_times_set (&u);
  /* The parent renames the directory next; its contents must reach the disk before its new name does. */
  if (syncfs (u.root) < 0)
    wy_fail ("syncfs", argv[1]);
  wy_answer_ok (&u);
}
