// The only door to libwherry.so (and, for compiling filters, to libseccomp).  Numbers and bytes go
// in; a child, an exit or a SyscallError comes out.  Calls are synchronous and short, on the main
// thread: containers die with the thread that started them (prctl(2), PR_SET_PDEATHSIG).

import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { getSystemErrorName } from 'node:util'
import koffi, { type LibraryHandle, type TypeObject } from 'koffi'
import { SyscallError, Unsupported } from '../contract/errors.ts'
import { encodePlan, HEADER_BYTES, OP_BYTES } from './encode.ts'
import { ABI, describeOp, type Plan } from './ops.ts'

export interface StartedProcess {
  readonly pid: number
  readonly pidfd: number
  /** Our ends of the three pipes; all -1 without stdio. */
  readonly stdin: number
  readonly stdout: number
  readonly stderr: number
}

export interface Exit {
  /** undefined when a signal ended it. */
  readonly exitCode: number | undefined
  /** Number of the signal, 0 for none. */
  readonly signal: number
  readonly userUs: number
  readonly systemUs: number
}

/**
 * Paths of small files, or pairs of a path and what to write there, as C wants them; made once, used often.
 */
export interface FileList {
  readonly bytes: Uint8Array
  readonly paths: readonly string[]
}

export const filesToRead = (paths: readonly string[]): FileList => ({
  bytes: Buffer.from(paths.map((path) => `${path}\0`).join('')),
  paths,
})

export const filesToWrite = (pairs: ReadonlyArray<readonly [path: string, text: string]>): FileList => ({
  bytes: Buffer.from(pairs.map(([path, text]) => `${path}\0${text}\0`).join('')),
  paths: pairs.map(([path]) => path),
})

export interface Native {
  readonly abi: number
  /** Start PLAN's process; returns once its program runs.  Throws SyscallError naming the operation. */
  start(plan: Plan, stdio: boolean): StartedProcess
  /** The exit behind PIDFD, undefined while it runs. */
  wait(pidfd: number): Exit | undefined
  /** Send SIGNAL; false when the process is gone already. */
  kill(pidfd: number, signal: number): boolean
  /**
   * Give PID, just started, this oom_score_adj, once it shares memory with nobody; harmless when it has
   * ended. Throws SyscallError.
   */
  oomScore(pid: number, score: number): void
  newUserNamespace(base: number, count: number): number
  /** The same with lines of uid_map and gid_map (user_namespaces(7)). */
  newMappedNamespace(uidMap: string, gidMap: string): number
  newNetworkNamespace(): number
  /** Did anything ever go over `lo` in it? */
  networkNamespaceUsed(netns: number): boolean
  /** Make DIR a place with the standard device nodes (null, zero …), for a container's /dev. */
  makeDevices(dir: string): void
  /** A descriptor that becomes readable when the v1 memory cgroup at DIR runs out of memory. */
  watchOom(dir: string): number
  /** Does a tmpfs of this kernel keep user.* attributes? */
  tmpfsKeepsAttributes(): boolean
  /** errno name that an id-mapped mount of PATH fails with; undefined when it works. */
  probeIdmap(path: string, userns: number): string | undefined
  /**
   * Perform the host's half of PLAN and hand it to the wherry-init at the other end of SOCKET. Throws
   * SyscallError naming the operation.
   */
  send(socket: number, plan: Plan): void
  /**
   * Block until the wherry-init behind SOCKET waits ("waiting") or its end is closed, because it became its
   * program or died ("closed"). Throws SyscallError naming which of the operations OP_NAMES failed.
   */
  report(socket: number, opNames: readonly string[]): 'waiting' | 'closed'
  /** Two connected sockets. */
  socketPair(): readonly [number, number]
  listen(directory: string, name: string): number
  connect(directory: string, name: string): number
  /** The descriptor that the other end of SOCKET sends; blocks until it does. */
  receiveDescriptor(socket: number): number
  /** A sealed copy of the program at PATH, in memory. */
  sealedCopy(path: string): number
  /** Attach PROGRAM (struct bpf_insn[]) to the v2 cgroup at DIRECTORY as its device filter. */
  filterDevices(directory: string, program: Uint8Array): void
  /** Write FILES, which exist, in order.  Throws SyscallError naming the first that fails. */
  writeFiles(files: FileList): void
  /** What is in FILES, each at most some KiB.  Throws SyscallError naming the first that fails. */
  readFiles(files: FileList): string[]
  /** A descriptor that locks the file at PATH as long as it is open; undefined when somebody else has it. */
  lockFile(path: string): number | undefined
  /** Call LISTENER once each time FD becomes readable; the function returned ends that. */
  onReadable(fd: number, listener: () => void): () => void
}

/** getSystemErrorName knows what libuv maps; anything else keeps its number. */
function errnoName(code: number): string {
  try {
    return getSystemErrorName(-code)
  } catch {
    return `errno ${code}`
  }
}

function loadLibrary(nativeDir: string): LibraryHandle {
  const path = join(nativeDir, 'libwherry.so')
  if (!existsSync(path))
    throw new Unsupported(`${path} is not there; run "make native" (or "make setup" once)`)
  return koffi.load(path)
}

/** Two mirrors of one layout drift silently; compare them once, loudly. */
function checkLayout(lib: LibraryHandle, types: readonly unknown[]): void {
  const sizeOf = lib.func('uint64_t wy_sizeof(uint32_t what)')
  const ours = [HEADER_BYTES, OP_BYTES, ...types.map((type) => koffi.sizeof(type as TypeObject))]
  const theirs = ours.map((_, i) => Number(sizeOf(i)))
  if (Number(lib.func('uint32_t wy_abi()')()) !== ABI || ours.some((size, i) => size !== theirs[i])) {
    throw new Unsupported(
      `libwherry.so does not fit this version (layouts ${theirs.join(',')}, wanted ${ours.join(',')}); run "make native"`,
    )
  }
}

/** RESULT of a call that gives a descriptor (or 0) or -errno. */
function descriptor(result: number, op: string): number {
  if (result >= 0) return result
  const errno = errnoName(-result)
  throw new SyscallError(`${op}: ${errno}`, { errno, syscall: op, op })
}

interface WyError {
  readonly code: number
  readonly op: number
  readonly call: string
}

/** ERR of the operation OP as an error that names it. */
function opError(op: string, err: WyError): SyscallError {
  const errno = errnoName(err.code)
  return new SyscallError(`${op}: ${err.call}: ${errno}`, { errno, syscall: err.call, op, index: err.op })
}

const planError = (plan: Plan, err: WyError): SyscallError => opError(describeOp(plan.ops[err.op]), err)

/**
 * What one readFiles may give: a cgroup's files hold some hundred bytes each, those of block devices a line
 * per device.
 */
const FILES_BYTES_MAX = 65_536

/** RESULT of a call on FILES that names in FAILED the one that went wrong. */
function fileResult(result: number, files: FileList, failed: Uint32Array): number {
  return descriptor(result, files.paths[failed[0]!] ?? 'a list of files')
}

/** Open the library in NATIVE_DIR.  Throws Unsupported when it is missing or of another version. */
export function openNative(nativeDir: string): Native {
  const lib = loadLibrary(nativeDir)
  const child = koffi.struct({
    pid: 'int32',
    pidfd: 'int32',
    stdin: 'int32',
    stdout: 'int32',
    stderr: 'int32',
  })
  const error = koffi.struct({ code: 'int32', op: 'int32', call: koffi.array('char', 24, 'String') })
  const exit = koffi.struct({
    exited: 'int32',
    exitCode: 'int32',
    signal: 'int32',
    reserved: 'int32',
    userUs: 'uint64',
    systemUs: 'uint64',
  })
  checkLayout(lib, [child, error, exit])
  const out = (type: TypeObject) => koffi.out(koffi.pointer(type))
  const wyStart = lib.func('wy_start', 'int', [
    'const uint8_t *',
    'uint64_t',
    'int32_t',
    out(child),
    out(error),
  ])
  const wyWait = lib.func('wy_wait', 'int', ['int32_t', out(exit)])
  const wyKill = lib.func('int wy_kill(int32_t pidfd, int32_t signal)')
  const wyOomScore = lib.func('int wy_oom_score(int32_t pid, const char *text, uint64_t len)')
  const wyUserns = lib.func('int wy_userns_new(const char *uid_map, const char *gid_map)')
  const wyNetns = lib.func('int wy_netns_new()')
  const wyNetnsUsed = lib.func('int wy_netns_used(int32_t netns)')
  const wyDevices = lib.func('int wy_devices_make(const char *dir)')
  const wyOomEvent = lib.func('int wy_oom_event(const char *dir)')
  const wySend = lib.func('wy_send', 'int', ['int32_t', 'const uint8_t *', 'uint64_t', out(error)])
  const wyReport = lib.func('wy_report', 'int', ['int32_t', out(error)])
  const wyPair = lib.func('int wy_pair(_Out_ int32_t *ends)')
  const wyListen = lib.func('int wy_listen(const char *dir, const char *name)')
  const wyConnect = lib.func('int wy_connect(const char *dir, const char *name)')
  const wyReceiveFd = lib.func('int wy_receive_fd(int32_t socket)')
  const wySealedCopy = lib.func('int wy_sealed_copy(const char *path)')
  const wyDeviceFilter = lib.func('wy_device_filter', 'int', ['const char *', 'const uint8_t *', 'uint32_t'])
  const wyWriteFiles = lib.func('wy_write_files', 'int', ['const uint8_t *', 'uint32_t', 'uint32_t *'])
  const wyReadFiles = lib.func('wy_read_files', 'int', [
    'const uint8_t *',
    'uint32_t',
    'uint8_t *',
    'uint32_t',
    'uint32_t *',
  ])
  const fileTexts = Buffer.allocUnsafeSlow(FILES_BYTES_MAX)
  const failedFile = new Uint32Array(1)
  const wyLockFile = lib.func('int wy_lock_file(const char *path)')
  const wyTmpfsProbe = lib.func('int wy_tmpfs_probe()')
  const wyIdmapProbe = lib.func('int wy_idmap_probe(const char *path, int32_t userns)')

  return {
    abi: ABI,
    start(plan, stdio) {
      const bytes = encodePlan(plan)
      const started = { pid: 0, pidfd: -1, stdin: -1, stdout: -1, stderr: -1 }
      const err = { code: 0, op: 0, call: '' }
      if (wyStart(bytes, bytes.length, stdio ? 1 : 0, started, err) === 0) return started
      throw planError(plan, err)
    },
    send(socket, plan) {
      const bytes = encodePlan(plan)
      const err = { code: 0, op: 0, call: '' }
      if (wySend(socket, bytes, bytes.length, err) !== 0) throw planError(plan, err)
    },
    report(socket, opNames) {
      const err = { code: 0, op: 0, call: '' }
      const result: number = wyReport(socket, err)
      if (result < 0) throw opError(opNames[err.op] ?? 'start', err)
      return result === 1 ? 'waiting' : 'closed'
    },
    socketPair() {
      const ends = new Int32Array(2)
      descriptor(Number(wyPair(ends)), 'socketpair')
      return [ends[0]!, ends[1]!]
    },
    listen: (directory, name) => descriptor(wyListen(directory, name), `listen on ${name}`),
    connect: (directory, name) => descriptor(wyConnect(directory, name), `connect to ${name}`),
    receiveDescriptor: (socket) => descriptor(wyReceiveFd(socket), 'receive a descriptor'),
    sealedCopy: (path) => descriptor(wySealedCopy(path), `copy ${path} into memory`),
    filterDevices(directory, program) {
      descriptor(wyDeviceFilter(directory, program, program.length), 'device filter')
    },
    wait(pidfd) {
      const seen = { exited: 0, exitCode: 0, signal: 0, reserved: 0, userUs: 0, systemUs: 0 }
      descriptor(Number(wyWait(pidfd, seen)), 'waitid')
      if (seen.exited === 0) return undefined
      return {
        exitCode: seen.exitCode < 0 ? undefined : seen.exitCode,
        signal: seen.signal,
        userUs: Number(seen.userUs),
        systemUs: Number(seen.systemUs),
      }
    },
    kill: (pidfd, signal) => wyKill(pidfd, signal) === 0,
    oomScore(pid, score) {
      descriptor(wyOomScore(pid, String(score), String(score).length), 'oom score')
    },
    newUserNamespace: (base, count) =>
      descriptor(wyUserns(`0 ${base} ${count}`, `0 ${base} ${count}`), 'user namespace'),
    newMappedNamespace: (uidMap, gidMap) => descriptor(wyUserns(uidMap, gidMap), 'user namespace'),
    newNetworkNamespace: () => descriptor(wyNetns(), 'network namespace'),
    networkNamespaceUsed: (netns) => descriptor(wyNetnsUsed(netns), 'network namespace') === 1,
    makeDevices(dir) {
      descriptor(wyDevices(dir), 'device nodes')
    },
    watchOom: (dir) => descriptor(wyOomEvent(dir), 'memory events'),
    tmpfsKeepsAttributes() {
      const result: number = wyTmpfsProbe()
      return result !== -constants.errno.EOPNOTSUPP && descriptor(result, 'attributes of a tmpfs') === 0
    },
    probeIdmap(path, userns) {
      const result: number = wyIdmapProbe(path, userns)
      return result === 0 ? undefined : errnoName(-result)
    },
    writeFiles(files) {
      fileResult(Number(wyWriteFiles(files.bytes, files.bytes.length, failedFile)), files, failedFile)
    },
    readFiles(files) {
      const size = fileResult(
        Number(wyReadFiles(files.bytes, files.bytes.length, fileTexts, FILES_BYTES_MAX, failedFile)),
        files,
        failedFile,
      )
      return fileTexts.toString('latin1', 0, size - 1).split('\0')
    },
    lockFile(path) {
      const result: number = wyLockFile(path)
      return result === -constants.errno.EAGAIN ? undefined : descriptor(result, `lock ${path}`)
    },
    onReadable(fd, listener) {
      // koffi calls back with a bare function call: no promise that the listener settles would be continued
      // until something else wakes the event loop. An immediate runs in the same turn, as a callback of
      // Node's.
      let immediate: NodeJS.Immediate | undefined
      const handle = koffi.node.poll(fd, { readable: true, writable: false, disconnect: false }, () => {
        immediate ??= setImmediate(run)
      })
      function run(): void {
        immediate = undefined
        listener()
      }
      return () => {
        clearImmediate(immediate)
        handle.close()
      }
    },
  }
}
