/* plan-fuzz.c - libFuzzer target for the plan checker: it must answer any bytes and never read past
 * them. An accepted plan is then walked as the performer would walk it: every text and list must be
 * readable (the address sanitizer watches).
 */
#include <stdlib.h>
#include <string.h>

#include "wherry.h"

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static size_t
walk (const char *text, uint64_t count)
{
  size_t total = 0;
  for (uint64_t i = 0; i < count; i++)
    {
      size_t length = strlen (text);
      total += length;
      text += length + 1;
    }
  return total;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct wy_error err;
  uint8_t *copy = malloc (size > 0 ? size : 1); /* exactly as large, so that the sanitizer sees the end */
  memcpy (copy, data, size);
  volatile size_t total = 0;
  if (wy_plan_check (copy, size, &err) == 0)
    {
      const struct wy_plan *plan = (const struct wy_plan *)(const void *)copy;
      const struct wy_op *ops = (const struct wy_op *)(const void *)(copy + sizeof *plan);
      const char *text = (const char *)copy + plan->text_offset;
      for (uint32_t i = 0; i < plan->op_count; i++)
        if (ops[i].kind == WY_OP_EXEC || ops[i].kind == WY_OP_EXEC_FD || ops[i].kind == WY_OP_HOOK)
          total += walk (text + ops[i].text[0], ops[i].num) + walk (text + ops[i].text[1], ops[i].num2)
                   + walk (text + ops[i].text[2], ops[i].wide);
        else if (ops[i].kind == WY_OP_CHECK_PROGRAM)
          total += walk (text + ops[i].text[0], ops[i].num);
        else if (ops[i].kind == WY_OP_WRITE || ops[i].kind == WY_OP_SYMLINK || ops[i].kind == WY_OP_USER_MAPS)
          total += walk (text + ops[i].text[0], 1) + walk (text + ops[i].text[1], 1);
        else if (ops[i].kind == WY_OP_FSMOUNT)
          total += walk (text + ops[i].text[1], ops[i].num);
        else if (ops[i].kind == WY_OP_MOUNT)
          for (unsigned t = 0; t < 4; t++)
            total += walk (text + ops[i].text[t], 1);
        else if (ops[i].kind == WY_OP_SECCOMP || ops[i].kind == WY_OP_SECCOMP_LISTEN)
          for (uint32_t b = 0; b < ops[i].num; b++)
            total += (size_t)text[ops[i].text[0] + b];
    }
  (void)total;
  free (copy);
  return 0;
}
