// Starts wherry-unpack (native/unpack/main.c): one child process per layer, which inflates, hashes and
// unpacks it into a folder. The caller compares the digests that it reports.

import { spawn } from 'node:child_process'
import { join } from 'node:path'
import type { Writable } from 'node:stream'
import { ContentError, SyscallError, Unsupported, type ContentCode } from '../contract/errors.ts'
import type { Compression } from '../registry/manifest.ts'

export const IMAGE_BYTES_MAX = 16 * 1024 ** 3
export const IMAGE_ENTRIES_MAX = 2_000_000
const LAYER_ENTRIES_MAX = 1_000_000
const PATH_BYTES_MAX = 4096
const DEPTH_MAX = 256
const PAX_BYTES_MAX = 1024 ** 2
/**
 * Beyond gzip's best for real files; the first bytes are exempt because small layers of zeros are harmless.
 */
const RATIO_MAX = 1000
const RATIO_FREE_BYTES = 64 * 1024 ** 2
const LINE_CHARACTERS_MAX = 4096

const CODES: Readonly<Record<string, ContentCode>> = {
  unsafe: 'ERR_UNSAFE_LAYER',
  limit: 'ERR_CONTENT_LIMIT',
  invalid: 'ERR_INVALID_CONTENT',
}
const ADVICE: Readonly<Record<string, string>> = {
  ENOSPC: 'no space is left on the disk of the image store; free some or move the data folder',
  EDQUOT: 'the disk quota of the image store is used up',
  EPERM: 'unpacking layers needs root',
  EOPNOTSUPP:
    'the file system of the image store does not support extended attributes (user.*); use ext4, xfs or btrfs',
  ENOSYS: 'this kernel is too old (openat2 needs Linux 5.6)',
}

export type UnpackResult =
  | {
      readonly ok: true
      readonly entries: number
      readonly bytes: number
      readonly devicesDropped: number
      readonly digest: string
      readonly diffId: string
    }
  | { readonly ok: false; readonly error: Error }

export interface Unpacker {
  /** Takes the packed layer. */
  readonly stdin: Writable
  /** Settles when the process has ended; never rejects. */
  readonly result: Promise<UnpackResult>
  /** Kill the process.  Its folder is then incomplete. */
  kill(): void
}

function systemError(layer: string, errno: string, call: string, name: string): Error {
  // ext4 reports a full attribute block with the errno of a full disk (xattr(7)).
  const isAttribute = errno === 'ENOSPC' && call === 'fsetxattr'
  const advice = isAttribute
    ? 'an extended attribute is too large for the file system'
    : (ADVICE[errno] ?? 'the system refused it')
  const message = `layer ${layer} cannot be unpacked: ${advice} (${call} of "${name}": ${errno})`
  return new SyscallError(message, { errno, syscall: call, op: 'unpack' })
}

/** The final LINE of wherry-unpack as a value. */
export function parseAnswer(layer: string, line: string, ending: string): UnpackResult {
  const ok = /^ok (\d+) (\d+) (\d+) (sha256:[0-9a-f]{64}) (sha256:[0-9a-f]{64})$/.exec(line)
  if (ok)
    return {
      ok: true,
      entries: Number(ok[1]),
      bytes: Number(ok[2]),
      devicesDropped: Number(ok[3]),
      digest: ok[4]!,
      diffId: ok[5]!,
    }
  const system = /^system (\w+) (\w+) "(.*)"$/.exec(line)
  if (system) return { ok: false, error: systemError(layer, system[1]!, system[2]!, system[3]!) }
  const refused = /^(\w+) "(.*)" (.*)$/.exec(line)
  const code = refused ? CODES[refused[1]!] : undefined
  if (!refused || !code)
    return { ok: false, error: new Error(`wherry-unpack ended (${ending}) with the answer "${line}"`) }
  const name = refused[2] === '' ? '' : `"${refused[2]}" `
  return { ok: false, error: new ContentError(`layer ${layer} is refused: ${name}${refused[3]}`, code) }
}

/** A function that takes pieces of text and calls TAKE with each whole line; long lines are cut. */
function createLineSplitter(take: (line: string) => void): (text: string) => void {
  let rest = ''
  return (text) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!.slice(0, LINE_CHARACTERS_MAX)
    for (const line of lines) take(line)
  }
}

export interface UnpackRequest {
  /** Where `make native` puts its programs. */
  readonly nativeDir: string
  /** An empty folder. */
  readonly directory: string
  /** 'none' by default. */
  readonly compression?: Compression
  /** The layer's digest, for messages. */
  readonly layer: string
  /** Called with the number of plain bytes so far, every few MiB and at the end. */
  readonly onUnpacked?: (bytes: number) => void
}

/**
 * Start unpacking into a folder. Only the digests of the answer may be trusted, because the layer is
 * untrusted.
 */
export function startUnpacker({
  nativeDir,
  directory,
  compression = 'none',
  layer,
  onUnpacked,
}: UnpackRequest): Unpacker {
  const program = join(nativeDir, 'wherry-unpack')
  const limits = [
    IMAGE_BYTES_MAX,
    LAYER_ENTRIES_MAX,
    IMAGE_BYTES_MAX,
    PATH_BYTES_MAX,
    DEPTH_MAX,
    PAX_BYTES_MAX,
    RATIO_MAX,
    RATIO_FREE_BYTES,
  ].map(String)
  const child = spawn(program, [directory, compression, ...limits], {
    stdio: ['pipe', 'pipe', 'inherit'],
    cwd: '/',
    env: {},
  })
  let answer = ''
  child.stdout.setEncoding('utf8').on(
    'data',
    createLineSplitter((line) => {
      const at = /^at (\d+)$/.exec(line)
      if (at) onUnpacked?.(Number(at[1]))
      else answer = line
    }),
  )
  const result = new Promise<UnpackResult>((resolve) => {
    child.once('error', (error) => {
      resolve({
        ok: false,
        error: new Unsupported(`${program} cannot be started (${error.message}); run make native`, error),
      })
    })
    child.once('close', (code, signal) => {
      const settled = parseAnswer(layer, answer, signal ?? `exit code ${code}`)
      if (settled.ok) onUnpacked?.(settled.bytes)
      resolve(settled)
    })
  })
  return {
    stdin: child.stdin,
    result,
    kill: () => {
      child.kill('SIGKILL')
    },
  }
}
