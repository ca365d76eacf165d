// The files of an image archive: a tar, plain or compressed, or a folder. A tar is untrusted, so nothing is
// written under the names in it: each file becomes a numbered one in a draft folder of the store. Links are
// not created; the link that docker save writes for a layer shared by two images is recorded as another name
// of the same file.

import { createReadStream, createWriteStream } from 'node:fs'
import { constants, open, realpath, stat } from 'node:fs/promises'
import { join, posix, sep } from 'node:path'
import { pipeline as compose, Readable, Transform, type TransformCallback } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { extract, type Extract } from 'tar-stream'
import { AppError, ContentError } from '../contract/errors.ts'

export interface ArchiveFiles {
  has(name: string): Promise<boolean>
  /** The content of file NAME.  Throws ContentError when it is missing or larger than MAXBYTES. */
  read(name: string, maxBytes: number): Promise<Buffer>
  /** The file NAME as a stream. */
  open(name: string): Promise<Readable>
}

const ENTRIES_MAX = 10_000
const NAME_CHARACTERS_MAX = 512
const ARCHIVE_BYTES_MAX = 64 * 1024 ** 3
/** As for layers: beyond gzip's best for real files; the first bytes are exempt. */
const RATIO_MAX = 1000
const RATIO_FREE_BYTES = 64 * 1024 ** 2
const MAGIC_BYTES = 6

function refuse(why: string, cause?: unknown): never {
  throw new ContentError(`the archive is refused: ${why}`, 'ERR_INVALID_CONTENT', cause)
}

/** A name in the archive, normalized to "blobs/sha256/…".  Throws ContentError. */
function nameOf(written: string): string {
  const shown = JSON.stringify(written.slice(0, 100))
  if (written.length > NAME_CHARACTERS_MAX)
    refuse(`an entry's name is longer than ${NAME_CHARACTERS_MAX} characters (${shown}…)`)
  const parts = written.split('/').filter((part, i) => part !== '.' && !(part === '' && i > 0))
  if (parts.includes('..') || parts[0] === '' || written.includes('\0'))
    refuse(`the entry ${shown} has a name that leads out of the archive`)
  return parts.join('/')
}

/** The compression of a file that begins with BYTES. */
export function compressionOf(bytes: Uint8Array): 'none' | 'gzip' | 'zstd' | 'bzip2' | 'xz' {
  const hex = Buffer.from(bytes).toString('hex')
  if (hex.startsWith('1f8b')) return 'gzip'
  if (hex.startsWith('28b52ffd')) return 'zstd'
  if (hex.startsWith('425a68')) return 'bzip2'
  return hex.startsWith('fd377a585a00') ? 'xz' : 'none'
}

/** The first bytes of SOURCE, and a stream of all of it. */
async function peek(source: Readable): Promise<{ head: Buffer; whole: Readable }> {
  const iterator = source[Symbol.asyncIterator]()
  const pieces: Buffer[] = []
  let length = 0
  while (length < MAGIC_BYTES) {
    const next = await iterator.next()
    if (next.done) break
    pieces.push(next.value as Buffer)
    length += (next.value as Buffer).length
  }
  const head = Buffer.concat(pieces)
  const whole = Readable.from(
    (async function* () {
      yield head
      for (;;) {
        const next = await iterator.next()
        if (next.done) return
        yield next.value as Buffer
      }
    })(),
    { objectMode: false },
  )
  return { head, whole }
}

function counting(check: (bytes: number) => void): Transform {
  return new Transform({
    transform(chunk: Buffer, _encoding, done: TransformCallback) {
      try {
        check(chunk.length)
        done(null, chunk)
      } catch (error) {
        done(error as Error)
      }
    },
  })
}

/** SOURCE decompressed, within bounds. */
async function unpacked(source: Readable): Promise<Transform> {
  const { head, whole } = await peek(source)
  const compression = compressionOf(head)
  if (compression === 'bzip2' || compression === 'xz')
    refuse(`it is compressed with ${compression}; unpack it first (${compression} -d)`)
  let packedBytes = 0
  let plainBytes = 0
  const packed = counting((bytes) => {
    packedBytes += bytes
  })
  const plain = counting((bytes) => {
    plainBytes += bytes
    if (plainBytes > ARCHIVE_BYTES_MAX)
      throw new ContentError(`the archive has more than ${ARCHIVE_BYTES_MAX} bytes`, 'ERR_CONTENT_LIMIT')
    if (plainBytes > RATIO_FREE_BYTES && plainBytes > packedBytes * RATIO_MAX)
      throw new ContentError(
        `the archive inflates to more than ${RATIO_MAX} times its size`,
        'ERR_CONTENT_LIMIT',
      )
  })
  const inflate =
    compression === 'none' ? [] : [compression === 'gzip' ? createGunzip() : createZstdDecompress()]
  return compose([whole, packed, ...inflate, plain], () => {
    /* `plain` fails with the same error */
  }) as Transform // the last of the list
}

type Entry = Extract extends AsyncIterable<infer E> ? E : never
interface Staged {
  readonly path: string
  readonly size: number
}

/** The target of the link NAME inside the archive.  Throws ContentError unless NAME is a layer. */
function linkTarget(name: string, link: string): string {
  if (posix.basename(name) !== 'layer.tar' || link.startsWith('/'))
    refuse(`the entry ${JSON.stringify(name)} is a link`)
  return nameOf(posix.normalize(posix.join(posix.dirname(name), link)))
}

async function stageEntry(
  entry: Entry,
  draft: string,
  files: Map<string, Staged>,
  links: Map<string, string>,
): Promise<void> {
  const { type, name: written, linkname } = entry.header
  const name = nameOf(written)
  if (type === 'directory') {
    entry.resume()
    return
  }
  if (files.has(name) || links.has(name)) refuse(`the entry ${JSON.stringify(name)} occurs twice`)
  if (files.size + links.size >= ENTRIES_MAX)
    throw new ContentError(`the archive has more than ${ENTRIES_MAX} entries`, 'ERR_CONTENT_LIMIT')
  if (type === 'symlink') {
    links.set(name, linkTarget(name, linkname ?? ''))
    entry.resume()
    return
  }
  if (type !== 'file' && type !== 'contiguous-file')
    refuse(`the entry ${JSON.stringify(name)} is not a file (${type ?? 'unknown'})`)
  const path = join(draft, String(files.size))
  let size = 0
  await pipeline(
    entry,
    counting((bytes) => {
      size += bytes
    }),
    createWriteStream(path, { flags: 'wx', mode: 0o600 }),
  )
  files.set(name, { path, size })
}

function explain(error: unknown): unknown {
  if (error instanceof AppError) return error
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  // The caller words system errors (ENOSPC, EIO).
  if (error instanceof Error && 'syscall' in error) return error
  const why = /^(?:Z_|ZSTD_|ERR_ZSTD)/.test(code)
    ? 'its compression is damaged'
    : `it is not a tar archive, or damaged (${error instanceof Error ? error.message : String(error)})`
  return new ContentError(`the archive is refused: ${why}`, 'ERR_INVALID_CONTENT', error)
}

/**
 * The files of the tar SOURCE, written to the empty folder DRAFT, which the caller removes. Throws
 * ContentError, or a system error.
 */
export async function stageTar(source: Readable, draft: string): Promise<ArchiveFiles> {
  const files = new Map<string, Staged>()
  const links = new Map<string, string>()
  const tar = extract()
  try {
    const feeding = pipeline(await unpacked(source), tar)
    feeding.catch(() => {
      /* the loop below or the await after it throws it */
    })
    for await (const entry of tar) await stageEntry(entry, draft, files, links)
    await feeding
  } catch (error) {
    tar.destroy()
    source.destroy()
    throw explain(error)
  }
  const find = (name: string): Staged | undefined => files.get(name) ?? files.get(links.get(name) ?? '')
  const found = (name: string): Staged => find(name) ?? refuse(`it has no ${JSON.stringify(name)}`)
  return {
    has: async (name) => find(name) !== undefined,
    async read(name, maxBytes) {
      const { path, size } = found(name)
      if (size > maxBytes)
        throw new ContentError(`${name} of the archive is larger than ${maxBytes} bytes`, 'ERR_CONTENT_LIMIT')
      return Buffer.concat((await createReadStream(path).toArray()) as Buffer[])
    },
    open: async (name) => createReadStream(found(name).path),
  }
}

/** The files of folder DIR.  Links that lead out of it are refused. */
export function readFolder(dir: string): ArchiveFiles {
  /** The file is opened first, so the checked file is the one that is read. */
  async function openFile(name: string) {
    const root = await realpath(dir)
    const path = await realpath(join(root, nameOf(name))).catch((error: unknown) =>
      refuse(`it has no ${JSON.stringify(name)}`, error),
    )
    if (!path.startsWith(`${root}${sep}`)) refuse(`${JSON.stringify(name)} is a link that leads out of it`)
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    const { size } = await checkFile(file, name)
    return { file, size }
  }

  async function checkFile(file: Awaited<ReturnType<typeof open>>, name: string) {
    const found = await file.stat()
    if (found.isFile()) return found
    await file.close()
    return refuse(`${JSON.stringify(name)} is not a file`)
  }

  return {
    has: async (name) =>
      await stat(join(dir, nameOf(name))).then(
        () => true,
        () => false,
      ),
    async read(name, maxBytes) {
      const { file, size } = await openFile(name)
      try {
        if (size > maxBytes)
          throw new ContentError(
            `${name} of the archive is larger than ${maxBytes} bytes`,
            'ERR_CONTENT_LIMIT',
          )
        return await file.readFile()
      } finally {
        await file.close()
      }
    },
    open: async (name) => (await openFile(name)).file.createReadStream(),
  }
}
