/* Shared by wherry-unpack and wherry-layer: confinement to one folder, and escaping of untrusted names in
 * messages. Each program defines wy_fail. */
#ifndef WY_CONFINE_H
#define WY_CONFINE_H

#include <linux/capability.h>
#include <stddef.h>
#include <stdint.h>

#define wy_noreturn __attribute__ ((noreturn))

/* Bytes of a name that messages show. */
#define WY_SHOWN_BYTES_MAX 200u
#define WY_SHOWN_CAP (WY_SHOWN_BYTES_MAX * 4 + 1)

/* Enough to set owners, modes and file capabilities of any file, and nothing else. */
#define WY_FILE_CAPABILITIES                                                                                 \
  (1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_FSETID | 1u << CAP_SETFCAP)

/* Report that CALL failed with errno while NAME was handled, and exit. */
wy_noreturn void wy_fail (const char *call, const char *name);

/* NAME into OUT of WY_SHOWN_CAP bytes, control characters as \xNN. */
void wy_show (char *out, const char *name);

/* Make DIR "/", nosuid, nodev and noexec, and detach the old root. The process must already be in its own
 * mount namespace. */
void wy_pivot_into (const char *dir);

/* Drop all capabilities except KEPT. */
void wy_drop_capabilities (uint32_t kept);

/* malloc that does not return NULL. */
void *wy_alloc (size_t size);

#endif
