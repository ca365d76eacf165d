/* Declarations shared by the parts of wherry-unpack; main.c gives the overview. */

#ifndef WY_UNPACK_H
#define WY_UNPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "../confine/confine.h"

/* linux/limits.h XATTR_NAME_MAX. */
#define WY_XATTR_NAME_MAX 255u
#define WY_ACCESS_ACL "system.posix_acl_access"
#define WY_DEFAULT_ACL "system.posix_acl_default"

/* The result, also the exit code. services/images/unpack.ts reads its word and has the same list. */
enum wy_verdict
{
  WY_OK = 0,
  WY_SYSTEM = 1,
  WY_USAGE = 2,
  WY_UNSAFE = 3,
  WY_LIMIT = 4,
  WY_INVALID = 5,
};

struct wy_limits
{
  uint64_t stream_bytes;
  uint64_t entries;
  uint64_t file_bytes;
  uint64_t path_bytes;
  uint64_t depth;
  uint64_t pax_bytes;
  uint64_t ratio;            /* plain bytes per packed byte, applied */
  uint64_t ratio_free_bytes; /* beyond so many plain bytes */
};

/* One entry of the archive with all its extension headers applied. */
struct wy_entry
{
  char type;  /* '0' file, '1' hard link, '2' symlink, '3' '4' device, '5' directory, '6' fifo */
  char *name; /* path_bytes + 1 long; cleaned in place by wy_name_clean */
  char *link;
  mode_t mode;
  uid_t uid;
  gid_t gid;
  uint64_t size;
  struct timespec mtime;
  char *pax; /* raw records of the entry's pax header, for its xattrs */
  size_t pax_len;
};

/* Standard input, read in large pieces and never beyond its limit. */
struct wy_stream
{
  unsigned char *buf;
  size_t pos;
  size_t end;
  uint64_t total;
  uint64_t total_max;
};

/* Times of directories, set last because every new child changes them. */
struct wy_times
{
  unsigned char *records;
  size_t len;
  size_t cap;
};

struct wy_unpack
{
  struct wy_limits limits;
  struct wy_stream stream;
  struct wy_entry entry;
  uint64_t data_left;    /* bytes of the current entry still in the stream */
  unsigned padding_left; /* zeros that fill its last block */
  uint64_t entries;      /* headers read plus implied directories */
  uint64_t dropped;      /* device nodes omitted */
  int root;
  int parent;        /* directory of the last entry, or -1 */
  char *parent_name; /* its name as resolved */
  struct wy_times times;
  bool default_acls; /* some directory has one */
};

/* answer.c */
void wy_answer_before (pid_t reader);
wy_noreturn void wy_answer_ok (const struct wy_unpack *u);
wy_noreturn void wy_refuse (enum wy_verdict verdict, const char *name, const char *reason);

/* feed.c */
void wy_feed_start (const char *compression, const struct wy_limits *limits);

/* stream.c */
void wy_stream_init (struct wy_stream *s, uint64_t total_max);
size_t wy_stream_chunk (struct wy_stream *s, const unsigned char **out, uint64_t max);
size_t wy_stream_read (struct wy_stream *s, void *out, size_t len);
uint64_t wy_stream_skip (struct wy_stream *s, uint64_t len);

/* tar.c */
bool wy_tar_next (struct wy_unpack *u);
size_t wy_tar_data (struct wy_unpack *u, const unsigned char **out);

/* pax.c */
void wy_pax_apply (struct wy_unpack *u, bool keep_name, bool keep_link);
bool wy_pax_set_xattrs (const struct wy_entry *e, int fd);

/* place.c */
void wy_count_entry (struct wy_unpack *u);
void wy_forget_inherited (const struct wy_unpack *u, int fd);
size_t wy_name_clean (char *name, const struct wy_limits *limits);
int wy_open_beneath (const struct wy_unpack *u, const char *path, int flags);
int wy_place (struct wy_unpack *u, char *name, const char **last);
int wy_place_existing (struct wy_unpack *u, char *name, const char **last);
void wy_dir_make (struct wy_unpack *u, int parent, const char *last, bool replace);
void wy_remove (struct wy_unpack *u, int parent, const char *last);

/* whiteout.c */
bool wy_whiteout_is_node (int parent, const char *last);
bool wy_whiteout_apply (struct wy_unpack *u, int parent, const char *last);
bool wy_whiteout_below_special (const char *name);
void wy_opaque_set (int parent, const char *last, const char *shown);

/* apply.c */
void wy_apply (struct wy_unpack *u);

/* times.c */
void wy_times_note (struct wy_unpack *u, const char *path, struct timespec mtime);
void wy_times_set (struct wy_unpack *u);

/* confine.c */
void wy_confine (const char *dir);

#endif
