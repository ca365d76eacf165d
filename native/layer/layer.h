/* Declarations shared by the parts of wherry-layer; main.c gives the overview. */

#ifndef WY_LAYER_H
#define WY_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "../confine/confine.h"

/* Limits of a layer; services/images/unpack.ts has the same numbers for layers from a registry. */
#define WY_ENTRIES_MAX 1000000u
#define WY_DEPTH_MAX 256u
#define WY_PATH_BYTES_MAX 4096u
#define WY_XATTRS_BYTES_MAX 65536u
#define WY_LAYERS_MAX 128u

/* The result, also the exit code. */
enum wy_verdict
{
  WY_OK = 0,
  WY_SYSTEM = 1,
  WY_USAGE = 2,
  WY_REFUSED = 3,
};

/* The names of one directory, sorted by their bytes. */
struct wy_names
{
  char **items;
  size_t count;
};

/* Extended attributes of one file: `size` bytes of "NAME\0", length in text, "\0", that many bytes of
 * value. */
struct wy_xattrs
{
  char *bytes;
  size_t size;
};

/* Files with several names, and the name under which each was found first. */
struct wy_links
{
  struct wy_link *slots;
  size_t cap;
  size_t used;
};

/* answer.c */
wy_noreturn void wy_refuse (const char *name, const char *reason);
void wy_answer_ok (uint64_t entries);
void wy_count_entry (const char *name);
uint64_t wy_entries (void);
char *wy_copy_text (const char *text);

/* root.c */
void wy_private_mounts (void);
void wy_mount_overlay (const char *at, const char *empty, char *const *layers, unsigned count,
                       const char *upper, const char *work);
void wy_enter (const char *dir);
int wy_open_dir (const char *path);
int wy_open_in (int root, const char *path, int flags, uint64_t resolve);

/* output.c */
void wy_put (const void *bytes, size_t size);
void wy_put_file (int fd, uint64_t size, const char *shown);

/* names.c */
struct wy_names wy_names_read (int dir, const char *shown);
void wy_names_free (struct wy_names *names);
void wy_path_join (char out[WY_PATH_BYTES_MAX], const char *path, const char *name);

/* xattr.c */
struct wy_xattrs wy_xattrs_read (int fd, const char *shown);
const char *wy_xattrs_next (const struct wy_xattrs *xattrs, size_t *at, const char **value, size_t *size);
void wy_xattrs_settle (int fd, bool keep_opaque, const char *shown);
bool wy_is_opaque (int fd);

/* links.c */
const char *wy_links_find (struct wy_links *links, const struct stat *st, const char *name);

/* tar.c */
struct wy_tar_entry
{
  const char *name; /* of a directory: with trailing "/" */
  const char *link;
  char type;
  struct stat st;
  struct wy_xattrs xattrs;
};
void wy_tar_entry (const struct wy_tar_entry *entry);
void wy_tar_contents (int fd, uint64_t size, const char *shown);
void wy_tar_end (void);

/* operation.c */
struct wy_operation
{
  char *what, *from, *to, *base, *mode, *uid, *gid, *flags;
};
bool wy_operation_read (struct wy_operation *o);
bool wy_operation_has (const struct wy_operation *o, char flag);
uid_t wy_operation_id (const char *text, uid_t source);
mode_t wy_operation_mode (const char *text, mode_t source);

/* pack.c, list.c, copy.c: the program's commands */
void wy_pack (int argc, char **argv);
void wy_list (int argc, char **argv);
void wy_copy (int argc, char **argv);

#endif
