/* probe-sockets.c - verbs that try to reach other processes: over the network, by a name, or by a key. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "probe.h"

static socklen_t
abstract_name (struct sockaddr_un *address, const char *name)
{
  *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
  strncpy (address->sun_path + 1, name, sizeof address->sun_path - 2);
  return (socklen_t)(sizeof (sa_family_t) + 1 + strlen (name));
}

static int
do_connect_abstract (char **argv)
{
  struct sockaddr_un address;
  socklen_t length = abstract_name (&address, argv[0]);
  return say (connect (socket (AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, length));
}

/* A connection to itself over loopback whose closing side stays in TIME_WAIT. */
static int
do_leave_connection (char **argv)
{
  char end;
  struct sockaddr_in address = { .sin_family = AF_INET,
                                 .sin_port = htons ((uint16_t)atoi (argv[0])),
                                 .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  int listener = socket (AF_INET, SOCK_STREAM, 0), near = socket (AF_INET, SOCK_STREAM, 0);
  if (bind (listener, (struct sockaddr *)&address, sizeof address) < 0 || listen (listener, 1) < 0
      || connect (near, (struct sockaddr *)&address, sizeof address) < 0)
    return say (-1);
  close (accept (listener, NULL, NULL));
  return say (read (near, &end, 1));
}

static int
do_bind (char **argv)
{
  struct sockaddr_in address = { .sin_family = AF_INET,
                                 .sin_port = htons ((uint16_t)atoi (argv[0])),
                                 .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  return say (bind (socket (AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
}

/* fill-sockets PAIRS: count the bytes that loopback connections hold unread. */
static int
do_fill_sockets (char **argv)
{
  static char block[65536];
  long long held = 0;
  struct sockaddr_in address
      = { .sin_family = AF_INET, .sin_port = htons (9000), .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  int listener = socket (AF_INET, SOCK_STREAM, 0);
  bind (listener, (struct sockaddr *)&address, sizeof address);
  listen (listener, 16);
  for (int i = atoi (argv[0]); i > 0; i--)
    {
      int near = socket (AF_INET, SOCK_STREAM, 0);
      if (connect (near, (struct sockaddr *)&address, sizeof address) < 0
          || accept (listener, NULL, NULL) < 0)
        break;
      fcntl (near, F_SETFL, O_NONBLOCK);
      for (int tries = 0; tries < 200; tries++)
        {
          ssize_t size = write (near, block, sizeof block);
          if (size > 0)
            held += size;
          else
            usleep (50);
        }
    }
  printf ("%lld\n", held);
  return 0;
}

static struct sockaddr_in
inet_name (const char *host, const char *port)
{
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons ((uint16_t)atoi (port)) };
  inet_pton (AF_INET, host, &address.sin_addr);
  return address;
}

/* connect HOST PORT */
static int
do_connect (char **argv)
{
  struct sockaddr_in address = inet_name (argv[0], argv[1]);
  return say (connect (socket (AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
}

/* send HOST PORT: one datagram */
static int
do_send (char **argv)
{
  struct sockaddr_in address = inet_name (argv[0], argv[1]);
  return say (
      sendto (socket (AF_INET, SOCK_DGRAM, 0), "x", 1, 0, (struct sockaddr *)&address, sizeof address));
}

/* offer NAME PORT KEY MS: create things that others could find and keep them for MS: an abstract socket, a
 * port, a message queue and shared memory. */
static int
do_offer (char **argv)
{
  struct sockaddr_un address;
  struct sockaddr_in port = inet_name ("127.0.0.1", argv[1]);
  socklen_t length = abstract_name (&address, argv[0]);
  char queue[256];
  int local = socket (AF_UNIX, SOCK_STREAM, 0), inet = socket (AF_INET, SOCK_STREAM, 0);
  snprintf (queue, sizeof queue, "/%s", argv[0]);
  if (bind (local, (struct sockaddr *)&address, length) < 0 || listen (local, 1) < 0
      || bind (inet, (struct sockaddr *)&port, sizeof port) < 0 || listen (inet, 1) < 0
      || mq_open (queue, O_CREAT | O_RDWR, 0666, NULL) < 0
      || shmget (atoi (argv[2]), 4096, IPC_CREAT | 0666) < 0)
    return say (-1);
  say (0);
  fflush (stdout);
  return do_sleep (argv + 3);
}

/* find NAME PORT KEY: print which of these exist */
static int
do_find (char **argv)
{
  struct sockaddr_in port = inet_name ("127.0.0.1", argv[1]);
  char queue[256];
  snprintf (queue, sizeof queue, "/%s", argv[0]);
  do_connect_abstract (argv);
  say (connect (socket (AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&port, sizeof port));
  say (mq_open (queue, O_RDWR));
  return say (shmget (atoi (argv[2]), 0, 0));
}

const struct verb socket_verbs[] = {
  { "connect-abstract", do_connect_abstract, 1 },
  { "leave-connection", do_leave_connection, 1 },
  { "bind", do_bind, 1 },
  { "fill-sockets", do_fill_sockets, 1 },
  { "connect", do_connect, 2 },
  { "send", do_send, 2 },
  { "offer", do_offer, 4 },
  { "find", do_find, 3 },
  { NULL, NULL, 0 },
};
