/* Standard output of list and pack. */
#include "layer.h"

#include <unistd.h>

void
wy_put (const void *bytes, size_t size)
{
  if (size > 0 && fwrite (bytes, 1, size, stdout) != size)
    wy_fail ("write", "");
}

/* Write SIZE bytes of FD; SHOWN is its name in messages. */
void
wy_put_file (int fd, uint64_t size, const char *shown)
{
  static char buffer[256 * 1024];
  for (uint64_t left = size; left > 0;)
    {
      ssize_t got = read (fd, buffer, left < sizeof buffer ? (size_t)left : sizeof buffer);
      if (got < 0)
        wy_fail ("read", shown);
      if (got == 0)
        wy_refuse (shown, "became shorter while it was read");
      wy_put (buffer, (size_t)got);
      left -= (uint64_t)got;
    }
}
