import { existsSync } from 'node:fs'
import { chmod, lstat, mkdir, readdir, readFile, readlink } from 'node:fs/promises'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startUnpacker, type UnpackResult } from '../../services/image/unpack.ts'
import { tar, tarEntry, type TarEntry } from '../helpers/layer.ts'

const nativeDir = join(import.meta.dirname, '../../build/native')
const skip = process.getuid?.() !== 0 ? 'needs root'
  : existsSync(join(nativeDir, 'wherry-unpack')) ? false : 'build/native/wherry-unpack is missing: run make native'

/** Unpack ARCHIVE into a folder whose neighbours are watched: nothing may appear beside it. */
async function unpack (t: Test, archive: Uint8Array): Promise<{ root: string, result: UnpackResult }> {
  const folder = t.testdir({ canary: 'alive', layer: {} })
  const root = join(folder, 'layer')
  const { stdin, result } = startUnpacker({ nativeDir, directory: root, compression: 'none', layer: 'test' })
  stdin.on('error', () => {}) // a refusal closes the pipe early
  stdin.end(archive)
  const settled = await result
  t.strictSame((await readdir(folder)).toSorted(), ['canary', 'layer'], 'nothing was made outside')
  t.equal(await readFile(join(folder, 'canary'), 'utf8'), 'alive')
  return { root, result: settled }
}

/** The bytes of attribute NAME as GNU tar reads them. */
function readXattr (root: string, file: string, name: string): Buffer | undefined {
  const archive = execFileSync('tar', ['--xattrs', '--xattrs-include=*', '-cf', '-', '-C', root, file])
  const at = archive.indexOf(`SCHILY.xattr.${name}=`)
  if (at < 0) return undefined
  const start = archive.lastIndexOf(' ', at)
  const length = Number(/(\d+)$/.exec(archive.subarray(start - 8, start).toString('latin1'))?.[1])
  return archive.subarray(archive.indexOf('=', at) + 1, start - String(length).length + length - 1)
}

const link = (name: string, target: string): TarEntry => ({ name, type: '2', link: target })
const hard = (name: string, target: string): TarEntry => ({ name, type: '1', link: target })
const dir = (name: string): TarEntry => ({ name, type: '5' })
const deep = (parts: number): string => Array.from({ length: parts }, () => 'd').join('/')

const refusals: ReadonlyArray<[string, string, readonly TarEntry[]]> = [
  ['"../" in a name', 'ERR_UNSAFE_LAYER', [{ name: '../canary', data: 'dead' }]],
  ['".." in the middle of a name', 'ERR_UNSAFE_LAYER', [dir('a'), { name: 'a/../../canary', data: 'dead' }]],
  ['".." that would stay inside', 'ERR_UNSAFE_LAYER', [dir('a'), { name: 'a/../b', data: 'x' }]],
  ['".." as the last part', 'ERR_UNSAFE_LAYER', [dir('a/b'), dir('a/b/..')]],
  ['a write through an absolute symlink', 'ERR_UNSAFE_LAYER', [link('out', '/tmp'), { name: 'out/evil', data: 'x' }]],
  ['a write through a climbing symlink', 'ERR_UNSAFE_LAYER', [link('out', '..'), { name: 'out/canary', data: 'dead' }]],
  ['a write through a chain of symlinks', 'ERR_UNSAFE_LAYER', [dir('a'), link('a/b', '../..'), link('c', 'a/b'), { name: 'c/canary', data: 'dead' }]],
  ['a write through a symlink to nowhere', 'ERR_UNSAFE_LAYER', [link('out', 'nowhere'), { name: 'out/evil', data: 'x' }]],
  ['symlinks in a circle', 'ERR_UNSAFE_LAYER', [link('a', 'b'), link('b', 'a'), { name: 'a/x', data: 'x' }]],
  ['a hard link to outside', 'ERR_UNSAFE_LAYER', [hard('a', '../canary')]],
  ['a hard link through an absolute symlink', 'ERR_UNSAFE_LAYER', [link('etc', '/etc'), hard('a', 'etc/passwd')]],
  ['a hard link to an absolute name that is not in the layer', 'ERR_INVALID_CONTENT', [hard('a', '/etc/passwd')]],
  ['a hard link to a symlink', 'ERR_UNSAFE_LAYER', [link('a', '/etc/passwd'), hard('b', 'a')]],
  ['a hard link to a directory', 'ERR_UNSAFE_LAYER', [dir('a'), hard('b', 'a')]],
  ['a symlink in place of the root', 'ERR_UNSAFE_LAYER', [link('./', '/etc')]],
  ['a whiteout of nothing', 'ERR_UNSAFE_LAYER', [{ name: '.wh.' }]],
  ['a whiteout of "."', 'ERR_UNSAFE_LAYER', [{ name: 'a/.wh..' }]],
  ['a whiteout of ".."', 'ERR_UNSAFE_LAYER', [{ name: 'a/.wh...' }]],
  ['a file below a whiteout’s name', 'ERR_UNSAFE_LAYER', [{ name: '.wh.a/b' }]],
  ['an opaque marker behind an absolute symlink', 'ERR_UNSAFE_LAYER', [link('a', '/'), { name: 'a/.wh..wh..opq' }]],
  ['trusted.overlay attributes', 'ERR_UNSAFE_LAYER', [{ name: 'a', type: '5', pax: { 'SCHILY.xattr.trusted.overlay.redirect': '/etc' } }]],
  ['user.overlay attributes', 'ERR_UNSAFE_LAYER', [{ name: 'a', type: '5', pax: { 'SCHILY.xattr.user.overlay.redirect': '/etc' } }]],
  ['a GNU sparse file', 'ERR_INVALID_CONTENT', [{ name: 'a', type: 'S', data: 'x' }]],
  ['a pax sparse file', 'ERR_INVALID_CONTENT', [{ name: 'a', pax: { 'GNU.sparse.major': '1', 'GNU.sparse.realsize': '8796093022208' } }]],
  ['an unknown entry type', 'ERR_INVALID_CONTENT', [{ name: 'a', type: 'Z' }]],
  ['a file below a file', 'ERR_INVALID_CONTENT', [{ name: 'a', data: 'x' }, { name: 'a/b', data: 'x' }]],
  ['an owner that is no 32-bit number', 'ERR_INVALID_CONTENT', [{ name: 'a', pax: { uid: '4294967296' } }]],
  ['an owner that chown would take for "leave it"', 'ERR_INVALID_CONTENT', [{ name: 'a', pax: { gid: '4294967295' } }]],
  ['a NUL in a pax name', 'ERR_INVALID_CONTENT', [{ name: 'a', pax: { path: 'a\0b' } }]],
  ['a name of 5000 characters', 'ERR_CONTENT_LIMIT', [{ name: 'a', pax: { path: 'a/'.repeat(2500) } }]],
  ['300 nested directories', 'ERR_CONTENT_LIMIT', [{ name: 'a', pax: { path: deep(300) } }]],
  ['300 nested directories by way of a symlink', 'ERR_CONTENT_LIMIT', [
    { name: 'a', type: '5', pax: { path: deep(150) } }, { name: 's', type: '2', pax: { linkpath: deep(150) } }, { name: 'a', pax: { path: `s/${deep(150)}` } },
  ]],
  ['a pax header over 1 MiB', 'ERR_CONTENT_LIMIT', [{ name: 'a', pax: { comment: 'x'.repeat(1024 ** 2) } }]],
  ['a file larger than an image may be', 'ERR_CONTENT_LIMIT', [{ name: 'a', pax: { size: String(2 ** 43) } }]],
  ['a header that promises more than there is', 'ERR_INVALID_CONTENT', [{ name: 'a', data: 'x', size: 1_000_000 }]],
]

t.test('hostile layers', { skip }, async t => {
  for (const [name, code, entries] of refusals) {
    t.test(`${name} is refused with ${code}`, async t => {
      const { result } = await unpack(t, tar(entries))
      t.match(result, { ok: false, error: { code } })
    })
  }

  t.test('what is no tar, or damaged, or cut, is refused', async t => {
    const whole = tar([{ name: 'a', data: 'x'.repeat(2000) }])
    const damaged = Buffer.from(whole)
    damaged[3] = 0x41
    for (const archive of [Buffer.alloc(1024, 'x'), damaged, whole.subarray(0, 100), whole.subarray(0, 600), tarEntry({ name: 'a', pax: { path: 'b' } }).subarray(0, 1024)]) {
      const { result } = await unpack(t, archive)
      t.match(result, { ok: false, error: { code: 'ERR_INVALID_CONTENT' } })
    }
  })

  t.test('every cut and every flipped byte of an archive ends in a verdict, not in a crash', async t => {
    const archive = tar([dir('a'), { name: 'a/f', data: 'hello', pax: { mtime: '1.5', 'SCHILY.xattr.user.a': 'b' } }, link('l', 'a'), hard('h', 'a/f')])
    for (let i = 0; i < 60; i++) {
      const mutant = Buffer.from(archive.subarray(0, i % 3 === 0 ? (archive.length * i) / 60 : archive.length))
      if (i % 3 !== 0) mutant[(i * 7919) % mutant.length]! ^= 1 << (i % 8)
      const { result } = await unpack(t, mutant)
      if (!result.ok) t.match(result, { error: { code: /^ERR_/ } })
    }
  })

  t.test('control characters of a name cannot forge the answer', async t => {
    const { result } = await unpack(t, tar([{ name: '../a"\nok 1 2 3\n' }]))
    t.match(result, { ok: false, error: { code: 'ERR_UNSAFE_LAYER' } })
  })
})

t.test('honest layers', { skip }, async t => {
  t.test('owners, modes, times and kinds are kept', async t => {
    const { root, result } = await unpack(t, tar([
      { name: './', type: '5', mode: 0o711, mtime: 1_000_000_000 },
      { name: 'd', type: '5', mode: 0o2750, uid: 1000, gid: 1001, mtime: 1_100_000_000 },
      { name: 'd/su', mode: 0o4755, uid: 1000, data: 'program', mtime: 1_200_000_000 },
      { name: '/abs/implied/f', data: 'x', pax: { mtime: '1300000000.25', uid: '3000000' } },
      { name: 'l', type: '2', link: '/absolute/target', uid: 5 },
      { name: 'h', type: '1', link: './d/su' },
      { name: 'p', type: '6', mode: 0o640 },
      { name: 'null', type: '3' },
    ]))
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

  t.test('extended attributes are kept byte for byte', async t => {
    const capability = Buffer.from('0100000280ff00000000000000000000ffffffff', 'hex').subarray(0, 20)
    const { root, result } = await unpack(t, tar([
      { name: 'f', data: 'x', mode: 0o755, uid: 7, pax: { 'SCHILY.xattr.security.capability': capability, 'SCHILY.xattr.user.bin': Buffer.from([0, 10, 255]), 'SCHILY.xattr.com.apple.x': 'left out' } },
    ]))
    t.match(result, { ok: true })
    t.strictSame(readXattr(root, 'f', 'security.capability'), capability)
    t.strictSame(readXattr(root, 'f', 'user.bin'), Buffer.from([0, 10, 255]))
  })

  t.test('a later entry replaces an earlier one, and a directory stays a directory', async t => {
    const { root, result } = await unpack(t, tar([
      { name: 'f', data: 'old' }, { name: 'f', data: 'new' },
      dir('d'), { name: 'd/keep', data: 'x' }, dir('d'),
      dir('gone/deep'), { name: 'gone/deep/x', data: 'x' }, { name: 'gone', data: 'a file now' },
      link('s', '/etc'), dir('s'), { name: 's/inside', data: 'x' },
      hard('f2', 'f'), hard('f2', 'f2'),
    ]))
    t.match(result, { ok: true })
    t.equal(await readFile(join(root, 'f'), 'utf8'), 'new')
    t.equal(await readFile(join(root, 'd/keep'), 'utf8'), 'x')
    t.equal(await readFile(join(root, 'gone'), 'utf8'), 'a file now')
    t.equal(await readFile(join(root, 's/inside'), 'utf8'), 'x')
    t.equal(await readFile(join(root, 'f2'), 'utf8'), 'new')
  })

  t.test('a relative symlink inside the layer may be written through', async t => {
    const { root } = await unpack(t, tar([dir('usr/lib'), link('lib', 'usr/lib'), { name: 'lib/x', data: 'x' }]))
    t.equal(await readFile(join(root, 'usr/lib/x'), 'utf8'), 'x')
  })

  t.test('each name is resolved anew after something was replaced', async t => {
    const { root } = await unpack(t, tar([
      dir('d1'), dir('d2'), { name: 'd1/a', data: 'x' }, { name: 'd2/b', data: 'x' }, link('s', 'd1'), { name: 's/c', data: 'x' }, link('s', 'd2'), { name: 's/e', data: 'x' },
    ]))
    t.strictSame((await readdir(join(root, 'd1'))).toSorted(), ['a', 'c'])
    t.strictSame((await readdir(join(root, 'd2'))).toSorted(), ['b', 'e'])
  })

  t.test('a whiteout and what replaces it may come in either order', async t => {
    const { root, result } = await unpack(t, tar([
      { name: '.wh.first' }, dir('first'), dir('second'), { name: '.wh.second' }, { name: '.wh.implied' }, { name: 'implied/x', data: 'x' },
      { name: '.wh.file' }, { name: 'file', data: 'x' }, { name: '.wh.gone' }, { name: '.wh..wh.aufs' }, { name: '.wh..wh.plnk/1.2', data: 'x' },
    ]))
    t.match(result, { ok: true })
    t.strictSame((await readdir(root)).toSorted(), ['file', 'first', 'gone', 'implied', 'second'])
    for (const name of ['first', 'second', 'implied']) t.equal(readXattr(root, name, 'user.overlay.opaque')?.toString(), 'y', `${name} is opaque`)
    t.match(await lstat(join(root, 'gone')), { rdev: 0, mode: 0o20000 })
  })

  for (const format of ['gnu', 'posix', 'ustar', 'v7'] as const) {
    t.test(`GNU tar’s ${format} archives come out as they went in`, async t => {
      const source = t.testdir({ a: { f: 'x'.repeat(70_000) } })
      const long = join('long', 'n'.repeat(format === 'v7' ? 9 : 90), 'm'.repeat({ gnu: 200, posix: 200, ustar: 80, v7: 8 }[format]))
      await mkdir(join(source, long), { recursive: true })
      await chmod(join(source, 'a/f'), 0o4711)
      const archive = execFileSync('tar', [`--format=${format}`, '-C', source, '-cf', '-', '.'], { maxBuffer: 10 ** 7 })
      await t.test('unpacked', async t => {
        const { root, result } = await unpack(t, archive)
        t.match(result, { ok: true })
        t.ok((await lstat(join(root, long))).isDirectory())
        t.match(await lstat(join(root, 'a/f')), { mode: 0o104711, size: 70_000 })
      })
    })
  }
})
