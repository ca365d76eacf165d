/* wherry.h - the whole interface of libwherry.so.
 *
 * TypeScript decides a container's start and hands it over once, as a plan: one flat buffer of operations in
 * the order of execution. This library checks the whole buffer, then performs it: some operations before the
 * clone in the caller (they open things that only the host may open), the others in the new process, which
 * shares memory with the caller until it executes the container's program.
 *
 * Layout: wy_plan, then op_count times wy_op, then the text area. A text is an offset into that area,
 * NUL-terminated; offset 0 is the empty text and means "none". A list is a number of consecutive texts. A
 * blob is an offset and a length. Byte order is the machine's.
 *
 * A handle names a file descriptor while a plan is performed: one operation opens it, later ones use it. The
 * caller's own descriptors come in through WY_OP_FD. */
#ifndef WHERRY_H
#define WHERRY_H

#include <stddef.h>
#include <stdint.h>

#define WY_ABI 6u
#define WY_PLAN_MAGIC 0x4e4c5057u /* "WPLN" */

#define WY_PLAN_SIZE_MAX (4u << 20)
#define WY_OPS_MAX 4096u
#define WY_HANDLES_MAX 1024u
#define WY_LIST_MAX 4096u
#define WY_HANDLE_NONE 0xffffffffu

/* In the comments: t0..t3 are texts, [p] runs in the caller before the clone, [c] in the child, [i] in a
 * child that has become wherry-init (init/main.c), a process that shares no memory and may allocate and
 * wait. */
enum wy_op_kind
{
  /* [p] handle = the caller's descriptor num (kept open by the caller) */
  WY_OP_FD = 1,
  /* [p] handle = detached clone of the mount at t0; attributes: wide set, wide2 cleared; propagation num
   * (MS_SHARED …, MS_REC for all below); WY_IDMAP, WY_IDMAP_HANDLE, WY_RECURSIVE, WY_RECURSIVE_ATTRIBUTES */
  WY_OP_TREE,
  /* [p] open t0, a v1 "tasks" or v2 "cgroup.procs" file; [c] write "0" to it */
  WY_OP_CGROUP_JOIN,
  /* [c] wait until the caller has written this user namespace's id maps: t0 and t1 are the contents of
   * uid_map and gid_map; by default the plan's one range for both */
  WY_OP_USER_MAPS,
  /* [c] unshare(2) with the CLONE_NEW* flags in wide; a time namespace is entered at exec */
  WY_OP_UNSHARE,
  /* [c] mount(2) "/" with the flags in wide */
  WY_OP_PROPAGATION,
  /* [c] become root of the user namespace (gid 0, uid 0, no other groups) */
  WY_OP_SETUP_IDS,
  /* [c] handle = new file system t0 with num options "key=value" or "flag" from t1; attributes wide */
  WY_OP_FSMOUNT,
  /* [c] make directory t0, mode num, below handle; owner num2, if not 0 */
  WY_OP_MKDIR,
  /* [c] fchdir to handle */
  WY_OP_FCHDIR,
  /* [c] move_mount handle onto t0; WY_MAKE_DIR, WY_MAKE_FILE, WY_NO_SYMLINKS, WY_OPTIONAL, WY_NOT_ON_PROC,
   * WY_COPY_MODE */
  WY_OP_ATTACH,
  /* [c] mount(2) source t0, target t1, type t2, data t3, flags wide; names relative to the cwd */
  WY_OP_MOUNT,
  /* [c] attach a clone of t0 below `from` (or the root) onto t1, attributes wide; flags as ATTACH,
   * WY_FOLLOW */
  WY_OP_BIND,
  /* [c] handle = detached clone of t0 below `from` (or the root); attributes and propagation as TREE;
   * WY_RECURSIVE, WY_FOLLOW */
  WY_OP_SUBTREE,
  /* [c] set attributes wide, clear wide2, on the mount at t0; WY_RECURSIVE_ATTRIBUTES */
  WY_OP_ATTRIBUTES,
  /* [c] make t0 (relative to the cwd) the root and forget the old one */
  WY_OP_PIVOT,
  /* [c] t0 */
  WY_OP_HOSTNAME,
  /* [c] */
  WY_OP_LOOPBACK_UP,
  /* [c] resource num, soft wide, hard wide2; WY_RAISE_ONLY */
  WY_OP_RLIMIT,
  /* [c] uid num, gid num2, additional groups: blob t0 of `from` 32-bit ids */
  WY_OP_IDS,
  /* [c] blob t0: five 64-bit sets: bounding, permitted, inheritable, effective, ambient */
  WY_OP_CAPABILITIES,
  /* [c] */
  WY_OP_NO_NEW_PRIVS,
  /* [c] signal num when the calling thread dies */
  WY_OP_PARENT_DEATH,
  /* [c] descriptor num (0..2) = handle */
  WY_OP_STDIO,
  /* [c] every descriptor above 2 + num is closed, with WY_KEEP_UNTIL_EXEC at exec */
  WY_OP_CLOSE_FDS,
  /* [c] working directory t0; refused when it lies outside the root; WY_MAKE_DIR */
  WY_OP_CHDIR,
  /* [c] blob t0 of num bytes: an array of struct sock_filter; SECCOMP_FILTER_FLAG_* num2 */
  WY_OP_SECCOMP,
  /* [c] programs to try: num texts at t0; argv: num2 texts at t1; environment: `wide` texts at t2 */
  WY_OP_EXEC,
  /* [p] the child is born in the pid namespace behind handle (a namespace or a pidfd) */
  WY_OP_PID_NAMESPACE,
  /* [c] setns(2) to handle with the CLONE_NEW* flags in wide */
  WY_OP_SETNS,
  /* [c] handle stays open across exec under its descriptor number in the caller */
  WY_OP_INHERIT,
  /* [c] execute the program that handle refers to; otherwise as WY_OP_EXEC */
  WY_OP_EXEC_FD,
  /* [c] t0 */
  WY_OP_DOMAINNAME,
  /* [c] num */
  WY_OP_UMASK,
  /* [c] personality(2) num */
  WY_OP_PERSONALITY,
  /* [c] join a new session keyring named t0 */
  WY_OP_KEYRING,
  /* [c] change the owner of descriptors 0..2 to uid num, where possible */
  WY_OP_STDIO_OWNER,
  /* [c] write t1 into the file t0 below handle */
  WY_OP_WRITE,
  /* [c] node t0, mode num (with its S_IF type), device wide, owner num2:from */
  WY_OP_MKNOD,
  /* [c] symbolic link t1 to t0 */
  WY_OP_SYMLINK,
  /* [c] hide t0: a directory behind an empty one, anything else behind handle (a file tree) */
  WY_OP_MASK,
  /* [c] a terminal becomes descriptors 0..2 and controls the session; its master is sent over the socket
   * handle; num rows, num2 columns (0: leave); owner wide; WY_MAKE_FILE: also /dev/console */
  WY_OP_CONSOLE,
  /* [c] check that one of num programs at t0 can be executed */
  WY_OP_CHECK_PROGRAM,
  /* [i] report success so far, then wait for a connection on the listening socket handle; later failures are
   * reported there, and the connection closes at exec */
  WY_OP_WAIT,
  /* [i] run program t0 (num 1) with num2 texts at t1 and `wide` variables at t2, text t3 on stdin; killed
   * after `from` milliseconds (0: never); its exit code must be 0 */
  WY_OP_HOOK,
  /* [c] on the mount of handle: attributes wide set, wide2 cleared, propagation num;
   * WY_RECURSIVE_ATTRIBUTES */
  WY_OP_SETATTR,
  /* [c] open descriptors from 0 to num - 1 stay open across exec */
  WY_OP_KEEP_FDS,
  /* [i] copy the contents of directory t0 into handle, with num != 0 also its owner and mode */
  WY_OP_COPY_UP,
  /* [c] the working directory becomes the root; for a mount namespace that is not ours to pivot */
  WY_OP_CHROOT,
  /* [c] blob t0 of num bytes: a struct sched_attr */
  WY_OP_SCHEDULER,
  /* [c] ioprio_set(2) num */
  WY_OP_IO_PRIORITY,
  /* [i] set HOME in the environment to that of user num in /etc/passwd, unless it has one */
  WY_OP_HOME,
  /* [i] as WY_OP_SECCOMP; the listener goes to the socket handle, which t1 names, with the text t2 */
  WY_OP_SECCOMP_LISTEN,
  /* [p] the next num operations, [c] ones on mounts, are performed by a process with the caller's ids in a
   * new mount namespace, which ends after them; the handles that they opened stay */
  WY_OP_ASIDE,
  WY_OP_KINDS
};

enum wy_op_flags
{
  /* map ids through the plan's idmap_fd (mount_setattr(2), MOUNT_ATTR_IDMAP) */
  WY_IDMAP = 1u << 0,
  /* include the mounts below */
  WY_RECURSIVE = 1u << 1,
  /* make the target directory, and those above it, when missing */
  WY_MAKE_DIR = 1u << 2,
  /* make the target file, and the directories above it, when missing */
  WY_MAKE_FILE = 1u << 3,
  /* a symbolic link anywhere in the target is an error */
  WY_NO_SYMLINKS = 1u << 4,
  /* a missing target is not an error */
  WY_OPTIONAL = 1u << 5,
  /* also set attributes on the mounts below */
  WY_RECURSIVE_ATTRIBUTES = 1u << 6,
  /* descriptors that later operations need */
  WY_KEEP_UNTIL_EXEC = 1u << 7,
  /* WY_OP_CHECK_PROGRAM has checked the programs; a filter may forbid checking again */
  WY_CHECKED = 1u << 8,
  /* map ids through the user namespace of handle `from`; with WY_RECURSIVE also below */
  WY_IDMAP_HANDLE = 1u << 9,
  /* t0 may be a symbolic link */
  WY_FOLLOW = 1u << 10,
  /* a target on a proc file system is an error (EXDEV) */
  WY_NOT_ON_PROC = 1u << 11,
  /* the attached mount gets the mode of the directory that it covers */
  WY_COPY_MODE = 1u << 12,
  /* do not lower a limit yet: later operations need more */
  WY_RAISE_ONLY = 1u << 13
};

struct wy_op
{
  uint32_t kind;
  uint32_t flags;
  uint32_t handle;
  uint32_t from;
  uint32_t num;
  uint32_t num2;
  uint32_t text[4];
  uint64_t wide;
  uint64_t wide2;
};

struct wy_plan
{
  uint32_t magic;
  uint32_t abi;
  uint32_t size; /* of the whole buffer */
  uint32_t op_count;
  uint32_t text_offset;
  uint32_t handle_count;
  uint64_t clone_flags; /* CLONE_NEW* only */
  int32_t cgroup_fd;    /* v2: CLONE_INTO_CGROUP; -1 for none */
  int32_t idmap_fd;     /* user namespace whose maps WY_IDMAP uses; -1 for none */
  int32_t netns_fd;     /* network namespace to start in; -1 for the caller's or a new one */
  uint32_t id_base;     /* with CLONE_NEWUSER: inside 0..id_count-1 is outside id_base.. */
  uint32_t id_count;
  uint32_t pipe_owner; /* outside id that owns the stdio pipes, so that /dev/stdout can be opened */
};

struct wy_child
{
  int32_t pid;
  int32_t pidfd;
  int32_t stdio[3]; /* our ends: write, read, read; non-blocking, close-on-exec */
};

struct wy_error
{
  int32_t code;  /* positive errno */
  int32_t op;    /* index of the operation, -1 for none */
  char call[24]; /* system call, or what is wrong with the plan */
};

struct wy_exit
{
  int32_t exited;    /* 0 while it still runs */
  int32_t exit_code; /* -1 if a signal ended it */
  int32_t signal;    /* 0 if it exited */
  int32_t reserved;
  uint64_t user_us;
  uint64_t system_us;
};

uint32_t wy_abi (void);
uint64_t wy_sizeof (uint32_t what); /* 0 wy_plan, 1 wy_op, 2 wy_child, 3 wy_error, 4 wy_exit */

/* Check PLAN without doing anything.  Return: 0, or -1 with ERR (EINVAL, E2BIG). */
int wy_plan_check (const uint8_t *plan, uint64_t size, struct wy_error *err);

/* Check and perform PLAN.  With STDIO != 0 three pipes become the child's descriptors 0..2.
 * Must be called from a thread that outlives the child (WY_OP_PARENT_DEATH follows the thread).
 * Return: 0 once the program runs, with CHILD filled in; -1 with ERR and no process or descriptor left. */
int wy_start (const uint8_t *plan, uint64_t size, int32_t stdio, struct wy_child *child,
              struct wy_error *err);

/* Check PLAN, perform its [p] operations and send it, with the descriptors that they opened, to the
 * wherry-init at the other end of SOCKET. Return: 0 once it was sent; -1 with ERR. */
int wy_send (int32_t socket, const uint8_t *plan, uint64_t size, struct wy_error *err);

/* Wait for the next report of the wherry-init at the other end of SOCKET: ERR->code 0 means that it waits
 * (WY_OP_WAIT) or has executed its program. Return: 1 if it waits, 0 if it executed its program, -1 with
 * ERR. */
int wy_report (int32_t socket, struct wy_error *err);

/* Collect the exit of PIDFD if it has exited.  Return: 0, or -errno. */
int wy_wait (int32_t pidfd, struct wy_exit *out);

/* Send SIGNAL to PIDFD. Return: 0, or -errno (ESRCH: it has ended). */
int wy_kill (int32_t pidfd, int32_t signal);

/* Set the oom_score_adj (proc_pid_oom_score_adj(5)) of the just started process PID to TEXT, LEN bytes
 * ("1000"). Return: 0, also if it has ended or if this process may not check whether it shares memory;
 * -errno. */
int wy_oom_score (int32_t pid, const char *text, uint64_t len);

/* Create a user namespace with these contents of uid_map and gid_map, held by the returned descriptor only.
 * Return: a descriptor, or -errno. */
int wy_userns_new (const char *uid_map, const char *gid_map);

/* Create a network namespace with `lo` up, held by the returned descriptor only.
 * Return: a descriptor, or -errno. */
int wy_netns_new (void);

/* Has `lo` in NETNS ever carried traffic? All that a container can leave in a network namespace after its
 * last process (connections in TIME_WAIT, counters) comes from that. Return: 0 or 1, or -errno. */
int wy_netns_used (int32_t netns);

/* Does the file system at PATH support id-mapped mounts, tried through USERNS?  Return: 0, or -errno. */
int wy_idmap_probe (const char *path, int32_t userns);

/* Does a tmpfs of this kernel keep user.* attributes (Linux 6.6)? Return: 0; -EOPNOTSUPP if not, or another
 * -errno. */
int wy_tmpfs_probe (void);

/* Create the device nodes, links and mount points of a container's /dev in DIR; existing ones are kept.
 * Return: 0, or -errno. */
int wy_devices_make (const char *dir);

/* Create two connected stream sockets. Return: 0, or -errno. */
int wy_pair (int32_t ends[2]);

/* Create a socket that listens at, or is connected to, the unix path DIR/NAME; DIR may have any length.
 * Return: a descriptor, or -errno. */
int wy_listen (const char *dir, const char *name);
int wy_connect (const char *dir, const char *name);

/* Receive a descriptor from the other end of SOCKET and make it non-blocking. Return: it, or -errno. */
int wy_receive_fd (int32_t socket);

/* Copy the program at PATH into sealed memory: executing the copy exposes no file of the host to a container
 * (CVE-2019-5736). Return: a descriptor, or -errno. */
int wy_sealed_copy (const char *path);

/* Filter the devices of the v2 cgroup at DIR by PROGRAM, SIZE bytes of struct bpf_insn. Return: 0, or
 * -errno. */
int wy_device_filter (const char *dir, const uint8_t *program, uint32_t size);

/* Create an eventfd that becomes readable when the v1 memory cgroup at DIR runs out of memory.
 * Return: a descriptor, or -errno. */
int wy_oom_event (const char *dir);

/* LIST, SIZE bytes in all, holds pairs of texts: a path and its new content. Write them in order, up to the
 * first that fails. Return: 0, or -errno with the index of the failed pair in FAILED. */
int wy_write_files (const char *list, uint32_t size, uint32_t *failed);

/* Read the files that the texts in LIST name into OUT, one after the other, each followed by a NUL and
 * truncated at ROOM bytes. Return: bytes used, or -errno with the index of the failed file in FAILED. */
int wy_read_files (const char *list, uint32_t size, char *out, uint32_t room, uint32_t *failed);

/* Lock the file at PATH, created if missing, for as long as the descriptor is open (flock(2)). Return: the
 * descriptor, or -errno (EAGAIN: it is locked already). */
int wy_lock_file (const char *path);

#endif
