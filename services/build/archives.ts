// Archives that ADD unpacks. They are detected by content, not by name, decompressed here or by the system's
// programs, and unpacked by wherry-unpack into an empty folder. As with a layer, nothing in an archive can
// write outside of it.

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
  /** A descriptor of the archive, at its start; the caller closes it. */
  readonly fd: number
  /** For messages. */
  readonly name: string
  /** A folder, which will be created. */
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
/** Position of the checksum in a tar header; its own eight bytes count as spaces. */
const SUM_AT = 148
const SUM_BYTES = 8

function packingOf(head: Uint8Array): Packing {
  return MAGIC.find(([, magic]) => magic.every((byte, i) => head[i] === byte))?.[0] ?? 'none'
}

/** Whether BLOCK is a tar header, by its checksum (POSIX ustar). */
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
 * FD's file from its start. It is opened again, because copies of a descriptor share their position, and a
 * stream closes its descriptor.
 */
function reopen(fd: number): number {
  return openSync(`/proc/self/fd/${fd}`, 'r')
}

/**
 * FD decompressed by the system's PROGRAM, because Node has neither bzip2 nor xz. `ended` throws if it fails.
 */
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
          `this archive needs the program ${program}, which could not be started; install it (apt-get install ${PACKAGES[program]})`,
          error,
        ),
      )
    })
    child.once('close', (code, signal) => {
      // The reader may have stopped early.
      if (code === 0 || signal === 'SIGPIPE') resolve()
      else reject(new ContentError(`the archive is not valid ${program}`, 'ERR_INVALID_CONTENT'))
    })
  })
  ended.catch(() => {}) // awaited after the stream has been read
  return { stream: child.stdout!, ended }
}

/** The decompressed contents of FD from its start. */
function decompressed(fd: number, packing: Packing): { stream: Readable; ended: Promise<void> } {
  if (packing === 'bzip2' || packing === 'xz') return throughProgram(fd, packing)
  const source = createReadStream('', { fd: reopen(fd) })
  if (packing === 'none') return { stream: source, ended: Promise.resolve() }
  const stream = packing === 'gzip' ? createGunzip() : createZstdDecompress()
  pipe(source, stream, () => {}) // the reader of the second stream gets the errors and closes both
  return { stream, ended: Promise.resolve() }
}

/** The first block of the decompressed FD. */
async function firstBlock(fd: number, packing: Packing): Promise<Buffer> {
  const { stream, ended } = decompressed(fd, packing)
  const pieces: Buffer[] = []
  let size = 0
  for await (const piece of stream as AsyncIterable<Buffer>) {
    pieces.push(piece)
    size += piece.length
    if (size >= BLOCK_BYTES) break // this closes the stream
  }
  if (size < BLOCK_BYTES) await ended
  return Buffer.concat(pieces)
}

/** How the archive FD is compressed; undefined if it is not an archive. */
async function archivePacking(fd: number): Promise<Packing | undefined> {
  try {
    const buffer = Buffer.alloc(BLOCK_BYTES)
    const head = buffer.subarray(0, readSync(fd, buffer, { position: 0 }))
    const packing = packingOf(head)
    return isTarHeader(packing === 'none' ? head : await firstBlock(fd, packing)) ? packing : undefined
  } catch (error) {
    if (error instanceof AppError) throw error
    return undefined // it only starts like an archive, so it is an ordinary file
  }
}

/**
 * Unpacks the archive FD into FOLDER. Returns false, without creating FOLDER, if it is not an archive. Throws
 * ContentError, SyscallError, Unsupported.
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
    // If the unpacker rejected the archive, that is why the stream broke.
    const refused = !result.ok && result.error instanceof AppError ? result.error : undefined
    throw refused ?? new ContentError(`the archive ${name} is damaged`, 'ERR_INVALID_CONTENT', error)
  }
  const result = await unpacker.result
  if (!result.ok) throw result.error
  return true
}
