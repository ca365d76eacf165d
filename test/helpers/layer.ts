// Layers for tests: tar archives written header by header, so that they can contain what no honest tool
// writes, and a way to unpack them that notices writes outside of the folder.

import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import type { Test } from 'tap'
import type { Compression } from '../../services/registry/manifest.ts'
import { startUnpacker, type UnpackResult } from '../../services/images/unpack.ts'

const NATIVE_DIR = join(import.meta.dirname, '../../build/native')

/** The reason to skip tests that unpack, or false. */
export const noUnpacker: string | false =
  process.getuid?.() !== 0
    ? 'needs root'
    : existsSync(join(NATIVE_DIR, 'wherry-unpack'))
      ? false
      : 'build/native/wherry-unpack is missing: run make native'

export interface TarEntry {
  readonly name: string
  /**
   * '0' file (default), '1' hard link, '2' symlink, '3' '4' device, '5' directory, '6' fifo, or any other
   * byte.
   */
  readonly type?: string
  readonly data?: string | Uint8Array
  readonly link?: string
  readonly mode?: number
  readonly uid?: number
  readonly gid?: number
  readonly mtime?: number
  /** The size in the header, if it is not the length of `data`. */
  readonly size?: number
  /** Records of a preceding pax header; values are bytes or strings. */
  readonly pax?: Readonly<Record<string, string | Uint8Array>>
  /** Changes the header block before its checksum is computed. */
  readonly patch?: (block: Buffer) => void
}

const BLOCK = 512
export const GZIP_LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip'
export const ZSTD_LAYER = 'application/vnd.oci.image.layer.v1.tar+zstd'
export const PLAIN_LAYER = 'application/vnd.oci.image.layer.v1.tar'

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK)])
}

function octal(value: number, length: number): string {
  return `${value.toString(8).padStart(length - 1, '0')}\0`
}

function header(entry: TarEntry, type: string, size: number): Buffer {
  const block = Buffer.alloc(BLOCK)
  block.write(entry.name, 0, 100, 'latin1')
  block.write(octal(entry.mode ?? (type === '5' ? 0o755 : 0o644), 8), 100)
  block.write(octal(entry.uid ?? 0, 8), 108)
  block.write(octal(entry.gid ?? 0, 8), 116)
  block.write(octal(size, 12), 124)
  block.write(octal(entry.mtime ?? 1_700_000_000, 12), 136)
  block.write(' '.repeat(8), 148)
  block.write(type, 156, 1, 'latin1')
  block.write(entry.link ?? '', 157, 100, 'latin1')
  block.write('ustar\x0000', 257, 'latin1')
  entry.patch?.(block)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return block
}

function bytesOf(value: string | Uint8Array): Buffer {
  return typeof value === 'string' ? Buffer.from(value) : Buffer.from(value)
}

/** "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
export function paxRecord(key: string, value: string | Uint8Array): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), bytesOf(value), Buffer.from('\n')])
  let length = rest.length + 1
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length
  return Buffer.concat([Buffer.from(String(length)), rest])
}

/** One entry's blocks, without the archive's end. */
export function tarEntry(entry: TarEntry): Buffer {
  const data = bytesOf(entry.data ?? '')
  const own = Buffer.concat([header(entry, entry.type ?? '0', entry.size ?? data.length), padded(data)])
  if (!entry.pax) return own
  const records = Buffer.concat(Object.entries(entry.pax).map(([key, value]) => paxRecord(key, value)))
  return Buffer.concat([header({ name: 'pax' }, 'x', records.length), padded(records), own])
}

/** A whole archive. */
export function tar(entries: readonly TarEntry[]): Buffer {
  return Buffer.concat([...entries.map(tarEntry), Buffer.alloc(2 * BLOCK)])
}

/** A gzip layer of ENTRIES, for pushImage. */
export function gzipLayer(entries: readonly TarEntry[]): { bytes: Uint8Array; mediaType: string } {
  return { bytes: gzipSync(tar(entries)), mediaType: GZIP_LAYER }
}

/** A zstd layer of ENTRIES, for pushImage. */
export function zstdLayer(entries: readonly TarEntry[]): { bytes: Uint8Array; mediaType: string } {
  return { bytes: zstdCompressSync(tar(entries)), mediaType: ZSTD_LAYER }
}

/** Unpack LAYER into a folder of T; fails the test if anything appears beside it. */
export async function unpack(
  t: Test,
  layer: Uint8Array | readonly Uint8Array[],
  compression: Compression = 'none',
): Promise<{ root: string; result: UnpackResult }> {
  const folder = t.testdir({ canary: 'alive', layer: {} })
  const root = join(folder, 'layer')
  const { stdin, result } = startUnpacker({
    nativeDir: NATIVE_DIR,
    directory: root,
    compression,
    layer: 'test',
  })
  stdin.on('error', () => {}) // a refusal closes the pipe early
  for (const piece of layer instanceof Uint8Array ? [layer] : layer) stdin.write(piece)
  stdin.end()
  const settled = await result
  t.strictSame((await readdir(folder)).toSorted(), ['canary', 'layer'], 'nothing was created outside')
  t.equal(await readFile(join(folder, 'canary'), 'utf8'), 'alive')
  return { root, result: settled }
}

/** The bytes of attribute NAME as GNU tar reads them. */
export function readXattr(root: string, file: string, name: string): Buffer | undefined {
  const archive = execFileSync('tar', [
    '--xattrs',
    '--xattrs-include=*',
    '--no-recursion',
    '-cf',
    '-',
    '-C',
    root,
    file,
  ])
  const at = archive.indexOf(`SCHILY.xattr.${name}=`)
  if (at < 0) return undefined
  const start = archive.lastIndexOf(' ', at)
  const length = Number(/(\d+)$/.exec(archive.subarray(start - 8, start).toString('latin1'))?.[1])
  return archive.subarray(archive.indexOf('=', at) + 1, start - String(length).length + length - 1)
}
