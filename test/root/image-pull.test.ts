// Pulls from a real registry, from a lying one and from a failing one, down to the layers that containers
// see.

import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { lstat, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { hostPlatform } from '../../services/registry/platform.ts'
import { createPuller } from '../../services/images/pull.ts'
import { readImageFile } from '../../services/images/image-file.ts'
import { uploadBlob } from '../../services/registry/upload.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { pushManifest } from '../../services/registry/push-manifest.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { createImageStore } from '../../services/images/store.ts'
import { GZIP_LAYER, gzipLayer, PLAIN_LAYER, tar, zstdLayer, type TarEntry } from '../helpers/layer.ts'
import { noRegistry, startFake, startFakeImage, startRegistry } from '../helpers/registry.ts'

const run = promisify(execFile)
const projectRoot = join(import.meta.dirname, '../..')
const nativeDir = join(projectRoot, 'build/native')
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : existsSync(join(nativeDir, 'wherry-unpack'))
      ? false
      : 'build/native/wherry-unpack is missing: run make native'
const skipReal = skip || noRegistry

function setup(t: Test, dir: string = join(t.testdir({ store: {} }), 'store')) {
  const registry = createRegistryClient({ requestTimeoutMs: 60_000 })
  const store = createImageStore({ dir })
  const puller = createPuller({ store, registry, nativeDir })
  t.teardown(async () => {
    await puller.stop()
    await registry.close()
  })
  return { dir, registry, store, puller }
}

/** A layer in the form that the fake registry takes. */
function packed(entries: readonly TarEntry[]) {
  const plain = tar(entries)
  return { bytes: gzipSync(plain), mediaType: GZIP_LAYER, diffId: digestOf(plain) }
}

/** A failed pull leaves no layer and no draft. */
async function checkEmpty(t: Test, dir: string): Promise<void> {
  t.strictSame(await readdir(join(dir, 'layers/sha256')), [], 'no layer was kept')
  t.strictSame(await readdir(join(dir, 'tmp')), [], 'no draft was left')
}

const FILE: readonly TarEntry[] = [
  { name: 'etc/', type: '5' },
  { name: 'etc/passwd', data: 'root:x:0:0::/:/bin/sh\n' },
]

t.test('pull from a real registry', { skip: skipReal }, async (t) => {
  const host = await startRegistry(t)

  t.test('gzip and zstd layers stack under overlayfs, with whiteouts and opaque directories', async (t) => {
    const { registry, puller } = setup(t)
    const ref = parseReference(`${host}/two/layers:v1`)
    const digest = await pushImage({
      registry,
      reference: ref,
      config: { config: { Cmd: ['/bin/sh'], Env: ['A=b'] } },
      layers: [
        gzipLayer([
          ...FILE,
          { name: 'gone', data: 'x' },
          { name: 'd/', type: '5' },
          { name: 'd/lower', data: 'x' },
          { name: 'kept/', type: '5' },
          { name: 'kept/lower', data: 'x' },
        ]),
        zstdLayer([
          { name: '.wh.gone' },
          { name: 'd/', type: '5' },
          { name: 'd/.wh..wh..opq' },
          { name: 'd/upper', data: 'x' },
          { name: 'kept/', type: '5' },
          { name: 'kept/upper', data: 'x' },
        ]),
      ],
    })
    t.match(await registry.resolve(ref), {
      digest,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
    })
    const { image, pulled } = await puller.ensure(ref, digest)
    t.equal(pulled, true)
    t.match(image, { digest, config: { cmd: ['/bin/sh'], env: ['A=b'], workingDir: '/' } })
    const merged = join(t.testdirName, 'merged')
    await mkdir(merged)
    await run('mount', [
      '-t',
      'overlay',
      '-o',
      `ro,userxattr,lowerdir=${image.layers.toReversed().join(':')}`,
      'overlay',
      merged,
    ])
    try {
      t.strictSame((await readdir(merged)).toSorted(), ['d', 'etc', 'kept'])
      t.strictSame(await readdir(join(merged, 'd')), ['upper'])
      t.strictSame((await readdir(join(merged, 'kept'))).toSorted(), ['lower', 'upper'])
    } finally {
      await run('umount', [merged])
    }
    t.match(await puller.ensure(ref, digest), { pulled: false })
  })

  t.test('another puller on the same store needs no registry', async (t) => {
    const first = setup(t)
    const ref = parseReference(`${host}/again`)
    const digest = await pushImage({
      registry: first.registry,
      reference: ref,
      config: {},
      layers: [gzipLayer(FILE)],
    })
    await first.puller.ensure(ref, digest)
    const second = setup(t, first.dir)
    const { image, pulled } = await second.puller.ensure(parseReference('localhost:1/again'), digest)
    t.equal(pulled, false)
    t.match(await readImageFile(image, '/etc/passwd'), /^root:/)
  })

  t.test('an index gives the image for this machine, which keeps the digest of the index', async (t) => {
    const { registry, puller } = setup(t)
    const ref = parseReference(`${host}/multi:v1`)
    const own = await pushImage({
      registry,
      reference: { ...ref, tag: 'own' },
      config: {},
      layers: [gzipLayer(FILE)],
    })
    const other = await pushImage({
      registry,
      reference: { ...ref, tag: 'other' },
      config: { architecture: 's390x' },
      layers: [gzipLayer([{ name: 'wrong', data: 'x' }])],
    })
    const sizes = await Promise.all(
      [own, other].map(async (digest) => (await registry.manifest(ref, digest)).bytes.length),
    )
    const entry = (digest: string, i: number, architecture: string) => ({
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      digest,
      size: sizes[i],
      platform: { os: 'linux', architecture },
    })
    const index = {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [entry(other, 1, 's390x'), entry(own, 0, hostPlatform().architecture)],
    }
    const digest = await pushManifest(registry, ref, index.mediaType, Buffer.from(JSON.stringify(index)))
    t.match(await registry.resolve(ref), { digest, mediaType: index.mediaType })
    const { image } = await puller.ensure(ref, digest)
    t.equal(image.digest, digest)
    t.match(await readImageFile(image, '/etc/passwd'), /^root:/)
    await t.rejects(puller.ensure(ref, other), {
      code: 'ERR_UNSUPPORTED_MEDIA_TYPE',
      message: /is for linux\/s390x/,
    })
    for (const [lie, code] of [
      [{ size: 5 }, 'ERR_DIGEST_MISMATCH'],
      [{ mediaType: index.mediaType }, 'ERR_INVALID_CONTENT'],
    ] as const) {
      const lying = { ...index, manifests: [{ ...entry(own, 0, hostPlatform().architecture), ...lie }] }
      const wrong = await pushManifest(
        registry,
        { ...ref, tag: 'wrong' },
        index.mediaType,
        Buffer.from(JSON.stringify(lying)),
      )
      await t.rejects(puller.ensure(ref, wrong), { code, message: /but its index says/ })
    }
  })

  t.test('an image in Docker’s format, pushed by hand', async (t) => {
    const { registry, puller } = setup(t)
    const ref = parseReference(`${host}/docker/format:v1`)
    const layer = packed(FILE)
    const config = Buffer.from(
      JSON.stringify({
        os: 'linux',
        architecture: hostPlatform().architecture,
        config: { User: '7' },
        rootfs: { type: 'layers', diff_ids: [layer.diffId] },
      }),
    )
    for (const bytes of [layer.bytes, config])
      await uploadBlob(registry, ref, { digest: digestOf(bytes), size: bytes.length, open: () => bytes })
    const mediaType = 'application/vnd.docker.distribution.manifest.v2+json'
    const digest = await pushManifest(
      registry,
      ref,
      mediaType,
      Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType,
          config: {
            mediaType: 'application/vnd.docker.container.image.v1+json',
            digest: digestOf(config),
            size: config.length,
          },
          layers: [
            {
              mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
              digest: digestOf(layer.bytes),
              size: layer.bytes.length,
            },
          ],
        }),
      ),
    )
    t.match(await puller.ensure(ref, digest), { image: { config: { user: '7' } }, pulled: true })
  })

  t.test('an uncompressed layer from a file, twice in one image', async (t) => {
    const { registry, puller } = setup(t)
    const ref = parseReference(`${host}/plain`)
    const file = join(t.testdirName, 'layer.tar')
    await writeFile(file, tar(FILE))
    const digest = await pushImage({
      registry,
      reference: ref,
      config: {},
      layers: [
        { file, mediaType: PLAIN_LAYER },
        gzipLayer([{ name: 'etc/passwd', data: 'other' }]),
        { file, mediaType: PLAIN_LAYER },
      ],
    })
    const { image } = await puller.ensure(ref, digest)
    t.equal(image.layers.length, 2)
    t.match(await readImageFile(image, '/etc/passwd'), /^root:/, 'the highest place counts')
  })

  t.test('a missing image is reported with the registry’s code and advice', async (t) => {
    const { registry } = setup(t)
    await t.rejects(registry.resolve(parseReference(`${host}/no/such:v9`)), {
      code: 'ERR_REGISTRY',
      registryCode: 'MANIFEST_UNKNOWN',
      retryable: false,
      message: `registry ${host} does not have image no/such:v9 (MANIFEST_UNKNOWN); push it first or check the name`,
    })
  })
})

t.test('a registry that is down is named, and the error is retryable', { skip }, async (t) => {
  const { registry } = setup(t)
  await t.rejects(registry.resolve(parseReference('localhost:1/a')), {
    registryCode: 'UNREACHABLE',
    retryable: true,
    message: /registry localhost:1 cannot be reached .*ECONNREFUSED/,
  })
})

t.test('a registry that lies', { skip }, async (t) => {
  const good = packed(FILE)
  const other = packed([{ name: 'etc/passwd', data: 'evil::0:0::/:/bin/sh\n' }])
  const isBlob = (url = ''): boolean => url.endsWith(digestOf(good.bytes))
  type FakeOptions = Omit<Parameters<typeof startFakeImage>[1], 'layers'> & {
    layers?: Parameters<typeof startFakeImage>[1]['layers']
  }

  const lies: ReadonlyArray<
    [string, FakeOptions, { code: string; message?: RegExp; registryCode?: string; retryable?: boolean }]
  > = [
    [
      'another blob than the requested one',
      {
        intercept: (request, response) =>
          isBlob(request.url) && Boolean(response.writeHead(200).end(other.bytes)),
      },
      { code: 'ERR_DIGEST_MISMATCH' },
    ],
    [
      'the same files with other packed bytes',
      {
        intercept: (request, response) => {
          if (!isBlob(request.url)) return false
          const repacked = Buffer.from(good.bytes)
          repacked[4]! ^= 1 // gzip's time stamp
          return Boolean(response.writeHead(200).end(repacked))
        },
      },
      { code: 'ERR_DIGEST_MISMATCH', message: /came with the digest/ },
    ],
    [
      'a blob whose length is not the manifest’s',
      {
        intercept: (request, response) =>
          isBlob(request.url) && Boolean(response.writeHead(200, { 'content-length': 5 }).end('short')),
      },
      { code: 'ERR_DIGEST_MISMATCH', message: /has 5 bytes, but the manifest says/ },
    ],
    [
      'an endless blob',
      {
        intercept: (request, response) =>
          isBlob(request.url) &&
          Boolean(response.writeHead(200).end(Buffer.concat([good.bytes, Buffer.alloc(10_000)]))),
      },
      { code: 'ERR_DIGEST_MISMATCH', message: /is longer than/ },
    ],
    [
      'a blob that ends early',
      {
        intercept: (request, response) =>
          isBlob(request.url) && Boolean(response.writeHead(200).end(good.bytes.subarray(0, 50))),
      },
      { code: 'ERR_DIGEST_MISMATCH', message: /ended after 50 of/ },
    ],
    [
      'a connection cut in the middle of a blob',
      {
        intercept: (request, response) => {
          if (!isBlob(request.url)) return false
          response
            .writeHead(200, { 'content-length': good.bytes.length })
            .write(good.bytes.subarray(0, 50), () => request.socket.destroy())
          return true
        },
      },
      { code: 'ERR_REGISTRY', registryCode: 'UNREACHABLE', retryable: true },
    ],
    [
      'a diffID that is not the layer’s',
      { layers: [{ ...good, diffId: other.diffId }] },
      { code: 'ERR_DIGEST_MISMATCH', message: /diffID/ },
    ],
    [
      'a layer called gzip that is not',
      { layers: [{ bytes: tar(FILE), mediaType: GZIP_LAYER, diffId: good.diffId }] },
      { code: 'ERR_INVALID_CONTENT', message: /not valid gzip/ },
    ],
    [
      'a gzip bomb',
      { layers: [packed([{ name: 'zeros', data: Buffer.alloc(80 * 1024 ** 2) }])] },
      { code: 'ERR_CONTENT_LIMIT', message: /1000 times/ },
    ],
    [
      'a layer that escapes',
      { layers: [packed([{ name: '../escape', data: 'x' }])] },
      { code: 'ERR_UNSAFE_LAYER', message: /"\.\.\/escape"/ },
    ],
    [
      'a layer that escapes after much honest data',
      {
        layers: [
          packed([
            { name: 'zeros', data: Buffer.alloc(3 * 1024 ** 2, 'abcdefg') },
            { name: '/a/../../x', data: 'x' },
            { name: 'more', data: Buffer.alloc(3 * 1024 ** 2, 'hijklmn') },
          ]),
        ],
      },
      { code: 'ERR_UNSAFE_LAYER' },
    ],
    [
      'an unknown layer type',
      {
        manifest: (m) => ({
          ...m,
          layers: [{ mediaType: 'application/wasm', digest: digestOf(good.bytes), size: 1 }],
        }),
      },
      { code: 'ERR_UNSUPPORTED_MEDIA_TYPE' },
    ],
    [
      'a Content-Type that is not the manifest’s',
      { contentType: 'application/vnd.oci.image.index.v1+json' },
      { code: 'ERR_INVALID_CONTENT' },
    ],
    [
      'a layer larger than any image',
      {
        manifest: (m) => ({
          ...m,
          layers: [{ mediaType: GZIP_LAYER, digest: digestOf(good.bytes), size: 2 ** 50 }],
        }),
      },
      { code: 'ERR_CONTENT_LIMIT' },
    ],
    [
      'fewer diffIDs than layers',
      { manifest: (m) => ({ ...m, layers: [] }) },
      { code: 'ERR_INVALID_CONTENT' },
    ],
    [
      'a redirect in a circle',
      {
        intercept: (request, response) =>
          isBlob(request.url) && Boolean(response.writeHead(307, { location: request.url ?? '' }).end()),
      },
      { code: 'ERR_REGISTRY', registryCode: 'REDIRECT' },
    ],
    [
      'a redirect to a file',
      {
        intercept: (request, response) =>
          isBlob(request.url) && Boolean(response.writeHead(307, { location: 'file:///etc/passwd' }).end()),
      },
      { code: 'ERR_REGISTRY', registryCode: 'REDIRECT' },
    ],
    [
      'a 401 with a realm on another host over http',
      {
        intercept: (request, response) =>
          isBlob(request.url) &&
          Boolean(
            response
              .writeHead(401, { 'www-authenticate': 'Bearer realm="http://169.254.169.254/token"' })
              .end(),
          ),
      },
      { code: 'ERR_REGISTRY', registryCode: 'UNAUTHORIZED', message: /neither https nor on its own host/ },
    ],
    [
      'a 401 that requires a password',
      {
        intercept: (request, response) =>
          isBlob(request.url) &&
          Boolean(response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end()),
      },
      { code: 'ERR_REGISTRY', registryCode: 'UNAUTHORIZED', message: /no credentials/ },
    ],
    [
      'a Retry-After that is too long',
      {
        intercept: (request, response) =>
          isBlob(request.url) &&
          Boolean(
            response.writeHead(429, { 'retry-after': '3600' }).end('{"errors":[{"code":"TOOMANYREQUESTS"}]}'),
          ),
      },
      { code: 'ERR_REGISTRY', registryCode: 'TOOMANYREQUESTS', retryable: true },
    ],
  ]
  for (const [name, options, error] of lies) {
    t.test(`${name} is refused and does not change the store`, async (t) => {
      const { dir, puller } = setup(t)
      const fake = await startFakeImage(t, { layers: [good], ...options })
      await t.rejects(puller.ensure(parseReference(`${fake.host}/test/image`), fake.digest), error)
      await checkEmpty(t, dir)
    })
  }

  t.test('another manifest than the requested one is refused', async (t) => {
    const { puller } = setup(t)
    const fake = await startFakeImage(t, {
      layers: [good],
      intercept: (request, response) =>
        /manifests\/sha256/.test(request.url ?? '') && Boolean(response.writeHead(200).end('{}')),
    })
    await t.rejects(puller.ensure(parseReference(`${fake.host}/test/image`), fake.digest), {
      code: 'ERR_DIGEST_MISMATCH',
    })
  })

  t.test('a manifest of 5 MiB is not read to the end', async (t) => {
    const { registry } = setup(t)
    const host = await startFake(t, (_request, response) => {
      response.writeHead(200).end(Buffer.alloc(5 * 1024 ** 2, ' '))
    })
    await t.rejects(registry.resolve(parseReference(`${host}/a`)), { code: 'ERR_CONTENT_LIMIT' })
  })
})

t.test('a registry in trouble', { skip }, async (t) => {
  const layer = packed(FILE)

  t.test('503 and 429 are retried', async (t) => {
    const { puller } = setup(t)
    const answers = [503, 429]
    const fake = await startFakeImage(t, {
      layers: [layer],
      intercept: (_request, response) => {
        const status = answers.shift()
        return status !== undefined && Boolean(response.writeHead(status, { 'retry-after': '0' }).end())
      },
    })
    t.match(await puller.ensure(parseReference(`${fake.host}/test/image`), fake.digest), { pulled: true })
    t.equal(fake.requests.filter((r) => r.includes('/manifests/')).length, 3)
  })

  t.test('a request that is never answered is not retried', async (t) => {
    let asked = 0
    const fake = await startFake(t, () => {
      asked++
    })
    const registry = createRegistryClient({ requestTimeoutMs: 1500 })
    t.teardown(() => registry.close())
    await t.rejects(registry.resolve(parseReference(`${fake}/test/image`)), {
      code: 'ERR_REGISTRY',
      registryCode: 'UNREACHABLE',
      retryable: true,
    })
    t.equal(asked, 1)
  })

  t.test('a token is fetched once, used for all requests, and not sent to another origin', async (t) => {
    const { puller } = setup(t)
    const seen: Array<string | undefined> = []
    const cdn = await startFake(t, (request, response) => {
      seen.push(request.headers.authorization)
      response.writeHead(200, { 'content-length': layer.bytes.length }).end(layer.bytes)
    })
    const fake = await startFakeImage(t, {
      layers: [layer],
      intercept: (request, response) => {
        if (request.url?.startsWith('/token?'))
          return Boolean(response.writeHead(200).end('{"token":"secret","expires_in":300}'))
        if (request.headers.authorization !== 'Bearer secret') {
          return Boolean(
            response
              .writeHead(401, {
                'www-authenticate': `Bearer realm="http://${request.headers.host}/token",service="s"`,
              })
              .end(),
          )
        }
        return (
          request.url?.endsWith(digestOf(layer.bytes)) === true &&
          Boolean(response.writeHead(307, { location: `http://${cdn}/blob` }).end())
        )
      },
    })
    await puller.ensure(parseReference(`${fake.host}/test/image`), fake.digest)
    t.strictSame(
      fake.requests.filter((r) => r.includes('/token')),
      ['GET /token?service=s&scope=repository%3Atest%2Fimage%3Apull'],
    )
    t.strictSame(seen, [undefined])
  })

  t.test('twenty calls for one image fetch each part once', async (t) => {
    const { puller } = setup(t)
    const layers = [packed(FILE), packed([{ name: 'b', data: 'b' }])]
    const fake = await startFakeImage(t, { layers })
    const ref = parseReference(`${fake.host}/test/image`)
    const results = await Promise.all(Array.from({ length: 20 }, () => puller.ensure(ref, fake.digest)))
    t.equal(new Set(results.map((r) => r.image.layers.join())).size, 1)
    t.equal(fake.requests.length, 4, 'manifest, config, two layers')
    t.equal(new Set(fake.requests).size, 4)
  })

  t.test('two stores on one folder fetch at once: one layer, no error', async (t) => {
    const first = setup(t)
    const second = setup(t, first.dir)
    const fake = await startFakeImage(t, { layers: [layer] })
    const ref = parseReference(`${fake.host}/test/image`)
    await Promise.all([first, second].map(({ puller }) => puller.ensure(ref, fake.digest)))
    t.strictSame(await readdir(join(first.dir, 'tmp')), [])
    t.equal((await readdir(join(first.dir, 'layers/sha256'))).length, 1)
    t.equal((await lstat(join(first.dir, 'layers'))).mode & 0o777, 0o700)
  })
})

t.test('an interrupted pull', { skip }, async (t) => {
  const layer = packed([{ name: 'f', data: Buffer.alloc(1024 ** 2, 'some data') }])

  /** A registry that sends half of the layer and then waits; `half` resolves at that point. */
  async function startSlow(t: Test) {
    const half = Promise.withResolvers<void>()
    const fake = await startFakeImage(t, {
      layers: [layer],
      intercept: (request, response) => {
        if (!request.url?.endsWith(digestOf(layer.bytes))) return false
        response
          .writeHead(200, { 'content-length': layer.bytes.length })
          .write(layer.bytes.subarray(0, layer.bytes.length / 2), () => half.resolve())
        return true
      },
    })
    return { fake, half: half.promise }
  }

  t.test('is ended by stop and leaves no partial layer', async (t) => {
    const { dir, puller } = setup(t)
    const { fake, half } = await startSlow(t)
    const pulling = t.rejects(puller.ensure(parseReference(`${fake.host}/test/image`), fake.digest), {
      message: /stopping/,
    })
    await half
    await puller.stop()
    await pulling
    await checkEmpty(t, dir)
  })

  t.test(
    'that ends by kill -9 leaves a draft, which the next start removes, and never a layer',
    async (t) => {
      const { dir, store } = setup(t)
      const { fake, half } = await startSlow(t)
      const script = `
      import { createPuller } from '${projectRoot}/services/images/pull.ts'
      import { createRegistryClient } from '${projectRoot}/services/registry/registry.ts'
      import { createImageStore } from '${projectRoot}/services/images/store.ts'
      import { parseReference } from '${projectRoot}/services/registry/reference.ts'
      const puller = createPuller({ store: createImageStore({ dir: '${dir}' }), registry: createRegistryClient(), nativeDir: '${nativeDir}' })
      await puller.ensure(parseReference('${fake.host}/test/image'), '${fake.digest}')`
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'ignore', 'inherit'],
      })
      const ended = new Promise((resolve) => {
        child.once('close', resolve)
      })
      await half
      child.kill('SIGKILL')
      await ended
      const own = await store.makeDraft()
      await t.test('swept', async (t) => {
        t.strictSame(
          await readdir(join(dir, 'tmp')),
          [own.slice(own.lastIndexOf('/') + 1)],
          'the draft of the dead process is gone, that of a live one is not',
        )
        t.strictSame(await readdir(join(dir, 'layers/sha256')), [])
      })
      await createImageStore({ dir }).open()
      t.ok(existsSync(own), 'a live process’s draft survives another start')
      await store.discard(own)
    },
  )
})

t.test('a machine without the unpacker says what to run', { skip }, async (t) => {
  const { dir, registry, store } = setup(t)
  const fake = await startFakeImage(t, { layers: [packed(FILE)] })
  const puller = createPuller({ store, registry, nativeDir: '/nowhere' })
  await t.rejects(puller.ensure(parseReference(`${fake.host}/test/image`), fake.digest), {
    code: 'ERR_UNSUPPORTED',
    message: /run make native/,
  })
  await checkEmpty(t, dir)
})

t.test('files of an image', { skip }, async (t) => {
  const { puller } = setup(t)
  const fake = await startFakeImage(t, {
    layers: [
      packed([
        { name: 'a', data: 'lower' },
        { name: 'b', data: 'lower' },
        { name: 'c', data: 'lower' },
        { name: 'd/f', data: 'lower' },
        { name: 'only', data: 'lower' },
      ]),
      packed([
        { name: 'a', data: 'upper' },
        { name: '.wh.b' },
        { name: 'c', type: '2', link: '/etc/passwd' },
        { name: 'd', type: '2', link: '/etc' },
        { name: 'e', type: '6' },
        { name: 'big', data: 'x'.repeat(1024 ** 2 + 1) },
      ]),
    ],
  })
  const { image } = await puller.ensure(parseReference(`${fake.host}/test/image`), fake.digest)
  const expected: ReadonlyArray<[string, string | undefined, string]> = [
    ['/a', 'upper', 'the highest layer counts'],
    ['/only', 'lower', 'what only a lower layer has is found'],
    ['/b', undefined, 'a whiteout hides'],
    ['/c', undefined, 'a symlink is not followed'],
    ['/d/f', undefined, 'nor one on the way'],
    ['/e', undefined, 'a fifo is not opened'],
    ['/d', undefined, 'a directory is not a file'],
    ['/../../etc/passwd', undefined, '".." leads nowhere'],
    ['/none', undefined, 'what is not there is not there'],
  ]
  for (const [path, text, why] of expected) t.equal(await readImageFile(image, path), text, why)
  await t.rejects(readImageFile(image, '/big'), { code: 'ERR_CONTENT_LIMIT' })
  t.equal(await readFile(join(image.layers[0]!, 'a'), 'utf8'), 'lower')
})
