/* sys.h - raw system calls and small cleanups.
 *
 * The child of wy_start shares the caller's memory, thread-local storage included, so it must not touch
 * errno, malloc, stdio or any lock of the C library. These calls return -errno instead; both sides use
 * them. */
#ifndef WY_SYS_H
#define WY_SYS_H

#include <stdint.h>
#include <sys/syscall.h>

/* clang-format 14 and 19 disagree on inline assembly. */
/* clang-format off */
static inline long
wy_sys6 (long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile ("syscall"
                    : "=a"(result)
                    : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                    : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile ("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#else
#error "libwherry knows the system call convention of x86_64 and aarch64 only"
#endif
}
/* clang-format on */

/* Arguments are pointers or numbers; intptr_t holds both. */
#define WY_SYS_PICK(_1, _2, _3, _4, _5, _6, _7, NAME, ...) NAME
#define WY_SYS1(n) wy_sys6 (n, 0, 0, 0, 0, 0, 0)
#define WY_SYS2(n, a) wy_sys6 (n, (long)(a), 0, 0, 0, 0, 0)
#define WY_SYS3(n, a, b) wy_sys6 (n, (long)(a), (long)(b), 0, 0, 0, 0)
#define WY_SYS4(n, a, b, c) wy_sys6 (n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define WY_SYS5(n, a, b, c, d) wy_sys6 (n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define WY_SYS6(n, a, b, c, d, e) wy_sys6 (n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define WY_SYS7(n, a, b, c, d, e, f)                                                                         \
  wy_sys6 (n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define wy_sys(...)                                                                                          \
  WY_SYS_PICK (__VA_ARGS__, WY_SYS7, WY_SYS6, WY_SYS5, WY_SYS4, WY_SYS3, WY_SYS2, WY_SYS1) (__VA_ARGS__)

static inline void
wy_close (int *fd)
{
  if (*fd >= 0)
    wy_sys (SYS_close, *fd);
  *fd = -1;
}

#define wy_cleanup_close __attribute__ ((cleanup (wy_close)))

#endif
