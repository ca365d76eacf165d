// The image store under stress: several processes on one folder, kill -9, a full disk, collections during
// pulls.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, statfsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, rmdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { createLocalFirst } from '../../services/images/local-first.ts'
import { createPuller } from '../../services/images/pull.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { createImageStore, type ImageStore } from '../../services/images/store.ts'
import { GZIP_LAYER, PLAIN_LAYER, tar, type TarEntry } from '../helpers/layer.ts'
import { startFakeImage, type FakeImage, type FakeImageOptions } from '../helpers/registry.ts'

const run = promisify(execFile)
const projectRoot = join(import.meta.dirname, '../..')
const nativeDir = join(projectRoot, 'build/native')
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : existsSync(join(nativeDir, 'wherry-unpack'))
      ? false
      : 'build/native/wherry-unpack is missing: run make native'

type Layer = FakeImageOptions['layers'][number]

function setup(t: Test, dir: string = join(t.testdir({ store: {} }), 'store')) {
  const registry = createRegistryClient({ requestTimeoutMs: 60_000 })
  const store = createImageStore({ dir })
  const puller = createPuller({ store, registry, nativeDir })
  const packing = createPuller({
    store,
    registry: createLocalFirst({ store, registry, keepPacked: true }),
    nativeDir,
  })
  t.teardown(async () => {
    await Promise.all([puller.stop(), packing.stop()])
    await registry.close()
    store.close()
  })
  return { dir, store, puller, packing, collector: store.collector, catalog: store.catalog }
}

function packed(entries: readonly TarEntry[]): Layer {
  const plain = tar(entries)
  return { bytes: gzipSync(plain, { level: 1 }), mediaType: GZIP_LAYER, diffId: digestOf(plain) }
}

/** Bytes that gzip hardly compresses, the same for the same SEED. */
function noise(bytes: number, seed: number): Buffer {
  const data = Buffer.alloc(bytes)
  let x = seed + 1
  for (let i = 0; i + 4 <= bytes; i += 4) {
    x = Math.imul(x ^ (x >>> 15), 2_246_822_519) + 1
    data.writeInt32LE(x, i)
  }
  return data
}

const refOf = (fake: FakeImage) => parseReference(`${fake.host}/test/image`)

/** A process that pulls FAKE into the store in DIR, as a worker does. */
function spawnPull(dir: string, fake: FakeImage) {
  const script = `
    import { createPuller } from '${projectRoot}/services/images/pull.ts'
    import { createRegistryClient } from '${projectRoot}/services/registry/registry.ts'
    import { createImageStore } from '${projectRoot}/services/images/store.ts'
    import { parseReference } from '${projectRoot}/services/registry/reference.ts'
    const registry = createRegistryClient()
    const store = createImageStore({ dir: '${dir}' })
    const puller = createPuller({ store, registry, nativeDir: '${nativeDir}' })
    const { pulled } = await puller.ensure(parseReference('${fake.host}/test/image'), '${fake.digest}')
    console.log(pulled)
    await registry.close()
    store.close()`
  return spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
}

t.test('two processes on one store fetch each layer once', { skip }, async (t) => {
  const { dir, store } = setup(t)
  await store.open()
  const layers = [
    packed([{ name: 'a', data: noise(4 << 20, 1) }]),
    packed([{ name: 'b', data: noise(4 << 20, 2) }]),
  ]
  const fake = await startFakeImage(t, { layers })
  const children = [spawnPull(dir, fake), spawnPull(dir, fake), spawnPull(dir, fake)]
  const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0] as number))
  t.strictSame(codes, [0, 0, 0])
  for (const layer of layers)
    t.equal(fake.requests.filter((request) => request.endsWith(digestOf(layer.bytes))).length, 1)
})

t.test(
  'a pull that is killed twenty times never leaves a partial layer, a claim or a draft',
  { skip },
  async (t) => {
    const { dir, store, puller, catalog } = setup(t)
    await store.open()
    const files = [noise(3 << 20, 3), noise(3 << 20, 4)]
    const layers = files.map((data, i) =>
      packed([
        { name: 'd/', type: '5' },
        { name: `d/${i}`, data },
      ]),
    )
    const PIECES = 8
    let killAt = Infinity
    let sent = 0
    let inTurn = false
    let wholeSeen = 0
    let victim: ReturnType<typeof spawnPull> | undefined
    const fake = await startFakeImage(t, {
      layers,
      intercept(request, response) {
        const i = layers.findIndex((layer) => request.url?.endsWith(digestOf(layer.bytes)))
        if (i < 0) return false
        const { bytes } = layers[i]!
        response.writeHead(200, { 'content-length': bytes.length }).flushHeaders()
        const size = Math.ceil(bytes.length / PIECES)
        const send = (piece: number): void => {
          if (++sent === killAt) victim?.kill('SIGKILL')
          if (piece < PIECES)
            response.write(bytes.subarray(piece * size, (piece + 1) * size), () => send(piece + 1))
          else response.end()
        }
        const begin = (): void => {
          if (!inTurn || i === 0 || existsSync(store.layerPath(layers[0]!.diffId))) send(0)
          else setTimeout(begin, 5)
        }
        begin()
        return true
      },
    })
    for (let round = 0; round < 20; round++) {
      sent = 0
      inTurn = round >= 10 // then the second layer is sent when the first one is whole
      killAt = inTurn ? 9 + (round - 10) : 1 + round
      victim = spawnPull(dir, fake)
      await once(victim, 'exit')
      for (const name of await readdir(join(dir, 'layers/sha256'))) {
        const i = layers.findIndex((layer) => layer.diffId === `sha256:${name}`)
        t.ok(
          i >= 0 && files[i]!.equals(await readFile(join(dir, 'layers/sha256', name, `d/${i}`))),
          'a layer that has its name is whole',
        )
        wholeSeen++
        await rm(join(dir, 'layers/sha256', name), { recursive: true })
      }
      const next = createImageStore({ dir })
      await next.open()
      t.strictSame(await readdir(join(dir, 'tmp')), [], 'swept')
      next.close()
    }
    t.ok(wholeSeen >= 8, `${wholeSeen} kills came after a whole layer`)
    killAt = Infinity
    for (const layer of layers) {
      await catalog.claimLayer(layer.diffId)
      catalog.releaseLayer(layer.diffId)
    }
    const { image } = await puller.ensure(refOf(fake), fake.digest)
    for (const [i, folder] of image.layers.entries())
      t.ok(files[i]!.equals(await readFile(join(folder, `d/${i}`))))
  },
)

/** A tmpfs of SIZEMIB for the store of T. */
async function mountSmall(t: Test, sizeMib: number): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'wherry-disk-'))
  await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeMib}m,mode=0700`, 'tmpfs', folder])
  t.teardown(async () => {
    await run('umount', ['-l', folder])
    await rmdir(folder)
  })
  return folder
}

const usedMib = (folder: string): number => {
  const { blocks, bfree, bsize } = statfsSync(folder)
  return ((blocks - bfree) * bsize) / 1024 ** 2
}

t.test('a disk of 64 MB', { skip }, async (t) => {
  const disk = await mountSmall(t, 64)
  const { dir, store, puller, packing, collector } = setup(t, join(disk, 'store'))
  const small = await startFakeImage(t, { layers: [packed([{ name: 'f', data: 'small' }])] })
  await puller.ensure(refOf(small), small.digest)
  const before = usedMib(disk)
  const block = noise(64 * 1024, 5)
  const large = packed(Array.from({ length: 1600 }, (_, i) => ({ name: `f${i}`, data: block })))
  const fits = packed([{ name: 'fits', data: noise(20 << 20, 6) }])
  const random = tar([{ name: 'random', data: noise(80 << 20, 7) }])

  const cases: ReadonlyArray<[string, readonly Layer[], typeof puller]> = [
    ['a layer that does not fit unpacked', [large], puller],
    ['a layer that fits and one that does not', [fits, large], puller],
    [
      'a layer that does not fit packed',
      [{ bytes: random, mediaType: PLAIN_LAYER, diffId: digestOf(random) }],
      packing,
    ],
  ]
  for (const [name, layers, used] of cases) {
    await t.test(`${name} is a clear error, and its space is free again`, async (t) => {
      const fake = await startFakeImage(t, { layers })
      await t.rejects(used.ensure(refOf(fake), fake.digest), {
        name: 'SyscallError',
        code: 'ENOSPC',
        message: /no space is left on the disk of the image store; free some/,
      })
      t.strictSame(await readdir(join(dir, 'tmp')), [])
      t.equal((await readdir(join(dir, 'layers/sha256'))).length, 1)
      t.ok(usedMib(disk) < before + 2, `${usedMib(disk)} MiB in use, ${before} before`)
    })
  }

  await t.test('later pulls that fit succeed and use what is stored', async (t) => {
    const next = await startFakeImage(t, { layers: [fits] })
    t.match(await puller.ensure(refOf(next), next.digest), { pulled: true })
    t.match(await puller.ensure(refOf(small), small.digest), { pulled: false })
    puller.letGo(() => false)
    await collector.removeImage(next.digest)
  })

  await t.test('an image can be removed when the disk is completely full', async (t) => {
    const next = await startFakeImage(t, { layers: [fits] })
    await puller.ensure(refOf(next), next.digest)
    puller.letGo(() => false)
    store.close()
    await t.rejects(writeFile(join(disk, 'filler'), Buffer.alloc(64 << 20)), { code: 'ENOSPC' })
    const late = setup(t, dir)
    t.equal(late.catalog.image(next.digest)?.digest, next.digest, 'it can be looked at')
    const more = await startFakeImage(t, { layers: [packed([{ name: 'f', data: 'little' }])] })
    await t.rejects(late.packing.ensure(refOf(more), more.digest), {
      code: 'ENOSPC',
      message: /no space is left on the disk of the image store; free some/,
    })
    t.strictSame(
      [
        ...(await readdir(join(dir, 'tmp'))),
        ...(await readdir(join(dir, 'blobs/sha256'))).filter((hex) => `sha256:${hex}` === more.digest),
      ],
      [],
      'what did not fit is gone',
    )
    late.store.close()
    const last = setup(t, dir)
    t.match(await last.collector.removeImage(next.digest), { layers: 1 })
    t.ok(usedMib(disk) < 50)
  })
})

/** An image of one file of SIZEMIB, pulled and let go. */
async function pulledImage(
  t: Test,
  { puller }: { puller: ReturnType<typeof createPuller> },
  layers: readonly Layer[],
): Promise<string> {
  const fake = await startFakeImage(t, { layers })
  await puller.ensure(refOf(fake), fake.digest)
  puller.letGo(() => false)
  return fake.digest
}

const listed = (store: ImageStore): string[] =>
  store.catalog
    .images()
    .map((image) => image.digest)
    .sort()

t.test('removal of images', { skip }, async (t) => {
  const own = setup(t)
  const { store, puller, collector, catalog } = own
  const shared = packed([{ name: 'shared', data: noise(1 << 20, 10) }])
  const layerOf = (n: number): Layer => packed([{ name: `own${n}`, data: noise(2 << 20, 10 + n) }])
  const [plain, named, deployed, pinned, second] = [
    await pulledImage(t, own, [shared, layerOf(1)]),
    await pulledImage(t, own, [layerOf(2)]),
    await pulledImage(t, own, [layerOf(3)]),
    await pulledImage(t, own, [layerOf(4)]),
    await pulledImage(t, own, [shared, layerOf(5)]),
  ]
  catalog.tag('localhost/named:latest', named)
  catalog.setDeployed([deployed])
  catalog.pin(pinned)

  await t.test('a dry run removes nothing', async (t) => {
    t.match(await collector.prune({ dryRun: true }), { images: [{}, {}], layers: 3, blobs: 4 })
    t.equal(listed(store).length, 5)
  })
  await t.test('an image that a function or a process needs cannot be removed', async (t) => {
    await t.rejects(collector.removeImage(deployed), {
      code: 'ERR_IMAGE_IN_USE',
      message: /used by a deployed function/,
    })
    await t.rejects(collector.removeImage(pinned), {
      code: 'ERR_IMAGE_IN_USE',
      message: /used by a running process/,
    })
  })
  await t.test('a layer stays as long as an image has it', async (t) => {
    t.match(await collector.removeImage(plain), { images: [{ digest: plain }], layers: 1, blobs: 2 })
    t.equal(await store.hasLayer(shared.diffId), true)
    t.match(await collector.removeImage(second), { layers: 2 })
    t.equal(await store.hasLayer(shared.diffId), false)
  })
  await t.test('prune removes unneeded images without a name, with --all named ones too', async (t) => {
    t.match(await collector.prune(), { images: [] })
    t.match(await collector.prune({ all: true, olderThanMs: 3_600_000 }), { images: [] })
    t.match(await collector.prune({ all: true }), {
      images: [{ digest: named, names: ['localhost/named:latest'] }],
    })
    t.equal(catalog.find('localhost/named:latest'), undefined)
    t.strictSame(listed(store), [deployed, pinned].sort())
  })
  await t.test('pinned leftovers stay', async (t) => {
    const { digest } = await store.putBlob(Buffer.from('part of a build'))
    catalog.pin(digest)
    await collector.dropUnused([digest])
    t.equal(await store.hasBlob(digest), true)
    catalog.unpin(digest)
    await collector.dropUnused([digest])
    t.equal(await store.hasBlob(digest), false)
  })
  await t.test('the image of a running container stays, although others displace it', async (t) => {
    const fake = await startFakeImage(t, { layers: [layerOf(6)] })
    await puller.ensure(refOf(fake), fake.digest)
    puller.retain(fake.digest)
    puller.letGo(() => false)
    await t.rejects(collector.removeImage(fake.digest), { code: 'ERR_IMAGE_IN_USE' })
    puller.release(fake.digest)
    puller.letGo(() => false)
    t.match(await collector.removeImage(fake.digest), { layers: 1 })
    t.match(await puller.ensure(refOf(fake), fake.digest), { pulled: true }, 'and it can be pulled again')
  })
})

t.test(
  'between the watermarks the least recently used images go, and no more than necessary',
  { skip },
  async (t) => {
    const own = setup(t)
    const { store, collector, catalog } = own
    const digests: string[] = []
    for (let n = 0; n < 4; n++) {
      digests.push(await pulledImage(t, own, [packed([{ name: 'f', data: noise(4 << 20, 30 + n) }])]))
      catalog.touch(digests[n]!)
      catalog.images() // records the last uses
    }
    catalog.touch(digests[0]!) // oldest, but used again
    catalog.images()
    const { storeBytes } = await collector.usage()
    t.ok(storeBytes > 16 << 20 && storeBytes < 18 << 20, String(storeBytes))
    t.equal(
      await collector.collect({ high: { bytes: 20 << 20 }, low: { bytes: 1 } }),
      undefined,
      'below the high one nothing happens',
    )
    t.match(await collector.collect({ high: { bytes: 15 << 20 }, low: { bytes: 9 << 20 } }), { layers: 2 })
    t.strictSame(listed(store), [digests[0]!, digests[3]!].sort())
    t.equal(await collector.collect({ high: { percent: 100 }, low: { percent: 99 } }), undefined)
    t.match(
      await collector.collect({ high: { percent: 1 }, low: { percent: 1 } }),
      { layers: 2 },
      'a disk that others fill',
    )
  },
)

t.test('a collection during pulls never removes a pinned layer', { skip }, async (t) => {
  const { dir, store, puller } = setup(t)
  await store.open()
  const shared = packed([{ name: 'shared', data: noise(1 << 20, 40) }])
  const fakes = [
    await startFakeImage(t, { layers: [shared, packed([{ name: 'a', data: 'a' }])] }),
    await startFakeImage(t, { layers: [shared, packed([{ name: 'b', data: 'b' }])] }),
  ]
  const script = `
    import { createImageStore } from '${projectRoot}/services/images/store.ts'
    const { collector } = createImageStore({ dir: '${dir}' })
    let removed = 0
    process.on('message', () => { process.send(removed); process.exit() })
    console.log('ready')
    for (;;) removed += (await collector.prune({ all: true })).images.length`
  const pruner = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  })
  t.teardown(() => pruner.kill('SIGKILL'))
  await once(pruner.stdout!, 'data')
  let again = 0 // how often the other process had removed them
  for (let round = 0; round < 25 || again < 2; round++) {
    const images = await Promise.all(fakes.map((fake) => puller.ensure(refOf(fake), fake.digest)))
    if (images.some(({ pulled }) => pulled)) again++
    for (const { image } of images) {
      for (const folder of image.layers) t.ok(existsSync(folder))
      t.equal((await readFile(join(image.layers[0]!, 'shared'))).length, 1 << 20)
    }
    puller.letGo(() => false)
  }
  pruner.send('stop')
  const [removed] = (await once(pruner, 'message')) as [number]
  t.ok(removed > 0, `${removed} images were removed meanwhile`)
})

t.test('a layer is stored packed beside its folder; a cut one is not stored', { skip }, async (t) => {
  const { dir, store, packing } = setup(t)
  const layer = packed([{ name: 'f', data: noise(2 << 20, 50) }])
  const fake = await startFakeImage(t, { layers: [layer] })
  await packing.ensure(refOf(fake), fake.digest)
  t.strictSame(await readFile(store.blobPath(digestOf(layer.bytes))), Buffer.from(layer.bytes))
  const other = packed([{ name: 'g', data: noise(2 << 20, 51) }])
  const half = Promise.withResolvers<void>()
  const cut = await startFakeImage(t, {
    layers: [other],
    intercept(request, response) {
      if (!request.url?.endsWith(digestOf(other.bytes))) return false
      response
        .writeHead(200, { 'content-length': other.bytes.length })
        .write(other.bytes.subarray(0, 1 << 20), () => half.resolve())
      return true
    },
  })
  const pulling = t.rejects(packing.ensure(refOf(cut), cut.digest), { message: /stopping/ })
  await half.promise
  await packing.stop()
  await pulling
  t.equal(await store.hasBlob(digestOf(other.bytes)), false)
  t.strictSame(await readdir(join(dir, 'tmp')), [])
})

t.test('damaged blobs are fetched again from the registry', { skip }, async (t) => {
  const layer = packed([{ name: 'f', data: noise(1 << 20, 60) }])
  const fake = await startFakeImage(t, { layers: [layer] })
  const dir = join(t.testdir({ store: {} }), 'store')
  const first = setup(t, dir)
  await first.packing.ensure(refOf(fake), fake.digest)
  const { manifestDigest, configDigest } = first.catalog.image(fake.digest)!
  first.store.close()
  const flipped = (bytes: Buffer): Buffer => {
    bytes[bytes.length >> 1]! ^= 1
    return bytes
  }
  for (const [name, spoil] of [
    ['a flipped bit', flipped],
    ['a lost end', (bytes: Buffer) => bytes.subarray(0, -1)],
  ] as const)
    await t.test(name, async (t) => {
      const { store, packing } = setup(t, dir)
      for (const digest of [manifestDigest, configDigest, digestOf(layer.bytes)])
        await writeFile(store.blobPath(digest), spoil(await readFile(store.blobPath(digest))))
      await rm(store.layerPath(layer.diffId), { recursive: true })
      t.match(await packing.ensure(refOf(fake), fake.digest), { pulled: true })
      for (const digest of [manifestDigest, configDigest, digestOf(layer.bytes)])
        t.equal(digestOf(await readFile(store.blobPath(digest))), digest)
      t.equal(existsSync(join(store.layerPath(layer.diffId), 'f')), true)
    })
})
