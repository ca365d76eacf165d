// Pushes to a real docker-registry: only missing blobs, by mounting, in chunks that resume after a cut;
// copies whole images, makes indexes of them, and reads the result with skopeo.

import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { pushIndex } from '../../services/images/assemble.ts'
import { copyImage, registrySource, type CopyProgress } from '../../services/images/copy.ts'
import { uploadBlob, type Blob, blobOfFile } from '../../services/registry/upload.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { gzipLayer, zstdLayer } from '../helpers/layer.ts'
import { startFront, type FrontRequest } from '../helpers/front.ts'
import { noRegistry, startFake, startRegistry } from '../helpers/registry.ts'
import { shortFolder } from '../helpers/wherry.ts'

const run = promisify(execFile)
const skip = noRegistry
const skipSkopeo = skip || (existsSync('/usr/bin/skopeo') ? false : 'skopeo is not installed')
const CHUNK = 16 * 1024 ** 2
const BIG = Buffer.concat([randomBytes(1024), Buffer.alloc(2.5 * CHUNK, 'wherry')])

function setup(t: Test) {
  const registry = createRegistryClient({ requestTimeoutMs: 60_000 })
  t.teardown(() => registry.close())
  return registry
}

async function bigBlob(t: Test): Promise<Blob> {
  const file = join(shortFolder(t), 'blob')
  await writeFile(file, BIG)
  return { digest: digestOf(BIG), size: BIG.length, ...blobOfFile(file) }
}

/** A registry behind a proxy that may answer requests itself; both end with T. */
async function fronted(
  t: Test,
  meddle: (request: FrontRequest) => ReturnType<Parameters<typeof startFront>[2]> = () => undefined,
) {
  const real = await startRegistry(t)
  const front = await startFront(t, real, meddle)
  return { real, ...front, registry: setup(t) }
}

t.test('a blob', { skip }, async (t) => {
  t.test('is sent in chunks, and only once', async (t) => {
    const { host, requests, registry } = await fronted(t)
    const ref = parseReference(`${host}/a`)
    const blob = await bigBlob(t)
    const sent: number[] = []
    t.equal(await uploadBlob(registry, ref, blob, { onSent: (bytes) => sent.push(bytes) }), 'uploaded')
    t.same(
      requests.map((r) => `${r.method} ${r.range}`.trim()),
      [
        'HEAD',
        'POST',
        `PATCH 0-${CHUNK - 1}`,
        `PATCH ${CHUNK}-${2 * CHUNK - 1}`,
        `PATCH ${2 * CHUNK}-${BIG.length - 1}`,
        'PUT',
      ],
    )
    t.ok(
      sent.length > 10 && sent.every((bytes, i) => i === 0 || bytes >= sent[i - 1]!),
      'sent bytes are reported as they go',
    )
    t.equal(sent.at(-1), BIG.length)
    t.equal(await uploadBlob(registry, ref, blob), 'present')
    t.equal(requests.length, 7)
  })

  t.test('is mounted from a repository that has it, and sent when none has', async (t) => {
    const { host, requests, registry } = await fronted(t)
    const blob = await bigBlob(t)
    await uploadBlob(registry, parseReference(`${host}/a`), blob)
    requests.splice(0)
    t.equal(await uploadBlob(registry, parseReference(`${host}/b`), blob, { mountFrom: 'a' }), 'mounted')
    t.same(
      requests.map((r) => r.method),
      ['HEAD', 'POST'],
    )
    const small = { digest: digestOf(Buffer.from('x')), size: 1, open: () => Buffer.from('x') }
    t.equal(await uploadBlob(registry, parseReference(`${host}/b`), small, { mountFrom: 'a' }), 'uploaded')
  })

  for (const [name, cutAfter] of [
    ['in the first chunk', 1_000_000],
    ['at the first byte of the second', CHUNK + 1],
    ['near its end', BIG.length - 1000],
  ] as const) {
    // docker-registry 2.8 drops a session when a chunk is cut: then the whole blob is sent again.
    t.test(`arrives whole when the connection is cut ${name}`, async (t) => {
      let cuts = 0
      const { host, requests, registry } = await fronted(t, ({ method, start, end }) => {
        const isHere = method === 'PATCH' && start <= cutAfter && cutAfter < end
        return isHere && cuts++ === 0 ? { cutAfterBytes: cutAfter - start } : undefined
      })
      t.equal(await uploadBlob(registry, parseReference(`${host}/a`), await bigBlob(t)), 'uploaded')
      t.ok(cuts >= 1)
      t.ok(
        requests.filter((r) => r.method === 'PATCH').length <= 7,
        requests.map((r) => `${r.method} ${r.range}`).join(', '),
      )
    })
  }

  t.test(
    'resumes after a cut at a registry that keeps the session, as the specification requires',
    async (t) => {
      const kept = Buffer.alloc(BIG.length)
      const starts: number[] = []
      let length = 0
      const host = await startFake(t, (request, response) => {
        const location = {
          location: `/v2/a/blobs/uploads/session?at=${length}`,
          ...(length > 0 && { range: `0-${length - 1}` }),
        }
        if (request.method === 'HEAD') response.writeHead(404).end()
        else if (request.method === 'POST') response.writeHead(202, location).end()
        else if (request.method === 'GET') response.writeHead(204, location).end()
        else if (request.method === 'PUT')
          response.writeHead(digestOf(kept.subarray(0, length)) === digestOf(BIG) ? 201 : 400).end()
        else if (!request.headers['content-range']?.startsWith(`${length}-`))
          response.writeHead(416, location).end()
        else {
          starts.push(length)
          const stop = starts.length % 2 === 1 ? length + 5_000_000 : Infinity
          request
            .on('error', () => {})
            .on('data', (piece: Buffer) => {
              length += piece.copy(kept, length, 0, Math.min(piece.length, stop - length))
              if (length === stop) request.socket.destroy()
            })
            .on('end', () =>
              response
                .writeHead(202, {
                  location: `/v2/a/blobs/uploads/session?at=${length}`,
                  range: `0-${length - 1}`,
                })
                .end(),
            )
        }
      })
      t.equal(await uploadBlob(setup(t), parseReference(`${host}/a`), await bigBlob(t)), 'uploaded')
      t.same(starts, [0, 5_000_000, 5_000_000 + CHUNK, 10_000_000 + CHUNK])
    },
  )

  t.test('arrives whole when only a response is lost', async (t) => {
    let lost = 0
    const { host, registry } = await fronted(t, ({ method }) =>
      method === 'PATCH' && lost++ === 1 ? { loseAnswer: true } : undefined,
    )
    t.match(await uploadBlob(registry, parseReference(`${host}/a`), await bigBlob(t)), /uploaded|present/)
    const last = await fronted(t, ({ method }) =>
      method === 'PUT' && lost++ < 10 ? { loseAnswer: true } : undefined,
    )
    t.match(
      await uploadBlob(last.registry, parseReference(`${last.host}/a`), await bigBlob(t)),
      'present',
      'the registry already has it',
    )
  })

  t.test('is sent in one piece where chunks are not supported', async (t) => {
    const { host, requests, registry } = await fronted(t, ({ method }) =>
      method === 'PATCH' ? { status: 405 } : undefined,
    )
    t.equal(await uploadBlob(registry, parseReference(`${host}/a`), await bigBlob(t)), 'uploaded')
    t.same(requests.filter((r) => r.method === 'PATCH').length, 1)
  })

  t.test('is sent in one piece where chunks make no progress', async (t) => {
    const requests: string[] = []
    const host = await startFake(t, (request, response) => {
      requests.push(request.method ?? '')
      const status = { HEAD: 404, POST: 202, PATCH: 202 }[request.method ?? ''] ?? 201
      // Each chunk is accepted, but never more than its first sixteen bytes are stored.
      request
        .resume()
        .once('end', () =>
          response
            .writeHead(status, { location: '/upload', ...(request.method === 'PATCH' && { range: '0-15' }) })
            .end(),
        )
    })
    t.equal(await uploadBlob(setup(t), parseReference(`${host}/a`), await bigBlob(t)), 'uploaded')
    t.same(requests, ['HEAD', 'POST', 'PATCH', 'PATCH', 'HEAD', 'POST', 'PUT'])
  })

  t.test('with a wrong digest is refused by the registry, and the error says so', async (t) => {
    const { host, registry } = await fronted(t)
    const wrong = { digest: digestOf(Buffer.from('y')), size: 1, open: () => Buffer.from('x') }
    await t.rejects(uploadBlob(registry, parseReference(`${host}/a`), wrong), {
      registryCode: 'DIGEST_INVALID',
      retryable: false,
      message: /answered 400/,
    })
  })

  t.test('is not sent to another origin that the registry names', async (t) => {
    let asked = 0
    const other = await startFake(t, (_request, response) => {
      asked++
      response.end()
    })
    const host = await startFake(t, (request, response) => {
      if (request.method === 'HEAD') response.writeHead(404).end()
      else response.writeHead(202, { location: `http://${other}/upload` }).end()
    })
    await t.rejects(uploadBlob(setup(t), parseReference(`${host}/a`), await bigBlob(t)), {
      registryCode: 'REDIRECT',
      message: /sent us on to/,
    })
    const front = await startFake(t, (request, response) => {
      if (request.method === 'HEAD') response.writeHead(404).end()
      else response.writeHead(307, { location: `http://${other}/upload` }).end()
    })
    const error = {
      registryCode: 'REDIRECT',
      message: `registry ${front} redirected an upload to http://${other}, which is not followed; use that address instead`,
    }
    await t.rejects(uploadBlob(setup(t), parseReference(`${front}/a`), await bigBlob(t)), error)
    t.equal(asked, 0)
  })
})

t.test('an image', { skip }, async (t) => {
  const layers = [gzipLayer([{ name: 'a', data: 'a' }]), zstdLayer([{ name: 'b', data: 'b' }])]

  t.test('is copied between registries, and within one by mounting', async (t) => {
    const [from, to, registry] = [await startRegistry(t), await startRegistry(t), setup(t)]
    const ref = parseReference(`${from}/a:v1`)
    const digest = await pushImage({ registry, reference: ref, config: {}, layers })
    const results = async (target: string): Promise<string[]> => {
      const seen: CopyProgress[] = []
      t.match(
        await copyImage({
          registry,
          source: registrySource(registry, ref),
          digest,
          to: parseReference(target),
          onProgress: (p) => seen.push(p),
        }),
        { digest, missing: [] },
      )
      t.match(await registry.resolve(parseReference(target)), { digest })
      return seen.flatMap((p) => p.result ?? [])
    }
    t.same(await results(`${to}/x/y:v2`), ['uploaded', 'uploaded', 'uploaded'])
    t.same(await results(`${to}/x/y:v3`), ['present', 'present', 'present'])
    t.same(await results(`${from}/b`), ['mounted', 'mounted', 'mounted'])
  })

  t.test('with a missing part is not pushed', async (t) => {
    const [host, registry] = [await startRegistry(t), setup(t)]
    const ref = parseReference(`${host}/a`)
    const digest = await pushImage({ registry, reference: ref, config: {}, layers })
    const source = {
      ...registrySource(registry, ref),
      blob: async () => undefined,
      origin: parseReference('elsewhere.example/a'),
    }
    await t.rejects(copyImage({ registry, source, digest, to: parseReference(`${host}/b`) }), {
      code: 'ERR_INVALID_CONTENT',
      message: /is neither in the store nor in/,
    })
    await t.rejects(registry.resolve(parseReference(`${host}/b`)), {
      code: 'ERR_REGISTRY',
      message: /does not have image/,
    })
  })

  t.test(
    'for several platforms is made of several images, and skopeo finds each',
    { skip: skipSkopeo },
    async (t) => {
      const [host, registry] = [await startRegistry(t), setup(t)]
      const made = async (name: string, config: object) => {
        const ref = parseReference(`${host}/${name}`)
        return {
          source: registrySource(registry, ref),
          digest: await pushImage({
            registry,
            reference: ref,
            config: { ...config },
            layers: [gzipLayer([{ name, data: name }])],
          }),
        }
      }
      const [amd, arm] = [
        await made('amd', { architecture: 'amd64' }),
        await made('arm', { architecture: 'arm', variant: 'v7' }),
      ]
      const to = parseReference(`${host}/multi:v1`)
      const { digest, entries } = await pushIndex({ registry, to, parts: [amd, arm] })
      t.same(
        entries.map((e) => e.platform),
        [
          { os: 'linux', architecture: 'amd64' },
          { os: 'linux', architecture: 'arm', variant: 'v7' },
        ],
      )
      t.match(await registry.resolve(to), { digest, mediaType: 'application/vnd.oci.image.index.v1+json' })
      for (const [arch, variant, layer] of [
        ['amd64', '', 'amd'],
        ['arm', 'v7', 'arm'],
      ] as const) {
        const { stdout } = await run('skopeo', [
          'inspect',
          '--tls-verify=false',
          '--override-arch',
          arch,
          ...(variant === '' ? [] : ['--override-variant', variant]),
          `docker://${host}/multi:v1`,
        ])
        t.match(JSON.parse(stdout), {
          Architecture: arch,
          Layers: [digestOf(gzipLayer([{ name: layer, data: layer }]).bytes)],
        })
      }
      await t.rejects(
        pushIndex({
          registry,
          to,
          parts: [amd, amd, await made('amd2', { architecture: 'amd64', config: { User: '1' } })],
        }),
        { code: 'ERR_INVALID_CONTENT', message: /two images for linux\/amd64/ },
      )
      const again = await pushIndex({
        registry,
        to: parseReference(`${host}/again`),
        parts: [{ source: registrySource(registry, to), digest }],
      })
      t.equal(again.digest, digest, 'an index of one index is that index')
    },
  )

  t.test('is byte for byte the same after a round trip through skopeo', { skip: skipSkopeo }, async (t) => {
    const [first, second, registry] = [await startRegistry(t), await startRegistry(t), setup(t)]
    const layout = `oci:${join(shortFolder(t), 'layout')}:v1`
    const digest = await pushImage({
      registry,
      reference: parseReference(`${first}/a:v1`),
      config: {},
      layers,
    })
    await run('skopeo', ['copy', '--src-tls-verify=false', `docker://${first}/a:v1`, layout])
    await run('skopeo', ['copy', '--dest-tls-verify=false', layout, `docker://${second}/b:v1`])
    t.match(await registry.resolve(parseReference(`${second}/b:v1`)), { digest })
    const gzip = await pushImage({
      registry,
      reference: parseReference(`${first}/g`),
      config: {},
      layers: [layers[0]!],
    })
    await run('skopeo', [
      'copy',
      '--src-tls-verify=false',
      '--dest-tls-verify=false',
      '--format',
      'v2s2',
      `docker://${first}/g@${gzip}`,
      `docker://${second}/docker:v2`,
    ])
    const { digest: docker, mediaType } = await registry.resolve(parseReference(`${second}/docker:v2`))
    t.equal(mediaType, 'application/vnd.docker.distribution.manifest.v2+json')
    const copied = await copyImage({
      registry,
      source: registrySource(registry, parseReference(`${second}/docker`)),
      digest: docker,
      to: parseReference(`${first}/docker:v3`),
    })
    t.equal(copied.digest, docker)
  })
})
