/* unpack/inflate.c against streams of ISA-L and libzstd: in pieces of any size, of several members,
 * truncated, with trailing data, or with one wrong bit. */

#include "inflate.h"

#include <isa-l/igzip_lib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define PLAIN_BYTES (300u * 1024u)
#define SMALL_BYTES 6000u
/* Longer streams are not fed byte by byte: each call copies a window of 32 KiB. */
#define SLOW_BYTES 20000u
#define ROOM_BYTES (4u * PLAIN_BYTES)

struct bytes
{
  unsigned char *at;
  size_t len;
};

static unsigned failures;

static void
check (bool right, const char *what, size_t number)
{
  if (right)
    return;
  fprintf (stderr, "not ok: %s (%zu)\n", what, number);
  failures++;
}

static struct bytes
make_room (void)
{
  return (struct bytes){ .at = wy_alloc (ROOM_BYTES) };
}

/* Compressible text with incompressible stretches. */
static struct bytes
make_plain (size_t len)
{
  struct bytes b = make_room ();
  uint32_t state = 12345;
  for (; b.len < len; b.len++)
    {
      state = state * 1664525u + 1013904223u;
      b.at[b.len]
          = (b.len / 5000) % 2 == 0 ? (unsigned char)(state >> 24) : (unsigned char)"wherry "[b.len % 7];
    }
  return b;
}

static void
add (struct bytes *to, const void *bytes, size_t len)
{
  memcpy (to->at + to->len, bytes, len);
  to->len += len;
}

static void
add_gzip (struct bytes *to, struct bytes plain)
{
  struct isal_zstream s;
  isal_deflate_init (&s);
  s.gzip_flag = IGZIP_GZIP;
  s.end_of_stream = 1;
  s.next_in = plain.at;
  s.avail_in = (uint32_t)plain.len;
  s.next_out = to->at + to->len;
  s.avail_out = (uint32_t)(ROOM_BYTES - to->len);
  check (isal_deflate (&s) == COMP_OK, "deflate", plain.len);
  to->len = (size_t)(s.next_out - to->at);
}

static void
add_zstd (struct bytes *to, struct bytes plain)
{
  size_t len = ZSTD_compress (to->at + to->len, ROOM_BYTES - to->len, plain.at, plain.len, 1);
  check (!ZSTD_isError (len), "ZSTD_compress", plain.len);
  to->len += len;
}

/* Inflate PACKED in pieces of PIECE bytes. Return: whether it is a whole stream. */
static bool
inflate (const char *kind, struct bytes packed, size_t piece, struct bytes *out)
{
  struct wy_inflate z;
  out->len = 0;
  if (!wy_inflate_open (&z, kind))
    return false;
  for (size_t at = 0; at < packed.len && !z.bad; at += piece)
    {
      const unsigned char *got;
      size_t len = packed.len - at < piece ? packed.len - at : piece;
      wy_inflate_give (&z, packed.at + at, len);
      for (size_t n; (n = wy_inflate_take (&z, &got)) > 0;)
        add (out, got, n);
      check (z.bad || z.left == 0, "all input is taken", at);
    }
  bool whole = z.whole && !z.bad;
  wy_inflate_close (&z);
  return whole;
}

static bool
same (struct bytes a, struct bytes b)
{
  return a.len == b.len && memcmp (a.at, b.at, a.len) == 0;
}

static void
test_pieces (const char *kind, struct bytes packed, struct bytes plain, const char *what)
{
  static const size_t pieces[] = { 1, 509, 4096, 262144, ROOM_BYTES };
  struct bytes out = make_room ();
  for (size_t i = packed.len > SLOW_BYTES ? 1 : 0; i < sizeof pieces / sizeof *pieces; i++)
    {
      check (inflate (kind, packed, pieces[i], &out), what, pieces[i]);
      check (same (out, plain), "it comes out as it went in", pieces[i]);
    }
  free (out.at);
}

static void
test_refused (const char *kind, struct bytes packed, const char *what)
{
  struct bytes out = make_room ();
  check (!inflate (kind, packed, 1000, &out), what, packed.len);
  free (out.at);
}

static void
test_damage (const char *kind, struct bytes packed, struct bytes plain)
{
  struct bytes out = make_room ();
  for (size_t len = 0; len < packed.len; len += 1 + len / 3)
    check (!inflate (kind, (struct bytes){ packed.at, len }, 333, &out), "a cut stream is not whole", len);
  for (size_t i = 0; i < packed.len; i += 1 + i / 10)
    {
      packed.at[i] ^= 1u << i % 8;
      if (inflate (kind, packed, 333, &out))
        check (same (out, plain), "a wrong bit is found, unless it says nothing", i);
      packed.at[i] ^= 1u << i % 8;
    }
  free (out.at);
}

static void
test_gzip (struct bytes plain, struct bytes twice)
{
  static const unsigned char zeros[1000];
  struct bytes packed = make_room ();
  add_gzip (&packed, plain);
  test_pieces ("gzip", packed, plain, "one member");
  test_damage ("gzip", packed, plain);
  size_t one = packed.len;
  add_gzip (&packed, (struct bytes){ plain.at, 0 });
  add_gzip (&packed, plain);
  test_pieces ("gzip", packed, twice, "three members, one of them empty");
  add (&packed, zeros, sizeof zeros);
  test_pieces ("gzip", packed, twice, "zeros behind the last member");
  add (&packed, "x", 1);
  test_refused ("gzip", packed, "something behind the zeros");
  packed.len = one;
  add (&packed, "no member", 9);
  test_refused ("gzip", packed, "something behind the last member");
  packed.len = one;
  add (&packed, packed.at, 5);
  test_refused ("gzip", packed, "a second member that is cut");
  free (packed.at);
}

static void
test_zstd (struct bytes plain, struct bytes twice)
{
  static const unsigned char skippable[] = { 0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c' };
  struct bytes packed = make_room ();
  add (&packed, skippable, sizeof skippable);
  add_zstd (&packed, plain);
  test_pieces ("zstd", packed, plain, "a frame behind one to be skipped");
  size_t one = packed.len;
  add (&packed, skippable, sizeof skippable);
  add_zstd (&packed, (struct bytes){ plain.at, 0 });
  add_zstd (&packed, plain);
  test_pieces ("zstd", packed, twice, "several frames");
  packed.len = one;
  add (&packed, "no frame", 8);
  test_refused ("zstd", packed, "something behind the last frame");
  packed.len = one - 1;
  test_refused ("zstd", packed, "a frame that is cut");
  free (packed.at);
}

int
main (void)
{
  struct bytes plain = make_plain (PLAIN_BYTES), twice = make_room (), nothing = { .at = plain.at };
  struct wy_inflate z;
  add (&twice, plain.at, plain.len);
  add (&twice, plain.at, plain.len);
  test_gzip (plain, twice);
  test_zstd (plain, twice);
  plain.len = SMALL_BYTES;
  twice.len = 0;
  add (&twice, plain.at, plain.len);
  add (&twice, plain.at, plain.len);
  test_gzip (plain, twice);
  test_zstd (plain, twice);
  test_pieces ("none", plain, plain, "what is not packed");
  test_refused ("gzip", nothing, "nothing is no gzip");
  test_refused ("zstd", nothing, "nothing is no zstd");
  check (!wy_inflate_open (&z, "bzip2"), "an unknown format", 0);
  free (plain.at);
  free (twice.at);
  printf ("inflate-test: %s\n", failures == 0 ? "ok" : "failed");
  return failures == 0 ? 0 : 1;
}
