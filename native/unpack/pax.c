/* pax extended headers (POSIX pax, "LENGTH KEY=VALUE\n") and the extended attributes in them.
 *
 * Attributes are kept byte for byte: a file capability is binary, and every tar library of npm corrupts it.
 * The name space decides which ones are kept:
 *   user.*, security.capability, system.posix_acl_*   set
 *   user.overlay.*, trusted.*                          refused: they steer overlayfs on this machine
 *   other security.* and foreign ones (com.apple.…)    left out: labels of the machine that built it */

#include "unpack.h"

#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#define SECONDS_MAX ((int64_t)1 << 40)
static const char xattr_prefix[] = "SCHILY.xattr.";

struct record
{
  const char *key, *value;
  size_t key_len, value_len;
};

/* Parse LEN decimal digits of TEXT. Return: false if there is anything else, or a number above MAX. */
static bool
parse_decimal (const char *text, size_t len, uint64_t max, uint64_t *out)
{
  uint64_t value = 0;
  for (size_t i = 0; i < len; i++)
    {
      if (text[i] < '0' || text[i] > '9' || value > max / 10)
        return false;
      value = value * 10 + (uint64_t)(text[i] - '0');
    }
  *out = value;
  return len > 0 && value <= max;
}

/* Take the next record off the *LEFT bytes at *AT. Return: false when none is left. */
static bool
next_record (const char **at, size_t *left, struct record *r)
{
  if (*left == 0)
    return false;
  const char *space = memchr (*at, ' ', *left);
  uint64_t len;
  if (space == NULL || !parse_decimal (*at, (size_t)(space - *at), *left, &len))
    wy_refuse (WY_INVALID, "", "a pax header is malformed");
  const char *end = *at + len, *key = space + 1;
  const char *equals = key < end ? memchr (key, '=', (size_t)(end - key)) : NULL;
  if (equals == NULL || equals == key || end[-1] != '\n')
    wy_refuse (WY_INVALID, "", "a pax header is malformed");
  *r = (struct record){ .key = key,
                        .key_len = (size_t)(equals - key),
                        .value = equals + 1,
                        .value_len = (size_t)(end - 1 - (equals + 1)) };
  *at = end;
  *left -= (size_t)len;
  return true;
}

static bool
key_is (const struct record *r, const char *key)
{
  return r->key_len == strlen (key) && memcmp (r->key, key, r->key_len) == 0;
}

static bool
key_begins (const struct record *r, const char *prefix)
{
  return r->key_len >= strlen (prefix) && memcmp (r->key, prefix, strlen (prefix)) == 0;
}

static void
take_path (const struct wy_unpack *u, const struct record *r, char *out)
{
  if (r->value_len > u->limits.path_bytes)
    wy_refuse (WY_LIMIT, u->entry.name, "a name is longer than its limit");
  if (memchr (r->value, '\0', r->value_len) != NULL)
    wy_refuse (WY_INVALID, u->entry.name, "has a NUL in its name");
  memcpy (out, r->value, r->value_len);
  out[r->value_len] = '\0';
}

static uint64_t
take_number (const struct wy_entry *e, const struct record *r, uint64_t max)
{
  uint64_t value;
  if (!parse_decimal (r->value, r->value_len, max, &value))
    wy_refuse (WY_INVALID, e->name, "has a pax number that is out of range");
  return value;
}

/* "[-]SECONDS[.FRACTION]" */
static void
take_mtime (struct wy_entry *e, const struct record *r)
{
  bool negative = r->value_len > 0 && r->value[0] == '-';
  const char *text = r->value + (negative ? 1 : 0);
  size_t len = r->value_len - (negative ? 1 : 0);
  const char *point = memchr (text, '.', len);
  size_t whole = point == NULL ? len : (size_t)(point - text);
  uint64_t seconds, nanoseconds = 0;
  if (!parse_decimal (text, whole, (uint64_t)SECONDS_MAX, &seconds))
    wy_refuse (WY_INVALID, e->name, "has a modification time that is out of range");
  for (size_t i = whole + 1, scale = 100000000; i < len && scale > 0; i++, scale /= 10)
    {
      if (text[i] < '0' || text[i] > '9')
        wy_refuse (WY_INVALID, e->name, "has a modification time that is no number");
      nanoseconds += (uint64_t)(text[i] - '0') * scale;
    }
  e->mtime = (struct timespec){ .tv_sec = (time_t)seconds, .tv_nsec = (long)nanoseconds };
  if (negative)
    {
      bool borrow = nanoseconds > 0;
      e->mtime.tv_sec = -e->mtime.tv_sec - (borrow ? 1 : 0);
      e->mtime.tv_nsec = borrow ? 1000000000 - e->mtime.tv_nsec : 0;
    }
}

/* Copy the attribute's name to NAME. Return: false if it is omitted. */
static bool
xattr_name (const struct wy_entry *e, const struct record *r, char name[WY_XATTR_NAME_MAX + 1])
{
  size_t len = r->key_len - strlen (xattr_prefix);
  const char *written = r->key + strlen (xattr_prefix);
  if (len == 0 || len > WY_XATTR_NAME_MAX || memchr (written, '\0', len) != NULL)
    wy_refuse (WY_INVALID, e->name, "has an extended attribute with an impossible name");
  memcpy (name, written, len);
  name[len] = '\0';
  if (strncmp (name, "trusted.", 8) == 0 || strncmp (name, "user.overlay.", 13) == 0)
    wy_refuse (WY_UNSAFE, e->name, "has an extended attribute that would steer overlayfs");
  return strncmp (name, "user.", 5) == 0 || strcmp (name, "security.capability") == 0
         || strcmp (name, WY_ACCESS_ACL) == 0 || strcmp (name, WY_DEFAULT_ACL) == 0;
}

/* Override fields of the ustar header with those of the pax header, except for names from a GNU header
 * (KEEP_NAME, KEEP_LINK). An empty value overrides nothing (POSIX: the header's stands). */
void
wy_pax_apply (struct wy_unpack *u, bool keep_name, bool keep_link)
{
  struct wy_entry *e = &u->entry;
  char name[WY_XATTR_NAME_MAX + 1];
  const char *at = e->pax;
  size_t left = e->pax_len;
  struct record r;
  while (next_record (&at, &left, &r))
    {
      if (key_begins (&r, "GNU.sparse."))
        wy_refuse (WY_INVALID, e->name, "is a sparse file; these are not supported");
      else if (key_begins (&r, xattr_prefix))
        (void)xattr_name (e, &r, name);
      else if (r.value_len == 0 || (keep_name && key_is (&r, "path"))
               || (keep_link && key_is (&r, "linkpath")))
        continue;
      else if (key_is (&r, "path"))
        take_path (u, &r, e->name);
      else if (key_is (&r, "linkpath"))
        take_path (u, &r, e->link);
      else if (key_is (&r, "size"))
        e->size = take_number (e, &r, INT64_MAX);
      else if (key_is (&r, "uid"))
        e->uid = (uid_t)take_number (e, &r, UINT32_MAX - 1);
      else if (key_is (&r, "gid"))
        e->gid = (gid_t)take_number (e, &r, UINT32_MAX - 1);
      else if (key_is (&r, "mtime"))
        take_mtime (e, &r);
    }
}

/* Give the file behind FD the attributes of entry E.
 *
 * Return: whether a default ACL is among them, which the directory's children would inherit.
 */
bool
wy_pax_set_xattrs (const struct wy_entry *e, int fd)
{
  bool default_acl = false;
  char name[WY_XATTR_NAME_MAX + 1];
  const char *at = e->pax;
  size_t left = e->pax_len;
  struct record r;
  while (next_record (&at, &left, &r))
    {
      if (!key_begins (&r, xattr_prefix) || !xattr_name (e, &r, name))
        continue;
      default_acl = default_acl || strcmp (name, WY_DEFAULT_ACL) == 0;
      if (fsetxattr (fd, name, r.value, r.value_len, 0) == 0)
        continue;
      if (errno == ERANGE || errno == E2BIG || errno == EINVAL)
        wy_refuse (WY_INVALID, e->name, "has an extended attribute that the kernel refuses");
      wy_fail ("fsetxattr", e->name);
    }
  return default_acl;
}
