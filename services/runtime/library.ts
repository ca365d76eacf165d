// The functions of libwherry.so as koffi calls them. native.ts gives them types and turns their results into
// values and errors.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import koffi, { type LibraryHandle, type TypeObject } from 'koffi'
import { Unsupported } from '../contract/errors.ts'
import { HEADER_BYTES, OP_BYTES } from './encode.ts'
import { ABI } from './wire.ts'

function load(nativeDir: string): LibraryHandle {
  const path = join(nativeDir, 'libwherry.so')
  if (!existsSync(path))
    throw new Unsupported(`${path} does not exist; run "make native" (or "make setup" once)`)
  return koffi.load(path)
}

/** Two mirrors of one layout drift silently; compare them once, loudly. */
function checkLayout(lib: LibraryHandle, types: readonly TypeObject[]): void {
  const sizeOf = lib.func('uint64_t wy_sizeof(uint32_t what)')
  const ours = [HEADER_BYTES, OP_BYTES, ...types.map((type) => koffi.sizeof(type))]
  const theirs = ours.map((_, i) => Number(sizeOf(i)))
  if (Number(lib.func('uint32_t wy_abi()')()) !== ABI || ours.some((size, i) => size !== theirs[i])) {
    throw new Unsupported(
      `libwherry.so does not match this version (layouts ${theirs.join(',')}, expected ${ours.join(',')}); run "make native"`,
    )
  }
}

const out = (type: TypeObject) => koffi.out(koffi.pointer(type))

function structs() {
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
  return { child, error, exit }
}

/** Opens the library in NATIVE_DIR.  Throws Unsupported when it is missing or of another version. */
export function openLibrary(nativeDir: string) {
  const lib = load(nativeDir)
  const { child, error, exit } = structs()
  checkLayout(lib, [child, error, exit])
  const bytes = 'const uint8_t *'
  const planOf = [bytes, 'uint64_t']
  const listOf = [bytes, 'uint32_t']
  return {
    start: lib.func('wy_start', 'int', [...planOf, 'int32_t', out(child), out(error)]),
    send: lib.func('wy_send', 'int', ['int32_t', ...planOf, out(error)]),
    report: lib.func('wy_report', 'int', ['int32_t', out(error)]),
    wait: lib.func('wy_wait', 'int', ['int32_t', out(exit)]),
    kill: lib.func('int wy_kill(int32_t pidfd, int32_t signal)'),
    oomScore: lib.func('int wy_oom_score(int32_t pid, const char *text, uint64_t len)'),
    newUserNamespace: lib.func('int wy_userns_new(const char *uid_map, const char *gid_map)'),
    newNetworkNamespace: lib.func('int wy_netns_new()'),
    networkNamespaceUsed: lib.func('int wy_netns_used(int32_t netns)'),
    makeDevices: lib.func('int wy_devices_make(const char *dir)'),
    oomEvent: lib.func('int wy_oom_event(const char *dir)'),
    pair: lib.func('int wy_pair(_Out_ int32_t *ends)'),
    listen: lib.func('int wy_listen(const char *dir, const char *name)'),
    connect: lib.func('int wy_connect(const char *dir, const char *name)'),
    receiveFd: lib.func('int wy_receive_fd(int32_t socket)'),
    sealedCopy: lib.func('int wy_sealed_copy(const char *path)'),
    deviceFilter: lib.func('wy_device_filter', 'int', ['const char *', ...listOf]),
    writeFiles: lib.func('wy_write_files', 'int', [...listOf, 'uint32_t *']),
    readFiles: lib.func('wy_read_files', 'int', [...listOf, 'uint8_t *', 'uint32_t', 'uint32_t *']),
    lockFile: lib.func('int wy_lock_file(const char *path)'),
    probeTmpfs: lib.func('int wy_tmpfs_probe()'),
    probeIdmap: lib.func('int wy_idmap_probe(const char *path, int32_t userns)'),
  }
}

export type Library = ReturnType<typeof openLibrary>

/** Calls LISTENER once each time FD becomes readable, until the returned function is called. */
export function pollReadable(fd: number, listener: () => void): () => void {
  // koffi calls back outside of Node's callback scope: promises that the listener settles would continue only
  // when something else wakes the event loop. An immediate runs in the same turn, inside that scope.
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
}
