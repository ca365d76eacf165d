/* Decompression: gzip (RFC 1952) by ISA-L, zstd (RFC 8878) by libzstd, or none.
 *
 * Both formats may consist of several members (RFC 1952 2.2; parallel compressors and eStargz write them),
 * zstd also of skippable frames. Zeros may follow the last gzip member, as with gzip(1); anything else there
 * is an error. The formats' checksums are verified. Output comes in pieces of a buffer that fits into a CPU's
 * cache, because each piece is then hashed and copied. */

#include "inflate.h"

#include <isa-l/igzip_lib.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

/* 2^27 = 128 MiB, what every reader of zstd allows (RFC 8878 requires at least 8). */
#define ZSTD_WINDOW_BITS_MAX 27

static const char *const names[] = { "none", "gzip", "zstd" };

/* Prepare Z for COMPRESSION ("none", "gzip" or "zstd").
 *
 * Return: false for anything else.
 */
bool
wy_inflate_open (struct wy_inflate *z, const char *compression)
{
  *z = (struct wy_inflate){ .whole = true };
  while (z->kind < WY_PACKED_KINDS && strcmp (compression, names[z->kind]) != 0)
    z->kind++;
  if (z->kind == WY_PACKED_KINDS)
    return false;
  if (z->kind == WY_PACKED_NONE)
    return true;
  z->whole = false; /* empty input is neither gzip nor zstd */
  z->out = wy_alloc (WY_INFLATED_BYTES);
  if (z->kind == WY_PACKED_GZIP)
    {
      z->gzip = wy_alloc (sizeof *z->gzip);
      isal_inflate_init (z->gzip);
      z->gzip->crc_flag = ISAL_GZIP;
      return true;
    }
  z->zstd = ZSTD_createDStream ();
  if (z->zstd == NULL
      || ZSTD_isError (ZSTD_DCtx_setParameter (z->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_BITS_MAX)))
    wy_fail ("malloc", "");
  return true;
}

/* Free what wy_inflate_open allocated. */
void
wy_inflate_close (struct wy_inflate *z)
{
  free (z->out);
  free (z->gzip);
  ZSTD_freeDStream (z->zstd);
}

/* Set the next LEN BYTES of the stream as input; they must stay valid until wy_inflate_take has consumed
 * them. */
void
wy_inflate_give (struct wy_inflate *z, unsigned char *bytes, size_t len)
{
  z->in = bytes;
  z->left = len;
}

static bool
only_zeros (const unsigned char *bytes, size_t len)
{
  return len == 0 || (bytes[0] == 0 && memcmp (bytes, bytes + 1, len - 1) == 0);
}

/* Between two members: start the next one. Return: false if there is none. */
static bool
next_member (struct wy_inflate *z)
{
  if (!z->padding && *z->in != 0)
    {
      isal_inflate_reset (z->gzip);
      z->gzip->crc_flag = ISAL_GZIP;
      z->gzip->total_out = 0;
      z->whole = false;
      return true;
    }
  z->padding = true;
  z->bad = !only_zeros (z->in, z->left);
  z->left = 0;
  return false;
}

static size_t
take_gzip (struct wy_inflate *z)
{
  struct inflate_state *s = z->gzip;
  s->next_out = z->out;
  s->avail_out = WY_INFLATED_BYTES;
  for (;;)
    {
      if (z->whole && (z->left == 0 || !next_member (z)))
        break;
      s->next_in = z->in;
      s->avail_in = (uint32_t)z->left;
      int result = isal_inflate (s);
      z->in = s->next_in;
      z->left = s->avail_in;
      if (result < 0 || result == ISAL_NEED_DICT)
        {
          z->bad = true;
          return 0;
        }
      z->whole = s->block_state == ISAL_BLOCK_FINISH;
      if (!z->whole)
        break;
    }
  return WY_INFLATED_BYTES - s->avail_out;
}

static size_t
take_zstd (struct wy_inflate *z)
{
  ZSTD_outBuffer out = { z->out, WY_INFLATED_BYTES, 0 };
  ZSTD_inBuffer in = { z->in, z->left, 0 };
  do
    {
      /* After a full buffer more output may be ready, so call again without input; that must not start a
       * frame. */
      if (in.pos == in.size && (z->whole || !z->more))
        break;
      size_t result = ZSTD_decompressStream (z->zstd, &out, &in);
      if (ZSTD_isError (result))
        {
          z->bad = true;
          return 0;
        }
      z->whole = result == 0;
      z->more = out.pos == out.size;
    }
  while (!z->more && in.pos < in.size);
  z->in += in.pos;
  z->left -= in.pos;
  return out.pos;
}

/* The next plain bytes.
 *
 * Return: how many *OUT points at, valid until the next call; 0 if more input is needed or Z->bad.
 */
size_t
wy_inflate_take (struct wy_inflate *z, const unsigned char **out)
{
  *out = z->out;
  if (z->kind == WY_PACKED_GZIP)
    return take_gzip (z);
  if (z->kind == WY_PACKED_ZSTD)
    return take_zstd (z);
  size_t len = z->left;
  *out = z->in;
  z->left = 0;
  return len;
}

/* The name of Z's format, for messages. */
const char *
wy_inflate_name (const struct wy_inflate *z)
{
  return names[z->kind];
}
