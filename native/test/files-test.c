/* files-test.c - reading and writing many small files in one call, and lock files.
 * Prints TAP; works in a temporary folder. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tap.h"
#include "wherry.h"

int
main (void)
{
  static const char both[] = "a\0"
                             "12\0"
                             "b\0"
                             "three",
                    paths[] = "a\0"
                              "b",
                    missing[] = "a\0"
                                "c\0"
                                "b";
  char folder[] = "/tmp/wherry-files-XXXXXX", out[64] = { 0 };
  uint32_t failed = 9;
  if (mkdtemp (folder) == NULL || chdir (folder) != 0)
    return 1;
  expect (wy_write_files (both, sizeof both, &failed) == -ENOENT && failed == 0,
          "a file is not made, and is named");
  fclose (fopen ("a", "w"));
  expect (wy_write_files (both, sizeof both, &failed) == -ENOENT && failed == 1,
          "the second file that fails is named as such");
  fclose (fopen ("b", "w"));
  expect (wy_write_files (both, sizeof both, &failed) == 0, "both are written");
  expect (wy_read_files (paths, sizeof paths, out, sizeof out, &failed) == 9
              && memcmp (out, "12\0three", 9) == 0,
          "both are read, in order");
  expect (wy_read_files (missing, sizeof missing, out, sizeof out, &failed) == -ENOENT && failed == 1,
          "one that is missing is named");
  expect (wy_read_files (paths, sizeof paths, out, 5, &failed) == 5 && memcmp (out, "12\0t", 5) == 0,
          "what does not fit is cut");
  expect (wy_read_files (paths, sizeof paths, out, 3, &failed) == -E2BIG && failed == 1,
          "no room at all is an error");
  expect (wy_read_files (paths, sizeof paths - 1, out, sizeof out, &failed) == -EINVAL,
          "a list without an end is refused");
  expect (wy_write_files (both, sizeof both - 1, &failed) == -EINVAL && failed == 1,
          "a text without an end is refused");
  expect (wy_write_files (both, 2, &failed) == -EINVAL, "a path without a text is refused");
  expect (wy_read_files (NULL, 0, out, sizeof out, &failed) == 0, "no file is no error");
  int lock = wy_lock_file ("l");
  expect (lock >= 0 && wy_lock_file ("l") == -EAGAIN, "a lock is held, until");
  close (lock);
  lock = wy_lock_file ("l");
  expect (lock >= 0, "its descriptor is closed");
  close (lock);
  unlink ("l");
  unlink ("a");
  unlink ("b");
  rmdir (folder);
  return finish ();
}
