// Archives that ADD unpacks: told by their contents and not by their names, decompressed here or by the
// system's own programs, and unpacked by wherry-unpack into an empty folder, as a layer would be: nothing in
// one can lead out of it. Knows magic numbers; refuses to know where the files go then.

import { spawn } from 'node:child_process'
import { closeSync, createReadStream, openSync, readSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { pipeline as pipe, type Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { AppError, ContentError, Unsupported } from '../contract/errors.ts'
import { startUnpacker } from '../images/unpack.ts'

export interface UnpackRequest {
  readonly nativeDir: string
  readonly signal: AbortSignal
  /** Of the archive, at its beginning; stays the caller's. */
  readonly fd: number
  /** For messages. */
  readonly name: string
  /** A folder to be made. */
  readonly folder: string
}

type Packing = 'none' | 'gzip' | 'zstd' | 'bzip2' | 'xz'

const MAGIC: ReadonlyArray<readonly [Packing, readonly number[]]> = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
]
const PACKAGES: Readonly<Record<string, string>> = { bzip2: 'bzip2', xz: 'xz-utils' }
const PROGRAM_PATH = '/usr/local/bin:/usr/bin:/bin'
const BLOCK_BYTES = 512
/** Where a tar header has its checksum, whose own eight bytes count as spaces. */
const SUM_AT = 148
const SUM_BYTES = 8

function packingOf(head: Uint8Array): Packing {
  return MAGIC.find(([, magic]) => magic.every((byte, i) => head[i] === byte))?.[0] ?? 'none'
}

/** Is BLOCK a tar header?  (POSIX ustar: the sum of its bytes.) */
function isTarHeader(block: Uint8Array): boolean {
  if (block.length < BLOCK_BYTES) return false
  const digits =
    /[0-7]+/.exec(Buffer.from(block.subarray(SUM_AT, SUM_AT + SUM_BYTES)).toString('latin1'))?.[0] ?? ''
  const sum = block
    .subarray(0, BLOCK_BYTES)
    .reduce((total, byte, i) => total + (i >= SUM_AT && i < SUM_AT + SUM_BYTES ? 32 : byte), 0)
  return Number.parseInt(digits, 8) === sum
}

/**
 * FD's file from its beginning: descriptors that are only copied share one place in it, and a stream closes
 * its own.
 */
function reopen(fd: number): number {
  return openSync(`/proc/self/fd/${fd}`, 'r')
}

/** FD through the system's PROGRAM: Node has neither bzip2 nor xz.  `ended` throws when it failed. */
function throughProgram(fd: number, program: string): { stream: Readable; ended: Promise<void> } {
  const own = reopen(fd)
  const child = spawn(program, ['-dc'], {
    stdio: [own, 'pipe', 'ignore'],
    cwd: '/',
    env: { PATH: PROGRAM_PATH },
  })
  closeSync(own)
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', (error) => {
      reject(
        new Unsupported(
          `this archive needs the program ${program}, which cannot be started; install it (apt-get install ${PACKAGES[program]})`,
          error,
        ),
      )
    })
    child.once('close', (code, signal) => {
      // Whoever reads may have seen enough.
      if (code === 0 || signal === 'SIGPIPE') resolve()
      else reject(new ContentError(`the archive is not valid ${program}`, 'ERR_INVALID_CONTENT'))
    })
  })
  ended.catch(() => {}) // asked for when the stream has been read
  return { stream: child.stdout!, ended }
}

/** The contents of FD, from its beginning. */
function decompressed(fd: number, packing: Packing): { stream: Readable; ended: Promise<void> } {
  if (packing === 'bzip2' || packing === 'xz') return throughProgram(fd, packing)
  const source = createReadStream('', { fd: reopen(fd) })
  if (packing === 'none') return { stream: source, ended: Promise.resolve() }
  const stream = packing === 'gzip' ? createGunzip() : createZstdDecompress()
  pipe(source, stream, () => {}) // whoever reads the second hears of its errors, and closes both
  return { stream, ended: Promise.resolve() }
}

/** The first block of what FD holds. */
async function firstBlock(fd: number, packing: Packing): Promise<Buffer> {
  const { stream, ended } = decompressed(fd, packing)
  const pieces: Buffer[] = []
  let size = 0
  for await (const piece of stream as AsyncIterable<Buffer>) {
    pieces.push(piece)
    size += piece.length
    if (size >= BLOCK_BYTES) break // which ends the stream
  }
  if (size < BLOCK_BYTES) await ended
  return Buffer.concat(pieces)
}

/** How the archive FD is packed; undefined when it is none. */
async function archivePacking(fd: number): Promise<Packing | undefined> {
  try {
    const buffer = Buffer.alloc(BLOCK_BYTES)
    const head = buffer.subarray(0, readSync(fd, buffer, { position: 0 }))
    const packing = packingOf(head)
    return isTarHeader(packing === 'none' ? head : await firstBlock(fd, packing)) ? packing : undefined
  } catch (error) {
    if (error instanceof AppError) throw error
    return undefined // it only begins like one: a file as any other
  }
}

/**
 * Unpack the archive FD into FOLDER; false, and nothing done, when it is none. Throws ContentError,
 * SyscallError, Unsupported.
 */
export async function unpackArchive({
  nativeDir,
  signal,
  fd,
  name,
  folder,
}: UnpackRequest): Promise<boolean> {
  const packing = await archivePacking(fd)
  if (packing === undefined) return false
  await mkdir(folder, { mode: 0o755 })
  const unpacker = startUnpacker({ nativeDir, directory: folder, layer: name })
  try {
    const { stream, ended } = decompressed(fd, packing)
    await pipeline(stream, unpacker.stdin, { signal })
    await ended
  } catch (error) {
    unpacker.kill()
    const result = await unpacker.result
    if (signal.aborted) throw signal.reason
    if (error instanceof AppError) throw error
    // When the unpacker refused it, the stream broke because of that.
    const refused = !result.ok && result.error instanceof AppError ? result.error : undefined
    throw refused ?? new ContentError(`the archive ${name} is damaged`, 'ERR_INVALID_CONTENT', error)
  }
  const result = await unpacker.result
  if (!result.ok) throw result.error
  return true
}
