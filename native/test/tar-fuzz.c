/* tar-fuzz.c - libFuzzer target for the reader of untrusted layers: the first byte chooses a compression, the
 * rest is a layer. It is inflated, read as an archive and each entry's names are normalized; no file is
 * touched. Both processes of wherry-unpack are one here, and exiting is a jump back: this file replaces
 * stream.c's descriptor and answer.c. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inflate.h"

#define PLAIN_BYTES_MAX (1024u * 1024u)
#define PATH_BYTES 4096u
#define PAX_BYTES (64u * 1024u)

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static jmp_buf refused;
static unsigned char *archive;
static size_t archive_at, archive_len;

void *
wy_alloc (size_t size)
{
  void *p = malloc (size);
  if (p == NULL)
    abort ();
  return p;
}

wy_noreturn void
wy_refuse (enum wy_verdict verdict, const char *name, const char *reason)
{
  volatile size_t read_all = strlen (name) + strlen (reason) + (size_t)verdict;
  (void)read_all;
  longjmp (refused, 1);
}

wy_noreturn void
wy_fail (const char *call, const char *name)
{
  (void)call;
  (void)name;
  longjmp (refused, 1);
}

void
wy_count_entry (struct wy_unpack *u)
{
  u->entries++;
}

/* Replaces read(2) in stream.c: odd sizes, so that the edge of its buffer can be anywhere. */
ssize_t
wy_fuzz_read (int fd, void *out, size_t len)
{
  (void)fd;
  size_t left = archive_len - archive_at, piece = left < 700 ? left : 700;
  if (piece > len)
    piece = len;
  memcpy (out, archive + archive_at, piece);
  archive_at += piece;
  return (ssize_t)piece;
}

/* Inflate DATA into ARCHIVE. */
static void
inflate (const uint8_t *data, size_t size)
{
  static const char *const kinds[] = { "none", "gzip", "zstd" };
  struct wy_inflate z;
  unsigned char *copy = wy_alloc (size); /* exactly as large, so that the sanitizer sees the end */
  memcpy (copy, data + 1, size - 1);
  archive_at = archive_len = 0;
  (void)wy_inflate_open (&z, kinds[data[0] % 3]);
  wy_inflate_give (&z, copy, size - 1);
  const unsigned char *piece;
  for (size_t got; (got = wy_inflate_take (&z, &piece)) > 0 && archive_len + got <= PLAIN_BYTES_MAX;)
    {
      memcpy (archive + archive_len, piece, got);
      archive_len += got;
    }
  wy_inflate_close (&z);
  free (copy);
}

/* Mutations rarely pass a checksum: correct that of every non-zero block. */
static void
fix_checksums (void)
{
  for (size_t block = 0; block + 512 <= archive_len; block += 512)
    {
      unsigned char *h = archive + block;
      unsigned sum = 0;
      memset (h + 148, ' ', 8);
      for (size_t i = 0; i < 512; i++)
        sum += h[i];
      if (sum == 8 * ' ')
        memset (h + 148, 0, 8);
      else
        (void)snprintf ((char *)h + 148, 8, "%06o", sum);
    }
}

static void
read_archive (struct wy_unpack *u)
{
  const unsigned char *piece;
  while (wy_tar_next (u))
    {
      struct wy_entry *e = &u->entry;
      if (wy_name_clean (e->name, &u->limits) > u->limits.depth || strlen (e->name) > PATH_BYTES
          || strlen (e->link) > PATH_BYTES)
        abort ();
      if (e->name[0] == '/' || strstr (e->name, "//") != NULL || strncmp (e->name, "../", 3) == 0
          || strstr (e->name, "/../") != NULL)
        abort ();
      (void)wy_name_clean (e->link, &u->limits);
      while (wy_tar_data (u, &piece) > 0)
        ;
    }
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static struct wy_unpack u;
  static char *name, *link, *pax;
  if (size == 0)
    return 0;
  if (archive == NULL)
    {
      archive = wy_alloc (PLAIN_BYTES_MAX);
      name = wy_alloc (PATH_BYTES + 2);
      link = wy_alloc (PATH_BYTES + 2);
      pax = wy_alloc (PAX_BYTES + 1);
      wy_stream_init (&u.stream, PLAIN_BYTES_MAX);
    }
  inflate (data, size);
  if (data[0] < 128)
    fix_checksums ();
  unsigned char *buf = u.stream.buf;
  u = (struct wy_unpack){ .limits
                          = { PLAIN_BYTES_MAX, 1000, PLAIN_BYTES_MAX, PATH_BYTES, 256, PAX_BYTES, 1000, 0 } };
  u.stream = (struct wy_stream){ .buf = buf, .total_max = PLAIN_BYTES_MAX };
  u.entry = (struct wy_entry){ .name = name, .link = link, .pax = pax };
  name[0] = '\0';
  if (setjmp (refused) == 0)
    read_archive (&u);
  return 0;
}
