// Hostile layers, generated here: each is refused with a reason, and nothing of it is left inside or outside.

import { lstat, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import t from 'tap'
import { noUnpacker as skip, tar, tarEntry, unpack, type TarEntry } from '../helpers/layer.ts'

const link = (name: string, target: string): TarEntry => ({ name, type: '2', link: target })
const hard = (name: string, target: string): TarEntry => ({ name, type: '1', link: target })
const dir = (name: string): TarEntry => ({ name, type: '5' })
const deep = (parts: number): string => Array.from({ length: parts }, () => 'd').join('/')

const refusals: ReadonlyArray<[string, string, readonly TarEntry[]]> = [
  ['"../" in a name', 'ERR_UNSAFE_LAYER', [{ name: '../canary', data: 'dead' }]],
  ['".." in the middle of a name', 'ERR_UNSAFE_LAYER', [dir('a'), { name: 'a/../../canary', data: 'dead' }]],
  ['".." that would stay inside', 'ERR_UNSAFE_LAYER', [dir('a'), { name: 'a/../b', data: 'x' }]],
  ['".." as the last part', 'ERR_UNSAFE_LAYER', [dir('a/b'), dir('a/b/..')]],
  [
    'a write through an absolute symlink',
    'ERR_UNSAFE_LAYER',
    [link('out', '/tmp'), { name: 'out/evil', data: 'x' }],
  ],
  [
    'a write through a climbing symlink',
    'ERR_UNSAFE_LAYER',
    [link('out', '..'), { name: 'out/canary', data: 'dead' }],
  ],
  [
    'a write through a chain of symlinks',
    'ERR_UNSAFE_LAYER',
    [dir('a'), link('a/b', '../..'), link('c', 'a/b'), { name: 'c/canary', data: 'dead' }],
  ],
  [
    'a write through a symlink to nowhere',
    'ERR_UNSAFE_LAYER',
    [link('out', 'nowhere'), { name: 'out/evil', data: 'x' }],
  ],
  ['symlinks in a circle', 'ERR_UNSAFE_LAYER', [link('a', 'b'), link('b', 'a'), { name: 'a/x', data: 'x' }]],
  ['a hard link to outside', 'ERR_UNSAFE_LAYER', [hard('a', '../canary')]],
  [
    'a hard link through an absolute symlink',
    'ERR_UNSAFE_LAYER',
    [link('etc', '/etc'), hard('a', 'etc/passwd')],
  ],
  [
    'a hard link to an absolute name that is not in the layer',
    'ERR_INVALID_CONTENT',
    [hard('a', '/etc/passwd')],
  ],
  ['a hard link through a climbing symlink', 'ERR_UNSAFE_LAYER', [link('s', '..'), hard('a', 's/canary')]],
  [
    'a hard link that would be looked up beside itself (CVE-2026-23745, CVE-2026-24842)',
    'ERR_UNSAFE_LAYER',
    [dir('a/b'), hard('a/b/c', '../../../canary')],
  ],
  ['a hard link to a whiteout', 'ERR_UNSAFE_LAYER', [{ name: '.wh.w' }, hard('a', 'w')]],
  ['a hard link to what comes only later', 'ERR_INVALID_CONTENT', [hard('a', 'b'), { name: 'b', data: 'x' }]],
  [
    'a directory that becomes a climbing symlink between two entries (CVE-2025-47290)',
    'ERR_UNSAFE_LAYER',
    [dir('d'), { name: 'd/a' }, link('d', '..'), { name: 'd/canary', data: 'dead' }],
  ],
  [
    'a directory that becomes an absolute symlink between two entries',
    'ERR_UNSAFE_LAYER',
    [dir('d'), { name: 'd/a' }, link('d', '/tmp'), dir('d/evil')],
  ],
  ['a hard link to a directory', 'ERR_UNSAFE_LAYER', [dir('a'), hard('b', 'a')]],
  ['a symlink in place of the root (CVE-2021-29136)', 'ERR_UNSAFE_LAYER', [link('./', '/etc')]],
  ['a symlink in place of "/" (CVE-2021-29136)', 'ERR_UNSAFE_LAYER', [link('/', '/etc')]],
  ['a file in place of the root', 'ERR_UNSAFE_LAYER', [{ name: '.', data: 'x' }]],
  ['a whiteout of nothing', 'ERR_UNSAFE_LAYER', [{ name: '.wh.' }]],
  ['a whiteout of "."', 'ERR_UNSAFE_LAYER', [{ name: 'a/.wh..' }]],
  ['a whiteout of ".."', 'ERR_UNSAFE_LAYER', [{ name: 'a/.wh...' }]],
  ['a file below a whiteout’s name', 'ERR_UNSAFE_LAYER', [{ name: '.wh.a/b' }]],
  [
    'an opaque marker behind an absolute symlink',
    'ERR_UNSAFE_LAYER',
    [link('a', '/'), { name: 'a/.wh..wh..opq' }],
  ],
  [
    'trusted.overlay attributes',
    'ERR_UNSAFE_LAYER',
    [{ name: 'a', type: '5', pax: { 'SCHILY.xattr.trusted.overlay.redirect': '/etc' } }],
  ],
  [
    'user.overlay attributes',
    'ERR_UNSAFE_LAYER',
    [{ name: 'a', type: '5', pax: { 'SCHILY.xattr.user.overlay.redirect': '/etc' } }],
  ],
  ['a GNU sparse file', 'ERR_INVALID_CONTENT', [{ name: 'a', type: 'S', data: 'x' }]],
  [
    'a pax sparse file',
    'ERR_INVALID_CONTENT',
    [{ name: 'a', pax: { 'GNU.sparse.major': '1', 'GNU.sparse.realsize': '8796093022208' } }],
  ],
  ['an unknown entry type', 'ERR_INVALID_CONTENT', [{ name: 'a', type: 'Z' }]],
  [
    'a file below a file',
    'ERR_INVALID_CONTENT',
    [
      { name: 'a', data: 'x' },
      { name: 'a/b', data: 'x' },
    ],
  ],
  ['an owner that is no 32-bit number', 'ERR_INVALID_CONTENT', [{ name: 'a', pax: { uid: '4294967296' } }]],
  [
    'an owner that chown reads as "unchanged"',
    'ERR_INVALID_CONTENT',
    [{ name: 'a', pax: { gid: '4294967295' } }],
  ],
  ['a NUL in a pax name', 'ERR_INVALID_CONTENT', [{ name: 'a', pax: { path: 'a\0b' } }]],
  [
    'a directory with contents that look like an entry',
    'ERR_INVALID_CONTENT',
    [{ name: 'a/', data: tarEntry({ name: 'smuggled' }) }],
  ],
  ['a negative size', 'ERR_INVALID_CONTENT', [{ name: 'a', patch: (block) => block.fill(0xff, 124, 136) }]],
  [
    'a size that is not a number',
    'ERR_INVALID_CONTENT',
    [{ name: 'a', patch: (block) => block.write('9', 130) }],
  ],
  [
    'a size with a second number behind it',
    'ERR_INVALID_CONTENT',
    [{ name: 'a', patch: (block) => block.write('0 7', 130) }],
  ],
  ['a negative owner', 'ERR_INVALID_CONTENT', [{ name: 'a', patch: (block) => block.fill(0xff, 108, 116) }]],
  [
    'a part of a name of 300 characters',
    'ERR_CONTENT_LIMIT',
    [{ name: 'a', pax: { path: `a/${'b'.repeat(300)}/c` } }],
  ],
  ['a name of 5000 characters', 'ERR_CONTENT_LIMIT', [{ name: 'a', pax: { path: 'a/'.repeat(2500) } }]],
  ['300 nested directories', 'ERR_CONTENT_LIMIT', [{ name: 'a', pax: { path: deep(300) } }]],
  [
    '300 nested directories by way of a symlink',
    'ERR_CONTENT_LIMIT',
    [
      { name: 'a', type: '5', pax: { path: deep(150) } },
      { name: 's', type: '2', pax: { linkpath: deep(150) } },
      { name: 'a', pax: { path: `s/${deep(150)}` } },
    ],
  ],
  ['a pax header over 1 MiB', 'ERR_CONTENT_LIMIT', [{ name: 'a', pax: { comment: 'x'.repeat(1024 ** 2) } }]],
  [
    'a file larger than an image may be',
    'ERR_CONTENT_LIMIT',
    [{ name: 'a', pax: { size: String(2 ** 43) } }],
  ],
  ['a header with a size beyond the end', 'ERR_INVALID_CONTENT', [{ name: 'a', data: 'x', size: 1_000_000 }]],
]

t.test('hostile layers', { skip }, async (t) => {
  for (const [name, code, entries] of refusals) {
    t.test(`${name} is refused with ${code}`, async (t) => {
      const { result } = await unpack(t, tar(entries))
      t.match(result, { ok: false, error: { code } })
    })
  }

  t.test('input that is not a tar, damaged or cut is refused', async (t) => {
    const whole = tar([{ name: 'a', data: 'x'.repeat(2000) }])
    const damaged = Buffer.from(whole)
    damaged[3] = 0x41
    for (const archive of [
      Buffer.alloc(1024, 'x'),
      damaged,
      whole.subarray(0, 100),
      whole.subarray(0, 600),
      tarEntry({ name: 'a', pax: { path: 'b' } }).subarray(0, 1024),
    ]) {
      const { result } = await unpack(t, archive)
      t.match(result, { ok: false, error: { code: 'ERR_INVALID_CONTENT' } })
    }
  })

  t.test('every cut and every flipped byte of an archive gives an answer, not a crash', async (t) => {
    const archive = tar([
      dir('a'),
      { name: 'a/f', data: 'hello', pax: { mtime: '1.5', 'SCHILY.xattr.user.a': 'b' } },
      link('l', 'a'),
      hard('h', 'a/f'),
    ])
    for (let i = 0; i < 60; i++) {
      const mutant = Buffer.from(
        archive.subarray(0, i % 3 === 0 ? (archive.length * i) / 60 : archive.length),
      )
      if (i % 3 !== 0) mutant[(i * 7919) % mutant.length]! ^= 1 << (i % 8)
      const { result } = await unpack(t, mutant)
      if (!result.ok) t.match(result, { error: { code: /^ERR_/ } })
    }
  })

  t.test('an archive with entries after its end is refused: readers would disagree', async (t) => {
    const { result } = await unpack(
      t,
      Buffer.concat([tarEntry({ name: 'a' }), Buffer.alloc(512), tar([{ name: 'b' }])]),
    )
    t.match(result, { ok: false, error: { code: 'ERR_INVALID_CONTENT', message: /goes on after its end/ } })
  })

  for (const [name, entries] of [
    [
      'a hard link to a symlink (CVE-2021-32760)',
      [link('a', '../canary'), { ...hard('b', 'a'), mode: 0o4777, uid: 5 }],
    ],
    [
      'a file where a symlink was (chmod by name, containerd in March 2026)',
      [link('a', '../canary'), { name: 'a', mode: 0o4777, uid: 5, data: 'x' }],
    ],
    ['a directory where a symlink was', [link('a', '..'), { ...dir('a'), mode: 0o777, uid: 5 }]],
  ] as const) {
    t.test(`${name} does not change the target of the symlink`, async (t) => {
      const { root, result } = await unpack(t, tar(entries))
      t.match(result, { ok: true })
      t.match(await lstat(join(root, '../canary')), { uid: 0, mode: 0o100644 })
      t.match(await lstat(join(root, '..')), { uid: 0 })
    })
  }

  t.test('device nodes are skipped, also one that looks like a whiteout', async (t) => {
    const { root, result } = await unpack(
      t,
      tar([
        { name: 'null', type: '3' },
        { name: 'sda', type: '4', patch: (block) => block.write('0000010', 329) },
        { name: 'f' },
      ]),
    )
    t.match(result, { ok: true, devicesDropped: 2 })
    t.strictSame(await readdir(root), ['f'])
  })

  t.test('more than a million entries are refused', async (t) => {
    const empty = Buffer.concat(Array.from({ length: 2000 }, () => tarEntry({ name: 'g', type: 'g' })))
    const { result } = await unpack(
      t,
      Array.from({ length: 501 }, () => empty),
    )
    t.match(result, { ok: false, error: { code: 'ERR_CONTENT_LIMIT', message: /more entries/ } })
  })

  t.test('bombs are refused', async (t) => {
    const zeros = tar([{ name: 'zeros', data: Buffer.alloc(90 * 1024 ** 2) }])
    const bombs = [
      ['gzip', gzipSync(zeros)],
      ['zstd', zstdCompressSync(zeros)],
    ] as const
    for (const [compression, bomb] of bombs) {
      const { result } = await unpack(t, bomb, compression)
      t.match(result, {
        ok: false,
        error: { code: 'ERR_CONTENT_LIMIT', message: /inflates to more than 1000 times its size/ },
      })
    }
  })

  t.test('a wrong compression is refused, also when the data is cut or too long', async (t) => {
    const archive = tar([{ name: 'a', data: 'x'.repeat(5000) }])
    const gzip = gzipSync(archive)
    const zstd = zstdCompressSync(archive)
    for (const [bytes, compression] of [
      [archive, 'gzip'],
      [archive, 'zstd'],
      [zstd, 'gzip'],
      [gzip, 'zstd'],
      [Buffer.alloc(0), 'gzip'],
      [Buffer.alloc(0), 'zstd'],
      [gzip.subarray(0, -1), 'gzip'],
      [zstd.subarray(0, -1), 'zstd'],
      [Buffer.concat([gzip, Buffer.from('x')]), 'gzip'],
      [Buffer.concat([zstd, Buffer.from('x')]), 'zstd'],
    ] as const) {
      const { result } = await unpack(t, bytes, compression)
      t.match(result, {
        ok: false,
        error: {
          code: 'ERR_INVALID_CONTENT',
          message: `layer test is refused: the layer is not valid ${compression}`,
        },
      })
    }
  })

  t.test('control characters in a name cannot forge the answer', async (t) => {
    const { result } = await unpack(t, tar([{ name: '../a"\nok 1 2 3\n' }]))
    t.match(result, { ok: false, error: { code: 'ERR_UNSAFE_LAYER' } })
  })
})
