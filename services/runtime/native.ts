// The only door to libwherry.so. Numbers and bytes go in; a child, an exit or a SyscallError comes out. Calls
// are synchronous and short, on the main thread: containers die with the thread that started them (prctl(2),
// PR_SET_PDEATHSIG).

import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import { SyscallError } from '../contract/errors.ts'
import { encodePlan } from './encode.ts'
import { openLibrary, pollReadable, type Library } from './library.ts'
import type { Plan } from './ops.ts'
import { ABI, describeOp } from './wire.ts'

export interface StartedProcess {
  readonly pid: number
  readonly pidfd: number
  /** Our ends of the three pipes; all -1 without stdio. */
  readonly stdin: number
  readonly stdout: number
  readonly stderr: number
}

export interface Exit {
  /** undefined when a signal ended the process. */
  readonly exitCode: number | undefined
  /** Number of the signal, 0 for none. */
  readonly signal: number
  readonly userUs: number
  readonly systemUs: number
}

/** Paths of small files, or pairs of a path and its new content, encoded for C once and used often. */
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
  /** Starts PLAN's process; returns once its program runs.  Throws SyscallError naming the operation. */
  start(plan: Plan, stdio: boolean): StartedProcess
  /** The exit behind PIDFD, undefined while it runs. */
  wait(pidfd: number): Exit | undefined
  /** Sends SIGNAL; false when the process has already ended. */
  kill(pidfd: number, signal: number): boolean
  /**
   * Sets the oom_score_adj of PID, which was just started and no longer shares its memory. Does nothing when
   * it has ended. Throws SyscallError.
   */
  oomScore(pid: number, score: number): void
  newUserNamespace(base: number, count: number): number
  /** The same with lines of uid_map and gid_map (user_namespaces(7)). */
  newMappedNamespace(uidMap: string, gidMap: string): number
  newNetworkNamespace(): number
  /** Whether its `lo` has ever carried traffic. */
  networkNamespaceUsed(netns: number): boolean
  /** Creates the standard device nodes (null, zero …) in DIR, for a container's /dev. */
  makeDevices(dir: string): void
  /** A descriptor that becomes readable when the v1 memory cgroup at DIR runs out of memory. */
  watchOom(dir: string): number
  /** Whether a tmpfs of this kernel keeps user.* attributes. */
  tmpfsKeepsAttributes(): boolean
  /** The errno name with which an id-mapped mount of PATH fails; undefined when it works. */
  probeIdmap(path: string, userns: number): string | undefined
  /**
   * Performs the host's half of PLAN and sends the plan to the wherry-init at the other end of SOCKET. Throws
   * SyscallError naming the operation.
   */
  send(socket: number, plan: Plan): void
  /**
   * Blocks until the wherry-init at the other end of SOCKET waits ("waiting"), or its end is closed because
   * it executed its program or died ("closed"). Throws SyscallError naming the failed one of OP_NAMES.
   */
  report(socket: number, opNames: readonly string[]): 'waiting' | 'closed'
  /** Two connected sockets. */
  socketPair(): readonly [number, number]
  listen(directory: string, name: string): number
  connect(directory: string, name: string): number
  /** Blocks until the other end of SOCKET sends a descriptor. */
  receiveDescriptor(socket: number): number
  /** Copies the program at PATH into sealed memory; returns its descriptor. */
  sealedCopy(path: string): number
  /** Attaches PROGRAM (struct bpf_insn[]) to the v2 cgroup at DIRECTORY as its device filter. */
  filterDevices(directory: string, program: Uint8Array): void
  /** Writes FILES, which exist, in order.  Throws SyscallError naming the first that fails. */
  writeFiles(files: FileList): void
  /** The contents of FILES, some KiB each at most.  Throws SyscallError naming the first that fails. */
  readFiles(files: FileList): string[]
  /** A descriptor that locks the file at PATH while it is open; undefined when it is locked already. */
  lockFile(path: string): number | undefined
  /** Calls LISTENER once each time FD becomes readable, until the returned function is called. */
  onReadable(fd: number, listener: () => void): () => void
}

/** getSystemErrorName knows the codes that libuv maps; any other keeps its number. */
function errnoName(code: number): string {
  try {
    return getSystemErrorName(-code)
  } catch {
    return `errno ${code}`
  }
}

/** RESULT of a call that returns a descriptor, or 0, or -errno. */
function descriptor(result: number, op: string): number {
  if (result >= 0) return result
  const errno = errnoName(-result)
  throw new SyscallError(`${op}: ${errno}`, { errno, syscall: op, op })
}

/** struct wy_error */
interface WyError {
  readonly code: number
  readonly op: number
  readonly call: string
}

const noError = (): WyError => ({ code: 0, op: 0, call: '' })

/** ERR of the operation OP as an error that names it. */
function opError(op: string, err: WyError): SyscallError {
  const errno = errnoName(err.code)
  return new SyscallError(`${op}: ${err.call}: ${errno}`, { errno, syscall: err.call, op, index: err.op })
}

const planError = (plan: Plan, err: WyError): SyscallError => opError(describeOp(plan.ops[err.op]), err)

/** Starting processes, directly or through a wherry-init, and collecting their exits. */
function processCalls(lib: Library) {
  return {
    start(plan, stdio) {
      const bytes = encodePlan(plan)
      const started = { pid: 0, pidfd: -1, stdin: -1, stdout: -1, stderr: -1 }
      const err = noError()
      if (lib.start(bytes, bytes.length, stdio ? 1 : 0, started, err) === 0) return started
      throw planError(plan, err)
    },
    send(socket, plan) {
      const bytes = encodePlan(plan)
      const err = noError()
      if (lib.send(socket, bytes, bytes.length, err) !== 0) throw planError(plan, err)
    },
    report(socket, opNames) {
      const err = noError()
      const result: number = lib.report(socket, err)
      if (result < 0) throw opError(opNames[err.op] ?? 'start', err)
      return result === 1 ? 'waiting' : 'closed'
    },
    wait(pidfd) {
      const seen = { exited: 0, exitCode: 0, signal: 0, reserved: 0, userUs: 0, systemUs: 0 }
      descriptor(Number(lib.wait(pidfd, seen)), 'waitid')
      if (seen.exited === 0) return undefined
      return {
        exitCode: seen.exitCode < 0 ? undefined : seen.exitCode,
        signal: seen.signal,
        userUs: Number(seen.userUs),
        systemUs: Number(seen.systemUs),
      }
    },
    kill: (pidfd, signal) => lib.kill(pidfd, signal) === 0,
    oomScore(pid, score) {
      descriptor(lib.oomScore(pid, String(score), String(score).length), 'oom score')
    },
  } satisfies Partial<Native>
}

/** What a container takes from the host, and what this kernel can do. */
function hostCalls(lib: Library) {
  return {
    newUserNamespace(base, count) {
      const map = `0 ${base} ${count}`
      return descriptor(lib.newUserNamespace(map, map), 'user namespace')
    },
    newMappedNamespace: (uidMap, gidMap) =>
      descriptor(lib.newUserNamespace(uidMap, gidMap), 'user namespace'),
    newNetworkNamespace: () => descriptor(lib.newNetworkNamespace(), 'network namespace'),
    networkNamespaceUsed: (netns) => descriptor(lib.networkNamespaceUsed(netns), 'network namespace') === 1,
    makeDevices(dir) {
      descriptor(lib.makeDevices(dir), 'device nodes')
    },
    watchOom: (dir) => descriptor(lib.oomEvent(dir), 'memory events'),
    filterDevices(directory, program) {
      descriptor(lib.deviceFilter(directory, program, program.length), 'device filter')
    },
    tmpfsKeepsAttributes() {
      const result: number = lib.probeTmpfs()
      return result !== -constants.errno.EOPNOTSUPP && descriptor(result, 'attributes of a tmpfs') === 0
    },
    probeIdmap(path, userns) {
      const result: number = lib.probeIdmap(path, userns)
      return result === 0 ? undefined : errnoName(-result)
    },
  } satisfies Partial<Native>
}

function socketCalls(lib: Library) {
  return {
    socketPair() {
      const ends = new Int32Array(2)
      descriptor(Number(lib.pair(ends)), 'socketpair')
      return [ends[0]!, ends[1]!]
    },
    listen: (directory, name) => descriptor(lib.listen(directory, name), `listen on ${name}`),
    connect: (directory, name) => descriptor(lib.connect(directory, name), `connect to ${name}`),
    receiveDescriptor: (socket) => descriptor(lib.receiveFd(socket), 'receive a descriptor'),
  } satisfies Partial<Native>
}

/** Bytes that one readFiles may return: cgroup files hold some hundred bytes, or a line per block device. */
const FILES_BYTES_MAX = 65_536

function fileCalls(lib: Library) {
  const contents = Buffer.allocUnsafeSlow(FILES_BYTES_MAX)
  const failed = new Uint32Array(1)
  /** RESULT of a call on FILES, which left in `failed` the index of the file that failed. */
  const checked = (result: number, { paths }: FileList): number =>
    descriptor(result, paths[failed[0]!] ?? 'a list of files')
  return {
    sealedCopy: (path) => descriptor(lib.sealedCopy(path), `copy ${path} into memory`),
    writeFiles(files) {
      checked(Number(lib.writeFiles(files.bytes, files.bytes.length, failed)), files)
    },
    readFiles(files) {
      const { bytes } = files
      const result = Number(lib.readFiles(bytes, bytes.length, contents, FILES_BYTES_MAX, failed))
      return contents.toString('latin1', 0, checked(result, files) - 1).split('\0')
    },
    lockFile(path) {
      const result: number = lib.lockFile(path)
      return result === -constants.errno.EAGAIN ? undefined : descriptor(result, `lock ${path}`)
    },
  } satisfies Partial<Native>
}

/** Opens the library in NATIVE_DIR.  Throws Unsupported when it is missing or of another version. */
export function openNative(nativeDir: string): Native {
  const lib = openLibrary(nativeDir)
  return {
    abi: ABI,
    ...processCalls(lib),
    ...hostCalls(lib),
    ...socketCalls(lib),
    ...fileCalls(lib),
    onReadable: pollReadable,
  }
}
