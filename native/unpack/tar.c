/* The tar format: ustar, old V7, GNU long names and pax, as images use it.
 *
 * Where dialects disagree this follows Go's archive/tar, because the tools that build, scan and check images
 * use it, and two readers that see two archives in the same bytes are a way to smuggle files: headers of
 * types without contents have size 0 whatever their size field, a GNU long name takes precedence over a pax
 * path, a global pax header is ignored, an archive may end without its two zero blocks, but data after them
 * is an error. What readers understand differently and no tool writes is refused. So are sparse files: no
 * tool that creates layers writes them, and each of their dialects is another way to lie about sizes. */

#include "unpack.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 512u
/* Ids are 32 bits, and (uid_t)-1 means "leave as it is" to chown(2). */
#define ID_MAX 4294967294u

struct header
{
  unsigned char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], chksum[8];
  unsigned char typeflag, linkname[100], magic[6], version[2], uname[32], gname[32], devmajor[8], devminor[8];
  unsigned char prefix[155], pad[12];
};
static_assert (sizeof (struct header) == BLOCK, "a tar header is one block");

/* Octal text, or GNU's base-256 when the first bit is set. */
static bool
parse_number (const unsigned char *field, size_t len, int64_t *out)
{
  uint64_t value = 0;
  if (field[0] & 0x80u)
    {
      unsigned char flip = (field[0] & 0x40u) ? 0xff : 0;
      for (size_t i = 0; i < len; i++)
        {
          unsigned char c = (unsigned char)(field[i] ^ flip);
          if (i == 0)
            c &= 0x7fu;
          if (value >> 55)
            return false;
          value = value << 8 | c;
        }
      *out = flip ? -(int64_t)value - 1 : (int64_t)value;
      return true;
    }
  size_t i = 0;
  while (i < len && (field[i] == ' ' || field[i] == '\0'))
    i++;
  for (; i < len && field[i] != ' ' && field[i] != '\0'; i++)
    {
      if (field[i] < '0' || field[i] > '7')
        return false;
      value = value << 3 | (uint64_t)(field[i] - '0');
    }
  while (i < len && field[i] == ' ')
    i++;
  *out = (int64_t)value;
  return i == len || field[i] == '\0';
}

static int64_t
number (const unsigned char *field, size_t len, int64_t max, const char *what)
{
  int64_t value;
  if (!parse_number (field, len, &value) || value > max)
    wy_refuse (WY_INVALID, what, "is not a number in a tar header");
  return value;
}

/* POSIX sums unsigned bytes; some old writers summed signed ones. */
static bool
checksum_matches (const struct header *h)
{
  const unsigned char *bytes = (const unsigned char *)h;
  int64_t written, plain = 0, with_sign = 0;
  for (size_t i = 0; i < BLOCK; i++)
    {
      bool own = i >= offsetof (struct header, chksum) && i < offsetof (struct header, typeflag);
      unsigned char c = own ? ' ' : bytes[i];
      plain += c;
      with_sign += (signed char)c;
    }
  return parse_number (h->chksum, sizeof h->chksum, &written) && (written == plain || written == with_sign);
}

static bool
is_zero (const struct header *h)
{
  const unsigned char *bytes = (const unsigned char *)h;
  return bytes[0] == 0 && memcmp (bytes, bytes + 1, BLOCK - 1) == 0;
}

static size_t
field_length (const unsigned char *field, size_t cap)
{
  const unsigned char *end = memchr (field, '\0', cap);
  return end == NULL ? cap : (size_t)(end - field);
}

static void
take_text (const unsigned char *field, size_t cap, char *out)
{
  size_t len = field_length (field, cap);
  memcpy (out, field, len);
  out[len] = '\0';
}

/* The name of H with its prefix: 257 bytes at most, which fit into the buffer (PATH_BYTES_MIN). */
static void
take_name (const struct header *h, char *out)
{
  if (memcmp (h->magic, "ustar", 6) == 0)
    {
      /* star stores times at the end of the prefix, and marks such headers in the last bytes. */
      bool star = memcmp (h->pad + 8, "tar", 4) == 0;
      take_text (h->prefix, star ? 131 : sizeof h->prefix, out);
      out += strlen (out);
      if (h->prefix[0] != '\0')
        *out++ = '/';
    }
  take_text (h->name, sizeof h->name, out);
}

static void
take_header (const struct header *h, struct wy_entry *e, bool long_name, bool long_link)
{
  if (!long_name)
    take_name (h, e->name);
  if (!long_link)
    take_text (h->linkname, sizeof h->linkname, e->link);
  e->type = (char)h->typeflag;
  e->mode = (mode_t)(number (h->mode, sizeof h->mode, INT64_MAX, "mode") & 07777);
  e->mtime = (struct timespec){ .tv_sec = number (h->mtime, sizeof h->mtime, INT64_MAX, "mtime") };
  int64_t uid = number (h->uid, sizeof h->uid, ID_MAX, "uid");
  int64_t gid = number (h->gid, sizeof h->gid, ID_MAX, "gid");
  if (uid < 0 || gid < 0)
    wy_refuse (WY_INVALID, e->name, "has a negative owner");
  e->uid = (uid_t)uid;
  e->gid = (gid_t)gid;
}

/* Read a GNU 'L' or 'K' header's contents: a name with or without its final NUL. */
static void
take_long (struct wy_unpack *u, char *out, uint64_t size)
{
  if (size > u->limits.path_bytes + 1)
    wy_refuse (WY_LIMIT, "", "a name is longer than its limit");
  if (wy_stream_read (&u->stream, out, (size_t)size) < size)
    wy_refuse (WY_INVALID, "", "the archive ends inside a long name");
  out[size] = '\0';
}

static void
take_pax (struct wy_unpack *u, uint64_t size)
{
  if (size > u->limits.pax_bytes)
    wy_refuse (WY_LIMIT, "", "a pax header is larger than its limit");
  if (wy_stream_read (&u->stream, u->entry.pax, (size_t)size) < size)
    wy_refuse (WY_INVALID, "", "the archive ends inside a pax header");
  u->entry.pax_len = (size_t)size;
}

static bool
read_header (struct wy_unpack *u, struct header *h)
{
  size_t got = wy_stream_read (&u->stream, h, BLOCK);
  if (got == 0)
    return false;
  if (got < BLOCK)
    wy_refuse (WY_INVALID, "", "the archive ends inside a header");
  if (is_zero (h))
    {
      if (wy_stream_read (&u->stream, h, BLOCK) == BLOCK && !is_zero (h))
        wy_refuse (WY_INVALID, "", "the archive goes on after its end");
      /* The rest belongs to the stream's digest but not to the archive. */
      (void)wy_stream_skip (&u->stream, UINT64_MAX);
      return false;
    }
  if (!checksum_matches (h))
    wy_refuse (WY_INVALID, "",
               "a tar header's checksum is wrong; this is not a tar archive, or it is damaged");
  wy_count_entry (u);
  return true;
}

static void
finish_data (struct wy_unpack *u)
{
  uint64_t left = u->data_left + u->padding_left;
  if (wy_stream_skip (&u->stream, left) < left)
    wy_refuse (WY_INVALID, u->entry.name, "is truncated: the archive ends inside it");
  u->data_left = 0;
  u->padding_left = 0;
}

static void
settle_type (struct wy_entry *e)
{
  size_t len = strlen (e->name);
  if (e->type == '\0' || e->type == '7')
    e->type = '0';
  if (e->type == '0' && len > 0 && e->name[len - 1] == '/')
    {
      e->type = '5'; /* V7 had no directories */
      if (e->size > 0)
        wy_refuse (WY_INVALID, e->name,
                   "is a directory with contents, which readers of tar understand differently");
    }
  if (e->type == 'S')
    wy_refuse (WY_INVALID, e->name, "is a sparse file; these are not supported");
  if (strchr ("0123456", e->type) == NULL)
    wy_refuse (WY_INVALID, e->name, "has an unknown entry type");
  if (e->type != '0')
    e->size = 0;
}

static unsigned
padding_of (uint64_t size)
{
  return (unsigned)((BLOCK - size % BLOCK) % BLOCK);
}

/* Read the next entry into U->entry.
 *
 * Return: false at the end of the archive.
 */
bool
wy_tar_next (struct wy_unpack *u)
{
  struct wy_entry *e = &u->entry;
  bool long_name = false, long_link = false;
  struct header h;
  finish_data (u);
  e->pax_len = 0;
  while (read_header (u, &h))
    {
      int64_t written = number (h.size, sizeof h.size, INT64_MAX, "size");
      if (written < 0)
        wy_refuse (WY_INVALID, "", "a tar header has a negative size");
      uint64_t size = (uint64_t)written;
      u->padding_left = padding_of (size);
      switch (h.typeflag)
        {
        case 'L':
          take_long (u, e->name, size);
          long_name = true;
          break;
        case 'K':
          take_long (u, e->link, size);
          long_link = true;
          break;
        case 'x':
          take_pax (u, size);
          break;
        case 'g':
          if (size > u->limits.pax_bytes)
            wy_refuse (WY_LIMIT, "", "a pax header is larger than its limit");
          u->data_left = size;
          break;
        default:
          take_header (&h, e, long_name, long_link);
          e->size = size;
          wy_pax_apply (u, long_name, long_link);
          settle_type (e);
          u->data_left = e->size;
          u->padding_left = padding_of (e->size);
          return true;
        }
      finish_data (u);
    }
  if (long_name || long_link || e->pax_len > 0)
    wy_refuse (WY_INVALID, "", "the archive ends after an extension header");
  return false;
}

/* The next piece of the current entry's contents.  Return: its length, 0 when there is no more. */
size_t
wy_tar_data (struct wy_unpack *u, const unsigned char **out)
{
  size_t len = wy_stream_chunk (&u->stream, out, u->data_left);
  if (len == 0 && u->data_left > 0)
    wy_refuse (WY_INVALID, u->entry.name, "is truncated: the archive ends inside it");
  u->data_left -= len;
  return len;
}
