/* Writes tar: ustar headers, and pax records for what does not fit (POSIX pax; long names, sub-second times,
 * large numbers, extended attributes). The same files produce the same bytes: no user names, no time of
 * writing, sorted records. */

#include "layer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 512u
#define OCTAL7_MAX 07777777
#define OCTAL11_MAX 077777777777LL

struct header
{
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], chksum[8];
  char typeflag, linkname[100], magic[6], version[2], uname[32], gname[32], devmajor[8], devminor[8];
  char prefix[155], pad[12];
};
static_assert (sizeof (struct header) == BLOCK, "a tar header is one block");

struct records
{
  char *bytes;
  size_t size;
};

static void
pad (uint64_t size)
{
  static const char zeros[BLOCK];
  wy_put (zeros, (size_t)((BLOCK - size % BLOCK) % BLOCK));
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
static void
add_record (struct records *r, const char *key, const char *value, size_t value_size)
{
  char length[24];
  size_t rest = 1 + strlen (key) + 1 + value_size + 1, total = rest + 1;
  while (total != rest + (size_t)snprintf (length, sizeof length, "%zu", total))
    total = rest + strlen (length);
  char *grown = realloc (r->bytes, r->size + total);
  if (grown == NULL)
    wy_fail ("malloc", "");
  char *at = grown + r->size;
  at += sprintf (at, "%s %s=", length, key);
  memcpy (at, value, value_size);
  at[value_size] = '\n';
  r->bytes = grown;
  r->size += total;
}

static void
add_number (struct records *r, const char *key, long long value)
{
  char text[32];
  int len = snprintf (text, sizeof text, "%lld", value);
  add_record (r, key, text, (size_t)len);
}

/* pax writes a time before 1970 as a negative decimal number, so the fraction counts away from zero. */
static void
add_time (struct records *r, const struct timespec *time)
{
  char text[64];
  long long seconds = time->tv_sec;
  long nanoseconds = time->tv_nsec;
  bool negative = seconds < 0;
  if (negative && nanoseconds > 0)
    {
      seconds++;
      nanoseconds = 1000000000 - nanoseconds;
    }
  int len = snprintf (text, sizeof text, "%s%lld.%09ld", negative ? "-" : "", negative ? -seconds : seconds,
                      nanoseconds);
  while (text[len - 1] == '0')
    len--;
  if (text[len - 1] == '.')
    len--;
  add_record (r, "mtime", text, (size_t)len);
}

static struct records
records_of (const struct wy_tar_entry *e)
{
  struct records r = { 0 };
  const struct timespec *time = &e->st.st_mtim;
  if (time->tv_nsec != 0 || time->tv_sec < 0 || time->tv_sec > OCTAL11_MAX)
    add_time (&r, time);
  if (strlen (e->name) > sizeof ((struct header *)0)->name)
    add_record (&r, "path", e->name, strlen (e->name));
  if (strlen (e->link) > sizeof ((struct header *)0)->linkname)
    add_record (&r, "linkpath", e->link, strlen (e->link));
  if (e->st.st_uid > OCTAL7_MAX)
    add_number (&r, "uid", e->st.st_uid);
  if (e->st.st_gid > OCTAL7_MAX)
    add_number (&r, "gid", e->st.st_gid);
  if (e->st.st_size > OCTAL11_MAX)
    add_number (&r, "size", e->st.st_size);
  const char *name, *value;
  size_t at = 0, size;
  while ((name = wy_xattrs_next (&e->xattrs, &at, &value, &size)) != NULL)
    {
      char key[320];
      snprintf (key, sizeof key, "SCHILY.xattr.%s", name);
      add_record (&r, key, value, size);
    }
  return r;
}

/* Truncated to its field, as pax allows: the record has all of it. A full field has no NUL. */
static void
put_text (char *field, size_t cap, const char *text)
{
  size_t len = strlen (text);
  memcpy (field, text, len < cap ? len : cap);
}

static void
put_octal (char *field, size_t cap, unsigned long long value)
{
  char text[32];
  int len = snprintf (text, sizeof text, "%0*llo", (int)cap - 1, value);
  memcpy (field, text, (size_t)len < cap ? (size_t)len : cap - 1);
}

static void
put_header (const char *name, const char *link, char type, const struct stat *st, uint64_t size)
{
  struct header h = { .typeflag = type, .magic = "ustar", .version = { '0', '0' } };
  put_text (h.name, sizeof h.name, name);
  put_text (h.linkname, sizeof h.linkname, link);
  put_octal (h.mode, sizeof h.mode, st->st_mode & 07777);
  put_octal (h.uid, sizeof h.uid, st->st_uid > OCTAL7_MAX ? 0 : st->st_uid);
  put_octal (h.gid, sizeof h.gid, st->st_gid > OCTAL7_MAX ? 0 : st->st_gid);
  put_octal (h.size, sizeof h.size, size > (uint64_t)OCTAL11_MAX ? 0 : size);
  long long seconds = st->st_mtim.tv_sec;
  put_octal (h.mtime, sizeof h.mtime, seconds < 0 || seconds > OCTAL11_MAX ? 0 : (unsigned long long)seconds);
  memset (h.chksum, ' ', sizeof h.chksum);
  unsigned sum = 0;
  for (size_t i = 0; i < BLOCK; i++)
    sum += ((const unsigned char *)&h)[i];
  put_octal (h.chksum, sizeof h.chksum - 1, sum);
  h.chksum[6] = '\0';
  wy_put (&h, sizeof h);
}

/* Write the headers of ENTRY.  The contents of a file follow by wy_tar_contents. */
void
wy_tar_entry (const struct wy_tar_entry *entry)
{
  static const struct stat plain = { .st_mode = 0644 };
  struct records r = records_of (entry);
  if (r.size > 0)
    {
      put_header ("././@PaxHeader", "", 'x', &plain, r.size);
      wy_put (r.bytes, r.size);
      pad (r.size);
    }
  free (r.bytes);
  put_header (entry->name, entry->link, entry->type, &entry->st,
              entry->type == '0' ? (uint64_t)entry->st.st_size : 0);
}

/* Write SIZE bytes of FD and fill the last block. */
void
wy_tar_contents (int fd, uint64_t size, const char *shown)
{
  wy_put_file (fd, size, shown);
  pad (size);
}

/* Two zero blocks. */
void
wy_tar_end (void)
{
  static const char zeros[2 * BLOCK];
  wy_put (zeros, sizeof zeros);
}
