// Parses the output of `wherry-layer list` as a stream: entries of a stage with the digests of their
// contents. native/layer/list.c describes the format. Contents are hashed, not stored.

import { createHash, type Hash } from 'node:crypto'
import type { Readable } from 'node:stream'

export interface ListedEntry {
  readonly type: 'file' | 'directory' | 'link' | 'fifo'
  /** Relative to the requested path, which itself is "". */
  readonly path: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly sizeBytes: number
  /** Target of a link. */
  readonly link: string
  /** Digest of contents and extended attributes; "" if not requested. */
  readonly digest: string
}

const TYPES: Readonly<Record<string, ListedEntry['type']>> = {
  f: 'file',
  d: 'directory',
  l: 'link',
  p: 'fifo',
}
const LINE_BYTES_MAX = 256

/** Reads exact numbers of bytes, or lines, from a stream. */
function createReader(stream: Readable) {
  const source = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  let held: Buffer = Buffer.alloc(0)
  let at = 0

  async function fill(): Promise<boolean> {
    const next = await source.next()
    if (next.done) return false
    held = at === held.length ? next.value : Buffer.concat([held.subarray(at), next.value])
    at = 0
    return true
  }

  return {
    /** A line without its end; undefined at the end of the stream. */
    async line(): Promise<string | undefined> {
      for (;;) {
        const end = held.indexOf(10, at)
        if (end >= 0) {
          const text = held.toString('latin1', at, end)
          at = end + 1
          return text
        }
        if (held.length - at > LINE_BYTES_MAX) throw new Error('wherry-layer printed a line that is too long')
        if (!(await fill())) {
          if (at < held.length) throw new Error('the output of wherry-layer is truncated')
          return undefined
        }
      }
    },
    /** Passes SIZE bytes to USE, piece by piece. */
    async take(size: number, use: (piece: Buffer) => void): Promise<void> {
      let left = size
      while (left > 0) {
        if (at === held.length && !(await fill())) throw new Error('the output of wherry-layer is truncated')
        const piece = held.subarray(at, Math.min(held.length, at + left))
        at += piece.length
        left -= piece.length
        use(piece)
      }
    },
  }
}

async function readEntry(
  reader: ReturnType<typeof createReader>,
  line: string,
  withContents: boolean,
): Promise<ListedEntry> {
  const [letter = '', mode = '', uid, gid, size, nameBytes, linkBytes, xattrBytes] = line.split(' ')
  const type = TYPES[letter]
  if (type === undefined) throw new Error(`unexpected output of wherry-layer: "${line}"`)
  const text = async (bytes: number): Promise<string> => {
    const pieces: Buffer[] = []
    await reader.take(bytes, (piece) => {
      pieces.push(piece)
    })
    return Buffer.concat(pieces).toString('utf8')
  }
  const path = await text(Number(nameBytes))
  const link = await text(Number(linkBytes))
  const hash: Hash | undefined = withContents ? createHash('sha256') : undefined
  await reader.take(Number(xattrBytes), (piece) => {
    hash?.update(piece)
  })
  hash?.update(`\0${xattrBytes}\0`)
  if (withContents)
    await reader.take(Number(size), (piece) => {
      hash?.update(piece)
    })
  return {
    type,
    path,
    mode: Number.parseInt(mode, 8),
    uid: Number(uid),
    gid: Number(gid),
    sizeBytes: Number(size),
    link,
    digest: hash?.digest('hex') ?? '',
  }
}

/** One list for each requested path; undefined for a path that does not exist. */
export async function readRecords(
  stream: Readable,
  withContents: boolean,
): Promise<Array<ListedEntry[] | undefined>> {
  const reader = createReader(stream)
  const paths: Array<ListedEntry[] | undefined> = []
  for (let line = await reader.line(); line !== undefined; line = await reader.line()) {
    if (line === '= ok') paths.push([])
    else if (line === '= missing') paths.push(undefined)
    else {
      const list = paths.at(-1)
      if (list === undefined) throw new Error(`unexpected output of wherry-layer: "${line}"`)
      list.push(await readEntry(reader, line, withContents))
    }
  }
  return paths
}
