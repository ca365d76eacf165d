/* Interface of inflate.c. */

#ifndef WY_INFLATE_H
#define WY_INFLATE_H

#include "unpack.h"

#define WY_INFLATED_BYTES (256u * 1024u)

enum wy_packed
{
  WY_PACKED_NONE,
  WY_PACKED_GZIP,
  WY_PACKED_ZSTD,
  WY_PACKED_KINDS,
};

struct wy_inflate
{
  enum wy_packed kind;
  unsigned char *in; /* input not consumed yet */
  size_t left;
  unsigned char *out;
  bool bad;     /* the input is not of this format */
  bool whole;   /* the stream may end here */
  bool padding; /* gzip: only zeros may follow */
  bool more;    /* zstd: more output may be pending without input */
  struct inflate_state *gzip;
  struct ZSTD_DCtx_s *zstd;
};

bool wy_inflate_open (struct wy_inflate *z, const char *compression);
void wy_inflate_close (struct wy_inflate *z);
void wy_inflate_give (struct wy_inflate *z, unsigned char *bytes, size_t len);
size_t wy_inflate_take (struct wy_inflate *z, const unsigned char **out);
const char *wy_inflate_name (const struct wy_inflate *z);

#endif
