// References, manifests, indexes and image configs as registries send them: accepted and refused ones.

import t from 'tap'
import type { Descriptor } from '../../services/contract/image.ts'
import { choosePlatform, hostPlatform, platformsFor } from '../../services/registry/platform.ts'
import { parseImageConfig, parseManifest, OCI_INDEX, OCI_MANIFEST } from '../../services/registry/manifest.ts'
import { formatReference, parseReference, registryUrl } from '../../services/registry/reference.ts'
import { parseAnswer } from '../../services/images/unpack.ts'

const DIGEST = `sha256:${'a1'.repeat(32)}`
const OTHER_DIGEST = `sha256:${'b2'.repeat(32)}`

t.test('references', async (t) => {
  const good: ReadonlyArray<[string, string]> = [
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36'],
    ['docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['index.docker.io/me/app', 'docker.io/me/app:latest'],
    ['me/app', 'docker.io/me/app:latest'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/a/b', 'localhost:5000/a/b:latest'],
    [`localhost:5000/a/b@${DIGEST}`, `localhost:5000/a/b@${DIGEST}`],
    [`ghcr.io/a/b:v1@${DIGEST}`, `ghcr.io/a/b:v1@${DIGEST}`],
    ['[::1]:5000/a__b/c-d.e', '[::1]:5000/a__b/c-d.e:latest'],
    ['127.0.0.1:5000/x', '127.0.0.1:5000/x:latest'],
  ]
  for (const [text, full] of good)
    t.test(`"${text}" is ${full}`, async (t) => t.equal(formatReference(parseReference(text)), full))

  const bad = [
    '',
    ' ',
    'Busybox',
    'a/B',
    'a//b',
    '/a',
    'a/',
    'a:',
    'a:-x',
    `a:${'x'.repeat(129)}`,
    'a@sha256:12',
    `a@md5:${'a'.repeat(32)}`,
    '-a/b',
    'a..b',
    'a___b',
    'localhost:99999/a',
    'localhost:0/a',
    'ex_ample.com/a',
    '1.2.3.999/a',
    '[:::]/a',
    'a b',
    'a\0b',
    'http://a/b',
    '../a',
    'a'.repeat(256),
    'a'.repeat(1025),
    'a1'.repeat(32),
    `a@${DIGEST}@${DIGEST}`,
  ]
  for (const text of bad) {
    t.test(`${JSON.stringify(text.slice(0, 40))} is refused`, async (t) =>
      t.throws(() => parseReference(text), { code: 'ERR_INVALID_REFERENCE', faults: [{ path: 'image' }] }),
    )
  }

  t.test('a URL is refused with a hint to omit the scheme', async (t) =>
    t.throws(() => parseReference('HTTPS://ghcr.io/a/b'), {
      code: 'ERR_INVALID_REFERENCE',
      faults: [{ problem: /write it without "https:\/\/"/ }],
    }),
  )
  t.test('loopback addresses use http, all others https', async (t) => {
    t.equal(registryUrl('localhost:5000'), 'http://localhost:5000')
    t.equal(registryUrl('127.3.2.1'), 'http://127.3.2.1')
    t.equal(registryUrl('[::1]:5000'), 'http://[::1]:5000')
    t.equal(registryUrl('docker.io'), 'https://registry-1.docker.io')
    t.equal(registryUrl('127.0.0.1.example.com'), 'https://127.0.0.1.example.com')
    t.equal(registryUrl('localhost.example.com:5000'), 'https://localhost.example.com:5000')
    t.equal(registryUrl('registry.lan:5000', true), 'http://registry.lan:5000')
    t.equal(registryUrl('localhost:5000', false), 'https://localhost:5000')
    t.equal(registryUrl('index.docker.io'), 'https://registry-1.docker.io')
  })

  t.test(
    'an origin has the canonical form of URLs, so that a request to it does not look cross-origin',
    async (t) => {
      for (const registry of [
        'LocalHost:80',
        'Registry.Example.com/',
        'ghcr.io:443',
        '[::1]:80',
        '127.0.0.1:80',
      ]) {
        const origin = registryUrl(registry.replace('/', ''))
        t.equal(new URL('/v2/', origin).origin, origin, registry)
      }
      t.equal(registryUrl('LocalHost:80'), 'http://localhost')
    },
  )
})

const descriptor = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: DIGEST, size: 10 }
const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: DIGEST, size: 10 }
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const manifest = { schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [descriptor] }
const index = {
  schemaVersion: 2,
  mediaType: OCI_INDEX,
  manifests: [{ ...descriptor, mediaType: OCI_MANIFEST, platform: { os: 'linux', architecture: 'amd64' } }],
}

t.test('manifests', async (t) => {
  t.test('an OCI manifest without mediaType is recognized by its fields', async (t) => {
    t.equal(parseManifest(json({ schemaVersion: 2, config, layers: [] })).mediaType, OCI_MANIFEST)
  })
  t.test('the urls of a layer are not read (CVE-2020-15157)', async (t) => {
    t.strictSame(
      parseManifest(json({ ...manifest, layers: [{ ...descriptor, urls: ['http://169.254.169.254/'] }] })),
      { mediaType: OCI_MANIFEST, config, layers: [descriptor] },
    )
  })
  const faults: ReadonlyArray<[string, unknown, string, string?]> = [
    ['text', 'x', 'ERR_INVALID_CONTENT'],
    ['a list', [], 'ERR_INVALID_CONTENT'],
    ['both layers and manifests (CVE-2021-41190)', { ...manifest, manifests: [] }, 'ERR_INVALID_CONTENT'],
    ['both a config and manifests', { ...index, config }, 'ERR_INVALID_CONTENT'],
    ['Layers beside layers', { ...manifest, Layers: [] }, 'ERR_INVALID_CONTENT'],
    [
      'an artifact with an artifactType',
      {
        ...manifest,
        artifactType: 'application/spdx+json',
        config: { ...config, mediaType: 'application/vnd.oci.empty.v1+json' },
      },
      'ERR_UNSUPPORTED_MEDIA_TYPE',
    ],
    [
      'the withdrawn artifact manifest',
      { schemaVersion: 2, mediaType: 'application/vnd.oci.artifact.manifest.v1+json', blobs: [] },
      'ERR_UNSUPPORTED_MEDIA_TYPE',
    ],
    [
      '10,000 index entries',
      { ...index, manifests: Array.from({ length: 10_000 }, () => index.manifests[0]) },
      'ERR_CONTENT_LIMIT',
    ],
    ['a Content-Type that is not its mediaType (CVE-2021-41190)', manifest, 'ERR_INVALID_CONTENT', OCI_INDEX],
    [
      'the mediaType of an index and the fields of a manifest',
      { ...manifest, mediaType: OCI_INDEX },
      'ERR_INVALID_CONTENT',
    ],
    ['schema version 1', { ...manifest, schemaVersion: 1 }, 'ERR_UNSUPPORTED_MEDIA_TYPE'],
    ['an unknown mediaType', { ...manifest, mediaType: 'application/x' }, 'ERR_UNSUPPORTED_MEDIA_TYPE'],
    [
      'the config of an artifact',
      { ...manifest, config: { ...config, mediaType: 'application/vnd.cncf.helm.config.v1+json' } },
      'ERR_UNSUPPORTED_MEDIA_TYPE',
    ],
    [
      'a foreign layer, fetched from a third party (CVE-2020-15157)',
      {
        ...manifest,
        layers: [
          {
            ...descriptor,
            mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
            urls: ['http://x/'],
          },
        ],
      },
      'ERR_UNSUPPORTED_MEDIA_TYPE',
    ],
    [
      'a layer called "constructor"',
      { ...manifest, layers: [{ ...descriptor, mediaType: 'constructor' }] },
      'ERR_UNSUPPORTED_MEDIA_TYPE',
    ],
    [
      '129 layers',
      { ...manifest, layers: Array.from({ length: 129 }, () => descriptor) },
      'ERR_CONTENT_LIMIT',
    ],
    [
      'a nondistributable layer',
      {
        ...manifest,
        layers: [
          { ...descriptor, mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip' },
        ],
      },
      'ERR_UNSUPPORTED_MEDIA_TYPE',
    ],
    [
      '1001 index entries',
      { ...index, manifests: Array.from({ length: 1001 }, () => index.manifests[0]) },
      'ERR_CONTENT_LIMIT',
    ],
    ['a negative size', { ...manifest, layers: [{ ...descriptor, size: -1 }] }, 'ERR_INVALID_CONTENT'],
    [
      'a size beyond 2^53',
      { ...manifest, layers: [{ ...descriptor, size: 2 ** 60 }] },
      'ERR_INVALID_CONTENT',
    ],
    [
      'a digest with capitals',
      { ...manifest, layers: [{ ...descriptor, digest: DIGEST.toUpperCase() }] },
      'ERR_INVALID_CONTENT',
    ],
    [
      'a digest with a path in it',
      { ...manifest, layers: [{ ...descriptor, digest: 'sha256:../../etc' }] },
      'ERR_INVALID_CONTENT',
    ],
    ['no config', { ...manifest, config: undefined }, 'ERR_INVALID_CONTENT'],
  ]
  for (const [name, value, code, contentType] of faults) {
    t.test(`${name}: ${code}`, async (t) => t.throws(() => parseManifest(json(value), contentType), { code }))
  }
})

t.test('platforms', async (t) => {
  const entry = (architecture: string, variant?: string, os = 'linux') => ({
    ...descriptor,
    mediaType: OCI_MANIFEST,
    digest: `sha256:${architecture}${variant ?? ''}`,
    platform: { os, architecture, ...(variant && { variant }) },
  })
  const many = {
    mediaType: OCI_INDEX,
    manifests: [
      entry('amd64', 'v3'),
      entry('amd64', undefined, 'windows'),
      entry('amd64'),
      entry('arm', 'v6'),
      entry('arm', 'v7'),
      entry('arm64', 'v8'),
      entry('unknown'),
    ],
  }
  const chosen = (arch: string, flags = ''): string =>
    choosePlatform(many, hostPlatform(arch, new Set(flags.split(' ')))).digest
  t.test('the best variant that is known to run is chosen', async (t) => {
    t.equal(chosen('x64'), 'sha256:amd64')
    t.equal(chosen('arm64'), 'sha256:arm64v8')
    t.equal(chosen('arm'), 'sha256:armv7')
  })
  t.test('a level of amd64 is chosen when the CPU has all its flags', async (t) => {
    const v2 = 'cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3'
    const v3 = 'abm avx avx2 bmi1 bmi2 f16c fma movbe xsave'
    t.equal(chosen('x64', `${v2} ${v3}`), 'sha256:amd64v3')
    t.equal(
      chosen('x64', `${v2} ${v3} avx512f avx512bw avx512cd avx512dq avx512vl`),
      'sha256:amd64v3',
      'a better CPU runs it too',
    )
    t.equal(chosen('x64', v3), 'sha256:amd64', 'a level is worth nothing without the one below')
    t.equal(chosen('x64', `${v2} ${v3.replace('avx2 ', '')}`), 'sha256:amd64')
  })
  t.test('a build for a platform takes the given level or a lower one', async (t) => {
    const variants = (architecture: string, variant?: string): readonly string[] =>
      platformsFor({ os: 'linux', architecture, ...(variant !== undefined && { variant }) }).variants
    t.strictSame(variants('arm', 'v6'), ['v6', 'v5', ''])
    t.strictSame(variants('arm'), ['v7', 'v6', 'v5', ''])
    t.strictSame(variants('amd64', 'v3'), ['v3', 'v2', '', 'v1'])
    t.strictSame(
      [variants('arm64'), variants('arm64', 'v9'), variants('s390x')],
      [['v8', ''], ['v9', 'v8', ''], ['']],
    )
  })

  t.test('a nested index is followed when it may have the wanted image', async (t) => {
    const nested = { ...descriptor, mediaType: OCI_INDEX, digest: 'sha256:nested' }
    const choose = (manifests: readonly Descriptor[]): string =>
      choosePlatform({ mediaType: OCI_INDEX, manifests }, hostPlatform('x64')).digest
    t.equal(choose([nested, entry('amd64')]), 'sha256:amd64')
    t.equal(choose([entry('arm64'), nested]), 'sha256:nested')
    t.equal(
      choose([
        nested,
        { ...nested, digest: 'sha256:labelled', platform: { os: 'linux', architecture: 'amd64' } },
      ]),
      'sha256:labelled',
    )
    t.throws(() => choose([{ ...nested, platform: { os: 'linux', architecture: 'arm64' } }]), {
      code: 'ERR_UNSUPPORTED_MEDIA_TYPE',
    })
  })
  t.test('attestations of BuildKit are not images', async (t) => {
    const attestation = {
      ...entry('unknown', undefined, 'unknown'),
      annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
    }
    const unlabelled = { ...descriptor, mediaType: OCI_MANIFEST, digest: 'sha256:unlabelled' }
    t.equal(
      choosePlatform({ mediaType: OCI_INDEX, manifests: [attestation, unlabelled] }, hostPlatform('x64'))
        .digest,
      'sha256:unlabelled',
    )
    t.throws(
      () =>
        choosePlatform(
          { mediaType: OCI_INDEX, manifests: [attestation, entry('arm64')] },
          hostPlatform('x64'),
        ),
      { message: /it is for linux\/arm64$/ },
    )
  })
  t.test('the error for a missing platform lists the available ones', async (t) => {
    t.throws(() => chosen('s390x'), {
      code: 'ERR_UNSUPPORTED_MEDIA_TYPE',
      message: /not available for linux\/s390x; it is for linux\/amd64\/v3/,
    })
  })
})

t.test('image configs', async (t) => {
  const rootfs = { type: 'layers', diff_ids: [DIGEST] }
  t.test('null means the default, and only known fields are read', async (t) => {
    t.strictSame(
      parseImageConfig(
        json({
          os: 'linux',
          architecture: 'amd64',
          config: { Env: null, Cmd: ['a'], User: 'x', Labels: { a: 'b' } },
          rootfs,
        }),
      ),
      {
        os: 'linux',
        architecture: 'amd64',
        env: [],
        entrypoint: [],
        cmd: ['a'],
        user: 'x',
        workingDir: '/',
        diffIds: [DIGEST],
      },
    )
  })
  for (const [name, value] of [
    ['no rootfs', {}],
    ['a relative WorkingDir', { rootfs, config: { WorkingDir: 'a' } }],
    ['a NUL in Cmd', { rootfs, config: { Cmd: ['a\0b'] } }],
    ['Entrypoint as text', { rootfs, config: { Entrypoint: 'sh' } }],
    ['a diffID that is no digest', { rootfs: { diff_ids: ['../x'] } }],
  ] as const)
    t.test(`${name} is refused`, async (t) =>
      t.throws(() => parseImageConfig(json(value)), { code: 'ERR_INVALID_CONTENT' }),
    )
})

t.test('answers of the unpacker become errors that say what to do', async (t) => {
  t.strictSame(parseAnswer('L', `ok 3 4 5 ${DIGEST} ${OTHER_DIGEST}`, ''), {
    ok: true,
    entries: 3,
    bytes: 4,
    devicesDropped: 5,
    digest: DIGEST,
    diffId: OTHER_DIGEST,
  })
  t.match(parseAnswer('L', `ok 3 4 5 ${DIGEST}`, ''), { ok: false }, 'an answer without both digests is none')
  t.match(parseAnswer('L', 'unsafe "../x" has ".." in its path', ''), {
    error: { code: 'ERR_UNSAFE_LAYER', message: 'layer L is refused: "../x" has ".." in its path' },
  })
  t.match(parseAnswer('L', 'system ENOSPC write "a"', ''), {
    error: { code: 'ENOSPC', message: /no space is left/ },
  })
  t.match(parseAnswer('L', '', 'SIGSEGV'), { ok: false, error: { message: /SIGSEGV/ } })
})
