/* Standard input as a bounded stream. Hands out pieces of its buffer, so that file contents are copied once,
 * from the pipe into the page cache. */

#include "unpack.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES (256u * 1024u)

/* Prepare S to read at most TOTAL_MAX bytes. */
void
wy_stream_init (struct wy_stream *s, uint64_t total_max)
{
  *s = (struct wy_stream){ .buf = wy_alloc (BUFFER_BYTES), .total_max = total_max };
}

static bool
fill (struct wy_stream *s)
{
  ssize_t got;
  do
    got = read (STDIN_FILENO, s->buf, BUFFER_BYTES);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    wy_fail ("read", "");
  s->pos = 0;
  s->end = (size_t)got;
  s->total += (uint64_t)got;
  if (s->total > s->total_max)
    wy_refuse (WY_LIMIT, "", "the layer is larger than its limit");
  return got > 0;
}

/* Return: how many bytes *OUT points at, at most MAX; 0 at the end of the stream. */
size_t
wy_stream_chunk (struct wy_stream *s, const unsigned char **out, uint64_t max)
{
  if (max == 0 || (s->pos == s->end && !fill (s)))
    return 0;
  size_t len = s->end - s->pos;
  if (len > max)
    len = (size_t)max;
  *out = s->buf + s->pos;
  s->pos += len;
  return len;
}

/* Return: LEN, or less if the stream ended before. */
size_t
wy_stream_read (struct wy_stream *s, void *out, size_t len)
{
  size_t done = 0;
  while (done < len)
    {
      const unsigned char *piece;
      size_t got = wy_stream_chunk (s, &piece, len - done);
      if (got == 0)
        break;
      memcpy ((unsigned char *)out + done, piece, got);
      done += got;
    }
  return done;
}

/* Return: how many of LEN bytes could be skipped. */
uint64_t
wy_stream_skip (struct wy_stream *s, uint64_t len)
{
  uint64_t left = len;
  const unsigned char *piece;
  while (left > 0)
    {
      size_t got = wy_stream_chunk (s, &piece, left);
      if (got == 0)
        break;
      left -= got;
    }
  return len - left;
}
