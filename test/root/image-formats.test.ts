// Honest layers in every dialect of tar and compression that registries have: their content is unpacked
// unchanged.

import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { appendFile, chmod, lstat, mkdir, readdir, readFile, readlink, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import t from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import {
  noUnpacker as skip,
  paxRecord,
  readXattr,
  tar,
  tarEntry,
  unpack,
  type TarEntry,
} from '../helpers/layer.ts'

const link = (name: string, target: string): TarEntry => ({ name, type: '2', link: target })
const hard = (name: string, target: string): TarEntry => ({ name, type: '1', link: target })
const dir = (name: string): TarEntry => ({ name, type: '5' })

t.test('honest layers', { skip }, async (t) => {
  t.test('owners, modes, times and kinds are preserved', async (t) => {
    const { root, result } = await unpack(
      t,
      tar([
        { name: './', type: '5', mode: 0o711, mtime: 1_000_000_000 },
        { name: 'd', type: '5', mode: 0o2750, uid: 1000, gid: 1001, mtime: 1_100_000_000 },
        { name: 'd/su', mode: 0o4755, uid: 1000, data: 'program', mtime: 1_200_000_000 },
        { name: '/abs/implied/f', data: 'x', pax: { mtime: '1300000000.25', uid: '3000000' } },
        { name: 'l', type: '2', link: '/absolute/target', uid: 5 },
        { name: 'h', type: '1', link: './d/su' },
        { name: 'p', type: '6', mode: 0o640 },
        { name: 'null', type: '3' },
      ]),
    )
    t.match(result, { ok: true, devicesDropped: 1 })
    const of = (name: string) => lstat(join(root, name))
    t.match(await of('.'), { mode: 0o40711, mtimeMs: 1_000_000_000_000 })
    t.match(await of('d'), { mode: 0o42750, uid: 1000, gid: 1001, mtimeMs: 1_100_000_000_000 })
    t.match(await of('d/su'), { mode: 0o104755, uid: 1000, nlink: 2, mtimeMs: 1_200_000_000_000 })
    t.match(await of('abs/implied/f'), { uid: 3_000_000, mtimeMs: 1_300_000_000_250 })
    t.match(await of('abs/implied'), { mode: 0o40755, uid: 0 })
    t.equal(await readlink(join(root, 'l')), '/absolute/target')
    t.equal((await of('l')).uid, 5)
    t.ok((await of('p')).isFIFO())
    t.notOk(existsSync(join(root, 'null')), 'device nodes are left out')
  })

  t.test('extended attributes are preserved byte for byte', async (t) => {
    const capability = Buffer.from('0100000280ff00000000000000000000ffffffff', 'hex').subarray(0, 20)
    const { root, result } = await unpack(
      t,
      tar([
        {
          name: 'f',
          data: 'x',
          mode: 0o755,
          uid: 7,
          pax: {
            'SCHILY.xattr.security.capability': capability,
            'SCHILY.xattr.user.bin': Buffer.from([0, 10, 255]),
            'SCHILY.xattr.com.apple.x': 'left out',
          },
        },
      ]),
    )
    t.match(result, { ok: true })
    t.strictSame(readXattr(root, 'f', 'security.capability'), capability)
    t.strictSame(readXattr(root, 'f', 'user.bin'), Buffer.from([0, 10, 255]))
  })

  t.test('a later entry replaces an earlier one, and a directory stays a directory', async (t) => {
    const { root, result } = await unpack(
      t,
      tar([
        { name: 'f', data: 'old' },
        { name: 'f', data: 'new' },
        dir('d'),
        { name: 'd/keep', data: 'x' },
        dir('d'),
        dir('gone/deep'),
        { name: 'gone/deep/x', data: 'x' },
        { name: 'gone', data: 'a file now' },
        link('s', '/etc'),
        dir('s'),
        { name: 's/inside', data: 'x' },
        hard('f2', 'f'),
        hard('f2', 'f2'),
      ]),
    )
    t.match(result, { ok: true })
    t.equal(await readFile(join(root, 'f'), 'utf8'), 'new')
    t.equal(await readFile(join(root, 'd/keep'), 'utf8'), 'x')
    t.equal(await readFile(join(root, 'gone'), 'utf8'), 'a file now')
    t.equal(await readFile(join(root, 's/inside'), 'utf8'), 'x')
    t.equal(await readFile(join(root, 'f2'), 'utf8'), 'new')
  })

  t.test('a relative symlink inside the layer may be written through', async (t) => {
    const { root } = await unpack(
      t,
      tar([dir('usr/lib'), link('lib', 'usr/lib'), { name: 'lib/x', data: 'x' }]),
    )
    t.equal(await readFile(join(root, 'usr/lib/x'), 'utf8'), 'x')
  })

  t.test('each name is resolved again after a replacement', async (t) => {
    const { root } = await unpack(
      t,
      tar([
        dir('d1'),
        dir('d2'),
        { name: 'd1/a', data: 'x' },
        { name: 'd2/b', data: 'x' },
        link('s', 'd1'),
        { name: 's/c', data: 'x' },
        link('s', 'd2'),
        { name: 's/e', data: 'x' },
      ]),
    )
    t.strictSame((await readdir(join(root, 'd1'))).toSorted(), ['a', 'c'])
    t.strictSame((await readdir(join(root, 'd2'))).toSorted(), ['b', 'e'])
  })

  t.test('a whiteout and its replacement may come in either order', async (t) => {
    const { root, result } = await unpack(
      t,
      tar([
        { name: '.wh.first' },
        dir('first'),
        dir('second'),
        { name: '.wh.second' },
        { name: '.wh.implied' },
        { name: 'implied/x', data: 'x' },
        { name: '.wh.file' },
        { name: 'file', data: 'x' },
        { name: '.wh.gone' },
        { name: '.wh..wh.aufs' },
        { name: '.wh..wh.plnk/1.2', data: 'x' },
      ]),
    )
    t.match(result, { ok: true })
    t.strictSame((await readdir(root)).toSorted(), ['file', 'first', 'gone', 'implied', 'second'])
    for (const name of ['first', 'second', 'implied'])
      t.equal(readXattr(root, name, 'user.overlay.opaque')?.toString(), 'y', `${name} is opaque`)
    t.match(await lstat(join(root, 'gone')), { rdev: 0, mode: 0o20000 })
  })

  t.test('numbers may be large, negative, fractional, and in base 256', async (t) => {
    const base256 = (value: bigint, length: number): Buffer => {
      const field = Buffer.alloc(length)
      for (let i = length - 1, rest = value; i >= 0; i--, rest >>= 8n) field[i] = Number(rest & 0xffn)
      field[0] = field[0]! | 0x80
      return field
    }
    const put =
      (offset: number, value: bigint, length: number) =>
      (block: Buffer): void => {
        base256(value, length).copy(block, offset)
      }
    const { root, result } = await unpack(
      t,
      tar([
        { name: 'uid', patch: put(108, 4_294_967_294n, 8) },
        { name: 'late', patch: put(136, 10_000_000_000n, 12) },
        { name: 'early', patch: put(136, -86_400n, 12) },
        { name: 'size', data: 'four', patch: put(124, 4n, 12) },
        { name: 'before', pax: { mtime: '-1.25' } },
        { name: 'precise', pax: { mtime: '1234567890.1234567891' } },
        { name: 'spaces', patch: (block) => block.write('  644 \0', 100) },
      ]),
    )
    t.match(result, { ok: true })
    const mtimeOf = async (name: string) => (await lstat(join(root, name), { bigint: true })).mtimeNs
    t.equal((await lstat(join(root, 'uid'))).uid, 4_294_967_294)
    t.equal(await mtimeOf('late'), 10_000_000_000_000_000_000n)
    t.equal(await mtimeOf('early'), -86_400_000_000_000n)
    t.equal(await mtimeOf('before'), -1_250_000_000n)
    t.equal(await mtimeOf('precise'), 1_234_567_890_123_456_789n)
    t.equal(await readFile(join(root, 'size'), 'utf8'), 'four')
    t.equal((await lstat(join(root, 'spaces'))).mode, 0o100644)
  })

  t.test('names are bytes: line feeds and invalid UTF-8 are preserved', async (t) => {
    const name = Buffer.from([0x61, 0x0a, 0xff, 0xfe, 0x22])
    const { root, result } = await unpack(
      t,
      tar([{ name: 'x', pax: { hdrcharset: 'BINARY', path: name } }, { name: 'ab\xe9' }]),
    )
    t.match(result, { ok: true })
    t.strictSame(
      (await readdir(root, { encoding: 'buffer' })).map((entry) => entry.toString('hex')).toSorted(),
      [name.toString('hex'), '6162e9'].toSorted(),
    )
  })

  t.test(
    'of several names the same one counts as for Go’s tools: GNU before pax before ustar, never a global header’s',
    async (t) => {
      const { root, result } = await unpack(
        t,
        Buffer.concat([
          tarEntry({ name: 'g', type: 'g', data: paxRecord('path', 'global') }),
          tarEntry({ name: 'p', type: 'x', data: paxRecord('path', 'pax') }),
          tarEntry({ name: 'l', type: 'L', data: 'gnu\0' }),
          tarEntry({ name: 'ustar' }),
          tarEntry({ name: 'ustar', pax: { path: 'pax' } }),
          tar([{ name: 'plain', pax: { path: '' } }]),
        ]),
      )
      t.match(result, { ok: true })
      t.strictSame((await readdir(root)).toSorted(), ['gnu', 'pax', 'plain'])
    },
  )

  t.test('hard links to files, symlinks and fifos, through symlinks', async (t) => {
    const { root, result } = await unpack(
      t,
      tar([
        { name: 'd/f', data: 'x' },
        link('s', 'd'),
        hard('one', 's/f'),
        hard('s/two', '/one'),
        link('dangling', 'nowhere'),
        hard('three', 'dangling'),
        { name: 'p', type: '6' },
        hard('four', 'p'),
      ]),
    )
    t.match(result, { ok: true })
    const inode = async (name: string) => (await lstat(join(root, name))).ino
    t.equal(await inode('one'), await inode('d/f'))
    t.equal(await inode('d/two'), await inode('d/f'))
    t.equal(await inode('three'), await inode('dangling'))
    t.equal(await inode('four'), await inode('p'))
    t.equal(await readlink(join(root, 'three')), 'nowhere')
  })

  t.test('layers that are empty, without an end marker, or with bytes after it', async (t) => {
    const file = tarEntry({ name: 'f', data: 'x' })
    for (const archive of [Buffer.alloc(0), Buffer.alloc(1024), tar([])])
      t.match((await unpack(t, archive)).result, { ok: true, entries: 0 })
    for (const tail of [
      Buffer.alloc(0),
      Buffer.alloc(512),
      Buffer.alloc(10_240),
      Buffer.concat([Buffer.alloc(1024), Buffer.from('anything')]),
    ]) {
      const { root, result } = await unpack(t, Buffer.concat([file, tail]))
      t.match(result, { ok: true, entries: 1, bytes: 1024 + tail.length })
      t.strictSame(await readdir(root), ['f'])
    }
  })

  t.test('gzip with several members, zstd with several frames, one of them skippable', async (t) => {
    const archive = tar([{ name: 'f', data: 'x'.repeat(3000) }])
    const halves = [archive.subarray(0, 700), archive.subarray(700)]
    const skipped = Buffer.from('502a4d1803000000616263', 'hex')
    const members = Buffer.concat([...halves.map((half) => gzipSync(half)), Buffer.alloc(100)])
    const frames = Buffer.concat([skipped, ...halves.map((half) => zstdCompressSync(half)), skipped])
    const digests = new Set<string>()
    for (const [layer, compression] of [
      [members, 'gzip'],
      [frames, 'zstd'],
      [archive, 'none'],
    ] as const) {
      const { root, result } = await unpack(t, layer, compression)
      if (!result.ok) throw result.error
      digests.add(result.diffId)
      t.equal(result.digest, digestOf(layer))
      t.equal((await lstat(join(root, 'f'))).size, 3000)
    }
    t.strictSame([...digests], [digestOf(archive)])
  })

  t.test(
    'a directory’s times, mode and opaqueness hold, whatever entries come before or after',
    async (t) => {
      const { root, result } = await unpack(
        t,
        tar([
          { ...dir('d'), mode: 0o500, mtime: 1000 },
          { name: 'd/f', data: 'x' },
          { name: 'd/.wh..wh..opq' },
          { name: 'e/f', data: 'x' },
          { name: 'e/.wh..wh..opq' },
          { ...dir('e'), mtime: 2000 },
          hard('d/h', 'e/f'),
        ]),
      )
      t.match(result, { ok: true })
      t.match(await lstat(join(root, 'd')), { mode: 0o40500, mtimeMs: 1_000_000 })
      t.match(await lstat(join(root, 'e')), { mtimeMs: 2_000_000 })
      for (const name of ['d', 'e']) t.equal(readXattr(root, name, 'user.overlay.opaque')?.toString(), 'y')
      t.strictSame((await readdir(join(root, 'd'))).toSorted(), ['f', 'h'])
    },
  )

  t.test('a default ACL applies to its directory alone: no entry inherits it', async (t) => {
    const acl = Buffer.from([
      2,
      0,
      0,
      0,
      ...[
        [1, 7, -1],
        [2, 7, 1000],
        [4, 5, -1],
        [0x10, 7, -1],
        [0x20, 0, -1],
      ].flatMap(([tag, perm, id]) => [
        tag!,
        0,
        perm!,
        0,
        ...(id! < 0 ? [255, 255, 255, 255] : [id! & 255, id! >> 8, 0, 0]),
      ]),
    ])
    const { root, result } = await unpack(
      t,
      tar([
        { ...dir('d'), pax: { 'SCHILY.xattr.system.posix_acl_default': acl } },
        { name: 'd/f', mode: 0o604, data: 'x' },
        { ...dir('d/sub'), mode: 0o701 },
        { name: 'd/implied/f', data: 'x' },
      ]),
    )
    t.match(result, { ok: true })
    const aclsOf = (name: string): number =>
      execFileSync('tar', ['--acls', '--no-recursion', '-cf', '-', '-C', root, name])
        .toString('latin1')
        .match(/SCHILY\.acl\.\w+=./g)?.length ?? 0
    t.not(aclsOf('d'), 0)
    for (const name of ['d/f', 'd/sub', 'd/implied', 'd/implied/f']) t.equal(aclsOf(name), 0, name)
    t.match(await lstat(join(root, 'd/f')), { mode: 0o100604 })
    t.match(await lstat(join(root, 'd/sub')), { mode: 0o40701 })
    t.match(await lstat(join(root, 'd/implied')), { mode: 0o40755 })
  })

  t.test('sparse files are refused in each dialect of GNU tar', async (t) => {
    const source = t.testdir({ holes: '' })
    await truncate(join(source, 'holes'), 1024 ** 2)
    await appendFile(join(source, 'holes'), 'end')
    for (const format of [['gnu'], ['posix', '0.0'], ['posix', '0.1'], ['posix', '1.0']] as const) {
      const archive = execFileSync('tar', [
        `--format=${format[0]}`,
        '--sparse',
        ...(format[1] === undefined ? [] : [`--sparse-version=${format[1]}`]),
        '-C',
        source,
        '-cf',
        '-',
        'holes',
      ])
      await t.test(format.join(' '), async (t) => {
        t.match((await unpack(t, archive)).result, {
          ok: false,
          error: { code: 'ERR_INVALID_CONTENT', message: /sparse/ },
        })
      })
    }
  })

  for (const format of ['gnu', 'posix', 'ustar', 'v7'] as const) {
    t.test(`${format} archives of GNU tar are unpacked unchanged`, async (t) => {
      const source = t.testdir({ a: { f: 'x'.repeat(70_000) } })
      const long = join(
        'long',
        'n'.repeat(format === 'v7' ? 9 : 90),
        'm'.repeat({ gnu: 200, posix: 200, ustar: 80, v7: 8 }[format]),
      )
      await mkdir(join(source, long), { recursive: true })
      await chmod(join(source, 'a/f'), 0o4711)
      const archive = execFileSync('tar', [`--format=${format}`, '-C', source, '-cf', '-', '.'], {
        maxBuffer: 10 ** 7,
      })
      await t.test('unpacked', async (t) => {
        const { root, result } = await unpack(t, archive)
        t.match(result, { ok: true })
        t.ok((await lstat(join(root, long))).isDirectory())
        t.match(await lstat(join(root, 'a/f')), { mode: 0o104711, size: 70_000 })
      })
    })
  }
})
