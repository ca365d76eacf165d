// Compares unpacked images with umoci and podman; tests the limits of a whole image and an unpacker that
// dies.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { createBudget } from '../../services/images/layer.ts'
import { createPuller } from '../../services/images/pull.ts'
import type { PullProgress } from '../../services/images/layer-fetcher.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { createImageStore } from '../../services/images/store.ts'
import { debianLayer } from '../helpers/debian-image.ts'
import { GZIP_LAYER, gzipLayer, noUnpacker, tar, type TarEntry } from '../helpers/layer.ts'
import { noRegistry, startFakeImage, startRegistry } from '../helpers/registry.ts'

const run = promisify(execFile)
const nativeDir = join(import.meta.dirname, '../../build/native')
const missing = ['/usr/bin/skopeo', '/usr/bin/umoci', '/usr/bin/podman'].filter((path) => !existsSync(path))
const skipTools =
  noUnpacker ||
  noRegistry ||
  (missing.length > 0 && `${missing.join(', ')} not installed: infra/setup.sh --engines`)
const LIST_BYTES_MAX = 64 * 1024 ** 2

function setup(t: Test, name = 'store') {
  const dir = join(t.testdir({}), name)
  const registry = createRegistryClient({ requestTimeoutMs: 60_000 })
  const store = createImageStore({ dir })
  const seen: PullProgress[] = []
  const puller = createPuller({
    store,
    registry,
    nativeDir,
    onProgress: (progress) => {
      seen.push(progress)
    },
  })
  t.teardown(async () => {
    await puller.stop()
    await registry.close()
    store.close()
  })
  return { dir, registry, store, puller, seen }
}

const ARCHIVE = `cd "$0" && for kind in security user; do
  find . -mindepth 1 ! -type c -print0 | sort -z |
    tar --no-recursion --null -T - --format=posix --pax-option=delete=atime,delete=ctime --numeric-owner --xattrs --xattrs-include="$kind.*" --xattrs-exclude="user.overlay.*" -cf -
done | sha256sum`

/**
 * Everything below ROOT, one line each: name, kind, mode, owner, time, links, link target; and one digest of
 * contents, attributes and hard links. The time of a whiteout is ignored. So is the order of a file's
 * attributes: podman sets them in the order of a Go map, so each kind is archived alone.
 */
async function describeTree(root: string): Promise<{ entries: string[]; digest: string }> {
  const found = await run('find', [root, '-mindepth', '1', '-printf', '%P %y %m %U %G %T@ %n %l\\n'], {
    maxBuffer: LIST_BYTES_MAX,
  })
  const archived = await run('sh', ['-c', ARCHIVE, root])
  return {
    entries: found.stdout
      .split('\n')
      .map((line) => line.replace(/ c 0 0 0 .*/, ' c 0 0 0'))
      .toSorted(),
    digest: archived.stdout.slice(0, 64),
  }
}

/**
 * A layer with attributes, a fifo, and replaced, removed and opaque entries. No times before 1970: podman
 * changes them to 1970.
 */
const upper: readonly TarEntry[] = [
  { name: 'etc/', type: '5', mtime: 1_600_000_000 },
  { name: 'etc/.wh.passwd' },
  { name: 'etc/group', data: 'root:x:0:\n', pax: { mtime: '1500000000.123456789' } },
  { name: 'usr/', type: '5' },
  { name: 'usr/share/', type: '5' },
  { name: 'usr/share/doc/', type: '5' },
  { name: 'usr/share/doc/.wh..wh..opq' },
  { name: 'usr/bin/', type: '5' },
  {
    name: 'usr/bin/ping',
    mode: 0o755,
    data: 'x',
    pax: {
      'SCHILY.xattr.security.capability': Buffer.from('0100000200200000000000000000000000000000', 'hex'),
      'SCHILY.xattr.user.bytes': Buffer.from([0, 255, 10]),
    },
  },
  { name: 'usr/bin/su', mode: 0o4755, data: 'x' },
  { name: 'usr/bin/sudo', mode: 0o4755, type: '1', link: 'usr/bin/su' },
  { name: 'usr/bin/link', type: '2', link: '../../no/where', uid: 7 },
  {
    name: 'srv/',
    type: '5',
    mode: 0o3777,
    uid: 1000,
    gid: 1_000_000,
    pax: { mtime: '1.5', uid: '3000000000' },
  },
  { name: 'srv/fifo', type: '6', mode: 0o640, uid: 3 },
]

t.test('an image becomes the same tree with Wherry, umoci and podman', { skip: skipTools }, async (t) => {
  const host = await startRegistry(t)
  const { puller, registry } = setup(t)
  const folder = join(t.testdirName, 'others')
  await mkdir(folder)
  const base = { file: debianLayer(), mediaType: GZIP_LAYER }
  const ref = parseReference(`${host}/same:v1`)
  const digest = await pushImage({ registry, reference: ref, config: {}, layers: [base, gzipLayer(upper)] })
  const { image } = await puller.ensure(ref, digest)
  const ours = await Promise.all(image.layers.map(describeTree))

  t.test('umoci, for one layer', async (t) => {
    await pushImage({ registry, reference: { ...ref, tag: 'base' }, config: {}, layers: [base] })
    await run('skopeo', [
      'copy',
      '-q',
      '--src-tls-verify=false',
      `docker://${host}/same:base`,
      `oci:${folder}/layout:base`,
    ])
    await run('umoci', ['unpack', '--image', `${folder}/layout:base`, join(folder, 'bundle')])
    const theirs = await describeTree(join(folder, 'bundle/rootfs'))
    t.ok(theirs.entries.length > 5000)
    t.strictSame(
      ours[0]!.entries.filter((line, i) => line !== theirs.entries[i]),
      [],
    )
    t.strictSame(ours[0], theirs)
  })

  t.test('podman, for each layer of two, whiteouts included', async (t) => {
    const roots = ['--root', join(folder, 'p'), '--runroot', `/tmp/wherry-p-${process.pid}`]
    t.teardown(async () => {
      // Podman leaves a mount of the folder on itself.
      await run('umount', [join(folder, 'p/overlay')]).catch(() => {})
      await run('rm', ['-rf', `/tmp/wherry-p-${process.pid}`])
    })
    await run('podman', [
      ...roots,
      '--storage-driver',
      'overlay',
      'pull',
      '-q',
      '--tls-verify=false',
      `${host}/same:v1`,
    ])
    const inspected = JSON.parse(
      (await run('podman', [...roots, '--storage-driver', 'overlay', 'image', 'inspect', `${host}/same:v1`]))
        .stdout,
    ) as Array<{ GraphDriver: { Data: { UpperDir: string; LowerDir: string } } }>
    const { UpperDir, LowerDir } = inspected[0]!.GraphDriver.Data
    for (const [i, path] of [LowerDir, UpperDir].entries()) {
      const theirs = await describeTree(path)
      t.strictSame(
        ours[i]!.entries.filter((line) => !theirs.entries.includes(line)),
        [],
      )
      t.strictSame(ours[i], theirs)
    }
  })
})

t.test('a pull reports the progress of each layer', { skip: noUnpacker }, async (t) => {
  const { puller, seen, dir } = setup(t)
  const packed = (name: string) => {
    const plain = tar([{ name, data: Buffer.alloc(1024 ** 2, name) }])
    return { bytes: gzipSync(plain), mediaType: GZIP_LAYER, diffId: digestOf(plain) }
  }
  const first = packed('first')
  const second = packed('second')
  const fake = await startFakeImage(t, { layers: [first] })
  await puller.ensure(parseReference(`${fake.host}/test/image`), fake.digest)
  const states = (layer: { bytes: Uint8Array }): string[] => [
    ...new Set(
      seen.filter((progress) => progress.layer === digestOf(layer.bytes)).map((progress) => progress.state),
    ),
  ]
  t.ok(
    ['queued,receiving,unpacking,done', 'queued,unpacking,done'].includes(states(first).join()),
    states(first).join(),
  )
  t.match(
    seen.findLast((progress) => progress.state === 'unpacking'),
    {
      receivedBytes: first.bytes.length,
      sizeBytes: first.bytes.length,
      unpackedBytes: tar([{ name: 'first', data: Buffer.alloc(1024 ** 2) }]).length,
    },
  )
  seen.length = 0
  const both = await startFakeImage(t, { layers: [first, second] })
  await puller.ensure(parseReference(`${both.host}/test/image`), both.digest)
  t.strictSame(states(first), ['present'])
  t.strictSame(states(second).at(-1), 'done')
  t.strictSame(await readdir(join(dir, 'tmp')), [])
})

t.test('the limits of an image cover all its layers together', async (t) => {
  const spend = createBudget(100, 10)
  spend(60)
  spend(0, 10)
  t.throws(() => spend(41), { code: 'ERR_CONTENT_LIMIT', message: /more than 100 bytes/ })
  t.throws(() => createBudget(100, 10)(0, 11), { code: 'ERR_CONTENT_LIMIT', message: /more than 10 entries/ })
})

t.test('an unpacker that is killed', { skip: noUnpacker }, async (t) => {
  const plain = tar([{ name: 'f', data: Buffer.alloc(1024 ** 2, 'some data') }])
  const layer = { bytes: gzipSync(plain), mediaType: GZIP_LAYER, diffId: digestOf(plain) }
  const childrenOf = async (pid: number): Promise<number[]> =>
    (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8'))
      .trim()
      .split(' ')
      .filter((text) => text !== '')
      .map(Number)
  const isUnpacker = async (pid: number): Promise<boolean> =>
    (await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')).startsWith('wherry-unpack')

  for (const which of ['the one that makes files', 'the one that feeds it']) {
    t.test(`${which}: the pull fails and leaves nothing, the next one succeeds`, async (t) => {
      const { puller, dir } = setup(t)
      const half = Promise.withResolvers<void>()
      let isFirst = true
      const fake = await startFakeImage(t, {
        layers: [layer],
        intercept(request, response) {
          if (!isFirst || !request.url?.endsWith(digestOf(layer.bytes))) return false
          isFirst = false
          response
            .writeHead(200, { 'content-length': layer.bytes.length })
            .write(layer.bytes.subarray(0, layer.bytes.length / 2), () => half.resolve())
          return true
        },
      })
      const ref = parseReference(`${fake.host}/test/image`)
      const pulling = t.rejects(puller.ensure(ref, fake.digest), {
        message: /wherry-unpack ended|cannot be reached|refused/,
      })
      await half.promise
      let unpacker: number | undefined
      while (unpacker === undefined)
        for (const pid of await childrenOf(process.pid))
          if ((await isUnpacker(pid)) && (await childrenOf(pid)).length > 0) unpacker = pid
      const feeder = (await childrenOf(unpacker))[0]!
      process.kill(which === 'the one that makes files' ? unpacker : feeder, 'SIGKILL')
      await pulling
      t.notOk(existsSync(`/proc/${unpacker}`) && (await isUnpacker(unpacker)), 'both are gone')
      t.strictSame(await readdir(join(dir, 'tmp')), [])
      t.strictSame(await readdir(join(dir, 'layers/sha256')), [])
      t.match(await puller.ensure(ref, fake.digest), { pulled: true })
    })
  }
})
