/* The feeding process: reads the packed layer, inflates it, hashes both, and feeds the plain archive to the
 * process that creates files.
 *
 * Two processes use two cores, and separate what is trusted. The one that creates files parses untrusted
 * names, headers and attributes; if it is taken over, it must not be able to report false digests, or it
 * could store its files under the name of another layer. So only the feeding process holds the worker's end
 * of standard output, it cannot be traced (PR_SET_DUMPABLE; same user, but without CAP_SYS_PTRACE), and it
 * has no capabilities.
 *
 * It writes "at BYTES" now and then, and last "ok ENTRIES BYTES DROPPED DIGEST DIFFID" or a refusal, its own
 * or the other process's. */

#include "inflate.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PACKED_BYTES (256u * 1024u)
/* The default of fs.pipe-max-size. */
#define PIPE_BYTES (1024 * 1024)
#define SAID_EVERY_BYTES (8u * 1024u * 1024u)
#define ANSWER_BYTES_MAX 2048u
#define DIGEST_BYTES 32u
#define DIGEST_TEXT_BYTES (sizeof "sha256:" + 2 * DIGEST_BYTES)

struct feed
{
  struct wy_limits limits;
  struct wy_inflate inflate;
  EVP_MD_CTX *packed_hash, *plain_hash;
  unsigned char *buf;
  uint64_t packed, plain, said;
  int archive; /* pipe to the other process */
  int answer;  /* pipe from it */
};

/* Return: false if the other process has closed its end. */
static bool
feed_all (struct feed *f, const unsigned char *bytes, size_t len)
{
  while (len > 0)
    {
      ssize_t put = write (f->archive, bytes, len);
      if (put < 0 && errno == EINTR)
        continue;
      if (put < 0 && errno == EPIPE)
        return false;
      if (put < 0)
        wy_fail ("write", "");
      bytes += put;
      len -= (size_t)put;
    }
  return true;
}

static EVP_MD_CTX *
begin_hash (void)
{
  EVP_MD_CTX *hash = EVP_MD_CTX_new ();
  if (hash == NULL || EVP_DigestInit_ex (hash, EVP_sha256 (), NULL) != 1)
    wy_fail ("EVP_DigestInit_ex", "");
  return hash;
}

static void
add_to_hash (EVP_MD_CTX *hash, const unsigned char *bytes, size_t len)
{
  if (EVP_DigestUpdate (hash, bytes, len) != 1)
    wy_fail ("EVP_DigestUpdate", "");
}

static void
end_hash (EVP_MD_CTX *hash, char text[DIGEST_TEXT_BYTES])
{
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned len = 0;
  if (EVP_DigestFinal_ex (hash, digest, &len) != 1 || len != DIGEST_BYTES)
    wy_fail ("EVP_DigestFinal_ex", "");
  text = stpcpy (text, "sha256:");
  for (size_t i = 0; i < DIGEST_BYTES; i++)
    (void)snprintf (text + 2 * i, 3, "%02x", digest[i]);
}

static void
check_limits (struct feed *f)
{
  const struct wy_limits *l = &f->limits;
  if (f->plain > l->stream_bytes)
    wy_refuse (WY_LIMIT, "", "the layer is larger than its limit");
  if (f->plain > l->ratio_free_bytes && f->plain / l->ratio > f->packed)
    {
      char reason[96];
      (void)snprintf (reason, sizeof reason, "the layer inflates to more than %" PRIu64 " times its size",
                      l->ratio);
      wy_refuse (WY_LIMIT, "", reason);
    }
}

/* Send on what BYTES inflate to.  Return: false when the reader is gone. */
static bool
pass (struct feed *f, size_t len)
{
  const unsigned char *piece;
  f->packed += len;
  add_to_hash (f->packed_hash, f->buf, len);
  wy_inflate_give (&f->inflate, f->buf, len);
  for (size_t got; (got = wy_inflate_take (&f->inflate, &piece)) > 0;)
    {
      f->plain += got;
      check_limits (f);
      add_to_hash (f->plain_hash, piece, got);
      if (!feed_all (f, piece, got))
        return false;
      if (f->plain - f->said >= SAID_EVERY_BYTES)
        {
          f->said = f->plain;
          (void)dprintf (STDOUT_FILENO, "at %" PRIu64 "\n", f->plain);
        }
    }
  return true;
}

wy_noreturn static void
refuse_packed (const struct feed *f)
{
  char reason[64];
  (void)snprintf (reason, sizeof reason, "the layer is not valid %s", wy_inflate_name (&f->inflate));
  wy_refuse (WY_INVALID, "", reason);
}

/* Wait for input. Return: false if the other process has exited: a slow registry must not delay its
 * refusal. */
static bool
wait_for_input (const struct feed *f)
{
  struct pollfd ends[] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = f->archive } };
  while (poll (ends, 2, -1) < 0)
    if (errno != EINTR)
      wy_fail ("poll", "");
  return ends[1].revents == 0;
}

static void
pass_everything (struct feed *f)
{
  while (wait_for_input (f))
    {
      ssize_t got = read (STDIN_FILENO, f->buf, PACKED_BYTES);
      if (got < 0 && errno == EINTR)
        continue;
      if (got < 0)
        wy_fail ("read", "");
      if (got == 0 && f->inflate.whole)
        return;
      if (got > 0 && !pass (f, (size_t)got))
        return;
      if (got == 0 || f->inflate.bad)
        refuse_packed (f);
    }
}

/* Read the other process's line, without its newline. That process may have been taken over: only printable
 * text is passed on. */
static void
read_answer (const struct feed *f, char line[ANSWER_BYTES_MAX])
{
  size_t used = 0;
  for (;;)
    {
      ssize_t got = read (f->answer, line + used, ANSWER_BYTES_MAX - 1 - used);
      if (got < 0 && errno == EINTR)
        continue;
      if (got <= 0)
        break;
      used += (size_t)got;
    }
  line[used] = '\0';
  line[strcspn (line, "\n")] = '\0';
  for (char *p = line; *p != '\0'; p++)
    if ((unsigned char)*p < 0x20 || *p == 0x7f)
      *p = '?';
}

static void
say_ok (struct feed *f, const char *counts)
{
  char digest[DIGEST_TEXT_BYTES], diff_id[DIGEST_TEXT_BYTES];
  uint64_t entries, bytes, dropped;
  if (sscanf (counts, "%" SCNu64 " %" SCNu64 " %" SCNu64, &entries, &bytes, &dropped) != 3
      || bytes != f->plain)
    wy_refuse (WY_SYSTEM, "", "the archive was not read to its end");
  end_hash (f->packed_hash, digest);
  end_hash (f->plain_hash, diff_id);
  (void)dprintf (STDOUT_FILENO, "ok %" PRIu64 " %" PRIu64 " %" PRIu64 " %s %s\n", entries, bytes, dropped,
                 digest, diff_id);
}

wy_noreturn static void
feed (struct feed *f)
{
  char line[ANSWER_BYTES_MAX];
  wy_drop_capabilities (0);
  /* No configuration file: by now the root directory is the layer. */
  if (OPENSSL_init_crypto (OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
    wy_fail ("OPENSSL_init_crypto", "");
  f->packed_hash = begin_hash ();
  f->plain_hash = begin_hash ();
  f->buf = wy_alloc (PACKED_BYTES);
  pass_everything (f);
  close (f->archive);
  read_answer (f, line);
  if (strncmp (line, "ok ", 3) == 0)
    say_ok (f, line + 3);
  else
    (void)dprintf (STDOUT_FILENO, "%s\n", line);
  _exit (WY_OK);
}

static void
make_pipe (int ends[2])
{
  if (pipe2 (ends, O_CLOEXEC) < 0)
    wy_fail ("pipe2", "");
  (void)fcntl (ends[1], F_SETPIPE_SZ, PIPE_BYTES); /* best effort */
}

/* Start the feeding process. Afterwards this process reads the plain archive of COMPRESSION on standard input
 * and answers to the feeding process on standard output. */
void
wy_feed_start (const char *compression, const struct wy_limits *limits)
{
  struct feed f = { .limits = *limits };
  int archive[2], answer[2];
  if (!wy_inflate_open (&f.inflate, compression))
    wy_refuse (WY_USAGE, compression, "is not a compression");
  make_pipe (archive);
  make_pipe (answer);
  (void)signal (SIGPIPE, SIG_IGN);
  if (prctl (PR_SET_DUMPABLE, 0) < 0)
    wy_fail ("prctl", "");
  pid_t self = getpid (), pid = fork ();
  if (pid < 0)
    wy_fail ("fork", "");
  if (pid == 0)
    {
      if (prctl (PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid () != self)
        _exit (WY_SYSTEM);
      close (archive[0]);
      close (answer[1]);
      f.archive = archive[1];
      f.answer = answer[0];
      feed (&f);
    }
  if (dup2 (archive[0], STDIN_FILENO) < 0 || dup2 (answer[1], STDOUT_FILENO) < 0)
    _exit (WY_SYSTEM);
  for (size_t i = 0; i < 2; i++)
    {
      close (archive[i]);
      close (answer[i]);
    }
  wy_answer_before (pid);
}
