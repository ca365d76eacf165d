/* plan-test.c - the checker accepts a good plan and refuses every way of spoiling one.
 * Prints TAP; needs no privileges, because nothing is performed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wherry.h"

enum
{
  OPS = 3,
  TEXT = 64
};

struct sample
{
  struct wy_plan plan;
  struct wy_op ops[OPS];
  char text[TEXT];
};

static int failures, count;

/* tree "/x" into handle 0, attach it at "/y", exec "a" with argv "a" and no environment */
static struct sample
good (void)
{
  struct sample s = { 0 };
  s.plan = (struct wy_plan){ .magic = WY_PLAN_MAGIC,
                             .abi = WY_ABI,
                             .size = sizeof s,
                             .op_count = OPS,
                             .text_offset = offsetof (struct sample, text),
                             .handle_count = 1,
                             .cgroup_fd = -1,
                             .idmap_fd = -1,
                             .netns_fd = -1 };
  memcpy (s.text, "\0/x\0/y\0a", 9);
  s.ops[0] = (struct wy_op){ .kind = WY_OP_TREE, .handle = 0, .text = { 1 } };
  s.ops[1] = (struct wy_op){ .kind = WY_OP_ATTACH, .handle = 0, .text = { 4 } };
  s.ops[2] = (struct wy_op){ .kind = WY_OP_EXEC, .num = 1, .num2 = 1, .text = { 7, 7 } };
  return s;
}

static void
expect (struct sample *s, uint64_t size, int ok, const char *what)
{
  struct wy_error err;
  int result = wy_plan_check ((const uint8_t *)s, size, &err);
  int passed = (result == 0) == (ok != 0);
  count++;
  failures += !passed;
  printf ("%s %d - %s (%s)\n", passed ? "ok" : "not ok", count, what, result == 0 ? "taken" : err.call);
}

#define REFUSED(what, change)                                                                                \
  do                                                                                                         \
    {                                                                                                        \
      struct sample s = good ();                                                                             \
      change;                                                                                                \
      expect (&s, sizeof s, 0, what);                                                                        \
    }                                                                                                        \
  while (0)

/* Operations that only wherry-init may perform are refused before anything is opened or cloned. */
static void
refuse_init_operations (void)
{
  static const uint32_t kinds[] = { WY_OP_WAIT, WY_OP_HOOK, WY_OP_COPY_UP, WY_OP_HOME };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    {
      struct sample s = good ();
      struct wy_child child;
      struct wy_error err;
      if (kinds[i] == WY_OP_HOOK)
        s.ops[1] = s.ops[2];
      s.ops[1].kind = kinds[i];
      s.ops[0] = (struct wy_op){ .kind = WY_OP_FD, .num = 0 };
      int passed = wy_plan_check ((const uint8_t *)&s, sizeof s, &err) == 0
                   && wy_start ((const uint8_t *)&s, sizeof s, 0, &child, &err) < 0
                   && strcmp (err.call, "only for wherry-init") == 0 && err.op == 1;
      failures += !passed;
      printf ("%s %d - operation %u is only for wherry-init\n", passed ? "ok" : "not ok", ++count, kinds[i]);
    }
}

/* Every single byte of a good plan set to 0, 1, 0x7f, 0x80 and 0xff: whatever the answer, the checker
 * must not read out of bounds (the sanitizers watch). */
static void
spoil_every_byte (void)
{
  static const unsigned char values[] = { 0, 1, 0x7f, 0x80, 0xff };
  struct wy_error err;
  for (size_t at = 0; at < sizeof (struct sample); at++)
    for (size_t v = 0; v < sizeof values; v++)
      {
        struct sample s = good ();
        ((unsigned char *)&s)[at] = values[v];
        wy_plan_check ((const uint8_t *)&s, sizeof s, &err);
      }
  printf ("ok %d - every byte spoilt, nothing read outside\n", ++count);
}

/* Whole plans, good and of the wrong size. */
static void
check_sizes (void)
{
  struct sample plain = good ();
  expect (&plain, sizeof plain, 1, "a good plan is accepted");
  struct sample aside = good ();
  aside.ops[0] = (struct wy_op){ .kind = WY_OP_ASIDE, .num = 1 };
  aside.ops[1] = (struct wy_op){ .kind = WY_OP_SUBTREE, .from = WY_HANDLE_NONE, .text = { 4 } };
  expect (&aside, sizeof aside, 1, "mounts made aside are accepted");
  expect (&plain, sizeof plain - 1, 0, "a size other than the buffer's is refused");
  expect (&plain, 8, 0, "a buffer without a header is refused");
  expect (&plain, WY_PLAN_SIZE_MAX + 1ull, 0, "an oversized plan is refused");
}

/* Headers that do not describe their buffer. */
static void
refuse_headers (void)
{
  REFUSED ("a wrong magic", s.plan.magic++);
  REFUSED ("a wrong abi", s.plan.abi++);
  REFUSED ("no operations", s.plan.op_count = 0);
  REFUSED ("more operations than fit", s.plan.op_count = 5);
  REFUSED ("too many operations", s.plan.op_count = WY_OPS_MAX + 1);
  REFUSED ("too many handles", s.plan.handle_count = WY_HANDLES_MAX + 1);
  REFUSED ("texts that begin after the buffer", s.plan.text_offset = sizeof s);
  REFUSED ("texts that begin inside the operations", s.plan.text_offset -= 8);
  REFUSED ("clone flags other than namespaces", s.plan.clone_flags = 0x100);
  REFUSED ("a text area that does not end with NUL", s.text[TEXT - 1] = 'x');
  REFUSED ("a text area that does not begin with NUL", s.text[0] = 'x');
  REFUSED ("an id range past the last id",
           (s.plan.clone_flags = 0x10000000, s.plan.id_base = 0xffffff00u, s.plan.id_count = 65536));
}

/* Single operations that are unknown, misplaced or point outside of the text area. */
static void
refuse_operations (void)
{
  REFUSED ("an unknown operation", s.ops[1].kind = WY_OP_KINDS);
  REFUSED ("operation zero", s.ops[1].kind = 0);
  REFUSED ("a string outside of the text area", s.ops[0].text[0] = TEXT);
  REFUSED ("a handle out of range", s.ops[0].handle = 1);
  REFUSED ("a handle used before it was opened", s.ops[0].kind = WY_OP_HOSTNAME);
  REFUSED ("a handle opened twice", s.ops[1].kind = WY_OP_TREE);
  REFUSED ("a caller's operation after the child's",
           (s.ops[0] = (struct wy_op){ .kind = WY_OP_LOOPBACK_UP }, s.ops[1].kind = WY_OP_TREE));
  REFUSED ("exec before the end", s.ops[1] = s.ops[2]);
  REFUSED ("no exec at the end", s.ops[2].kind = WY_OP_LOOPBACK_UP);
  REFUSED ("an argument list that runs out of the area", s.ops[2].num2 = TEXT);
  REFUSED ("an environment of a billion entries", s.ops[2].wide = 1000000000);
  REFUSED ("no program to try", s.ops[2].num = 0);
}

/* Handles that no earlier operation opened. */
static void
refuse_handles (void)
{
  REFUSED ("idmap without a namespace", s.ops[0].flags = WY_IDMAP);
  REFUSED ("joining what is not a namespace", (s.ops[1].kind = WY_OP_SETNS, s.ops[1].wide = 0x100));
  REFUSED ("joining a handle that was not opened", (s.ops[1].kind = WY_OP_SETNS, s.ops[1].handle = 1));
  REFUSED ("a pid namespace after the child's operations",
           (s.ops[1].kind = WY_OP_PID_NAMESPACE, s.ops[0] = (struct wy_op){ .kind = WY_OP_LOOPBACK_UP }));
  REFUSED ("a program by a handle that was not opened", (s.ops[2].kind = WY_OP_EXEC_FD, s.ops[2].handle = 1));
  REFUSED ("a program by handle before the end", (s.ops[1] = s.ops[2], s.ops[1].kind = WY_OP_EXEC_FD));
  REFUSED ("ids mapped through a handle that was not opened",
           (s.ops[0].flags = WY_IDMAP_HANDLE, s.ops[0].from = 0));
  REFUSED ("mapped ids on an operation other than a tree",
           (s.ops[1].flags = WY_IDMAP_HANDLE, s.ops[1].from = 0));
}

/* Lists, blobs and numbers that do not fit their operation. */
static void
refuse_contents (void)
{
  REFUSED ("no program to check", s.ops[1].kind = WY_OP_CHECK_PROGRAM);
  REFUSED ("programs to check that run out of the area",
           (s.ops[1].kind = WY_OP_CHECK_PROGRAM, s.ops[1].num = TEXT));
  REFUSED ("a hook without arguments", (s.ops[1] = s.ops[2], s.ops[1].kind = WY_OP_HOOK, s.ops[1].num2 = 0));
  REFUSED ("a hook's stdin outside of the text area",
           (s.ops[1] = s.ops[2], s.ops[1].kind = WY_OP_HOOK, s.ops[1].text[3] = TEXT));
  REFUSED ("more descriptors to keep than allowed",
           (s.ops[1].kind = WY_OP_KEEP_FDS, s.ops[1].num = 1u << 30));
  REFUSED ("content to write outside of the text area",
           (s.ops[1].kind = WY_OP_WRITE, s.ops[1].text[1] = TEXT));
  REFUSED ("id maps without a user namespace", s.ops[1].kind = WY_OP_USER_MAPS);
  REFUSED ("a filter outside of the text area",
           (s.ops[1] = (struct wy_op){ .kind = WY_OP_SECCOMP, .num = 128, .text = { 8 } }));
  REFUSED ("a filter that is not aligned",
           (s.ops[1] = (struct wy_op){ .kind = WY_OP_SECCOMP, .num = 8, .text = { 3 } }));
  REFUSED ("a filter whose listener has no socket",
           (s.ops[1] = (struct wy_op){ .kind = WY_OP_SECCOMP_LISTEN, .num = 8, .text = { 8 }, .handle = 1 }));
  REFUSED ("a listener's state outside of the text area",
           (s.ops[1] = (struct wy_op){ .kind = WY_OP_SECCOMP_LISTEN, .num = 8, .text = { 8, 0, TEXT } }));
  REFUSED ("more groups than fit",
           (s.ops[1] = (struct wy_op){ .kind = WY_OP_IDS, .from = 1000, .text = { 8 } }));
  REFUSED ("a scheduler whose size field is larger than its bytes",
           (s.ops[1] = (struct wy_op){ .kind = WY_OP_SCHEDULER, .num = 48, .text = { 0 } }));
}

/* WY_OP_ASIDE over operations that it does not take. */
static void
refuse_aside (void)
{
  REFUSED ("nothing done aside",
           (s.ops[0] = (struct wy_op){ .kind = WY_OP_ASIDE }, s.ops[1].kind = WY_OP_LOOPBACK_UP));
  REFUSED ("the program executed aside", (s.ops[0] = (struct wy_op){ .kind = WY_OP_ASIDE, .num = 2 },
                                          s.ops[1] = (struct wy_op){ .kind = WY_OP_PROPAGATION }));
  REFUSED ("more operations aside than there are",
           (s.ops[0] = (struct wy_op){ .kind = WY_OP_ASIDE, .num = ~0u },
            s.ops[1] = (struct wy_op){ .kind = WY_OP_PROPAGATION }));
  REFUSED ("an operation aside that is not on mounts",
           (s.ops[0] = (struct wy_op){ .kind = WY_OP_ASIDE, .num = 1 },
            s.ops[1] = (struct wy_op){ .kind = WY_OP_LOOPBACK_UP }));
  REFUSED ("aside after the child's operations",
           (s.ops[0] = (struct wy_op){ .kind = WY_OP_LOOPBACK_UP },
            s.ops[1] = (struct wy_op){ .kind = WY_OP_ASIDE, .num = 1 }));
}

int
main (void)
{
  check_sizes ();
  refuse_headers ();
  refuse_operations ();
  refuse_handles ();
  refuse_contents ();
  refuse_aside ();
  refuse_init_operations ();
  spoil_every_byte ();
  printf ("1..%d\n", count);
  return failures == 0 ? 0 : 1;
}
