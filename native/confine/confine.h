/* What wherry-unpack and wherry-layer share: a world that is one folder, and a stranger's names shown so that
 * a line stays a line. Each program has its own way to fail, and gives it here as wy_fail. */
#ifndef WY_CONFINE_H
#define WY_CONFINE_H

#include <linux/capability.h>
#include <stddef.h>
#include <stdint.h>

#define wy_noreturn __attribute__ ((noreturn))

/* A name is shown up to here; behind it nobody reads. */
#define WY_SHOWN_BYTES_MAX 200u
#define WY_SHOWN_CAP (WY_SHOWN_BYTES_MAX * 4 + 1)

/* Owners, modes and file capabilities of others' files can be set; nothing else of root. */
#define WY_FILE_CAPABILITIES                                                                                 \
  (1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_FSETID | 1u << CAP_SETFCAP)

/* The kernel refused CALL (errno says why) while NAME was handled: say so and end. */
wy_noreturn void wy_fail (const char *call, const char *name);

/* NAME into OUT of WY_SHOWN_CAP bytes, control characters as \xNN. */
void wy_show (char *out, const char *name);

/* DIR becomes "/", nosuid, nodev and noexec, and the old root is let go; the mount namespace is the process's
 * own already. */
void wy_pivot_into (const char *dir);

/* Give up all capabilities but KEPT. */
void wy_drop_capabilities (uint32_t kept);

/* malloc that does not return NULL. */
void *wy_alloc (size_t size);

#endif
