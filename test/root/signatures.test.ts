// Signatures in cosign's formats in a real registry, and how a gateway with a policy answers deployments. The
// signatures are made here from the specification: Debian has no cosign, and its skopeo cannot sign this way.

import { createSign, generateKeyPairSync, sign, type KeyObject } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { makeBusyboxLayer, pushBusybox } from '../../infra/demo/image.ts'
import { NotSigned, RegistryError } from '../../services/contract/errors.ts'
import { createSignatureCheck } from '../../services/gateway/signatures.ts'
import { uploadBlob } from '../../services/registry/upload.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { pushManifest } from '../../services/registry/push-manifest.ts'
import { parseReference, type Reference } from '../../services/registry/reference.ts'
import { cosignTag, listArtifacts } from '../../services/registry/referrers.ts'
import { createRegistryClient, type RegistryClient } from '../../services/registry/registry.ts'
import { parseRegistries } from '../../services/registry/registry-config.ts'
import { isSigned } from '../../services/registry/signature.ts'
import { createLog } from '../../services/platform/log.ts'
import { noRegistry, startFake, startRegistry } from '../helpers/registry.ts'
import { runWherry } from '../helpers/wherry.ts'

const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'
const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const SIMPLE = 'application/vnd.dev.cosign.simplesigning.v1+json'
const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json'
const EMPTY = Buffer.from('{}')

interface Rig {
  readonly registry: RegistryClient
  readonly ref: Reference
  readonly digest: string
  readonly manifestDigest: string
  readonly host: string
}

/** An image in a new registry. */
async function setup(t: Test): Promise<Rig> {
  const host = await startRegistry(t)
  const registry = createRegistryClient()
  t.teardown(() => registry.close())
  const ref = parseReference(`${host}/app:1`)
  await pushImage({ registry, reference: ref, layers: [], config: { config: { Cmd: ['x'] } } })
  const { digest } = await registry.resolve(ref)
  return { registry, ref, host, digest, manifestDigest: digest }
}

/** Puts an artifact with one layer beside the image, under TAG. */
async function attach(
  { registry, ref }: Rig,
  tag: string,
  {
    bytes,
    mediaType,
    annotations,
  }: { bytes: Buffer; mediaType: string; annotations?: Record<string, string> },
  more: Record<string, unknown> = {},
): Promise<{ digest: string; size: number }> {
  for (const blob of [bytes, EMPTY])
    await uploadBlob(registry, ref, { digest: digestOf(blob), size: blob.length, open: () => blob })
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: {
        mediaType: 'application/vnd.oci.image.config.v1+json',
        digest: digestOf(EMPTY),
        size: EMPTY.length,
      },
      layers: [
        { mediaType, digest: digestOf(bytes), size: bytes.length, ...(annotations && { annotations }) },
      ],
      ...more,
    }),
  )
  await pushManifest(registry, { ...ref, tag }, OCI_MANIFEST, manifest)
  return { digest: digestOf(manifest), size: manifest.length }
}

const payloadFor = (digest: string, type = 'cosign container image signature'): Buffer =>
  Buffer.from(
    JSON.stringify({
      critical: { identity: { 'docker-reference': 'x' }, image: { 'docker-manifest-digest': digest }, type },
      optional: null,
    }),
  )

const signed = (
  payload: Buffer,
  key: KeyObject,
): { bytes: Buffer; mediaType: string; annotations: Record<string, string> } => ({
  bytes: payload,
  mediaType: SIMPLE,
  annotations: {
    'dev.cosignproject.cosign/signature': sign(
      key.asymmetricKeyType === 'ed25519' ? null : 'sha256',
      payload,
      key,
    ).toString('base64'),
  },
})

t.test('signatures', { skip: noRegistry }, async (t) => {
  for (const [name, pair] of [
    ['ECDSA', generateKeyPairSync('ec', { namedCurve: 'P-256' })],
    ['RSA', generateKeyPairSync('rsa', { modulusLength: 2048 })],
    ['Ed25519', generateKeyPairSync('ed25519')],
  ] as const) {
    t.test(`with ${name} keys count only when everything in them is right`, async (t) => {
      const rig = await setup(t)
      const request = { ...rig, keys: [generateKeyPairSync('ed25519').publicKey, pair.publicKey] }
      const tag = cosignTag(rig.digest, 'sig')
      t.equal(await isSigned(request), false, 'nothing is there')
      const other = payloadFor(`sha256:${'0'.repeat(64)}`)
      for (const [why, layer] of Object.entries({
        'of another image': signed(other, pair.privateKey),
        'of another type': signed(payloadFor(rig.digest, 'something else'), pair.privateKey),
        'moved to another payload': { ...signed(payloadFor(rig.digest), pair.privateKey), bytes: other },
        'not in base64': {
          ...signed(payloadFor(rig.digest), pair.privateKey),
          annotations: { 'dev.cosignproject.cosign/signature': '###' },
        },
        'without a signature': { bytes: payloadFor(rig.digest), mediaType: SIMPLE },
        'of what is no JSON': signed(Buffer.from('not json'), pair.privateKey),
      })) {
        await attach(rig, tag, layer)
        t.equal(await isSigned(request), false, why)
      }
      const good = signed(payloadFor(rig.digest), pair.privateKey)
      const layerOf = ({ bytes, mediaType, annotations }: typeof good): object => ({
        mediaType,
        digest: digestOf(bytes),
        size: bytes.length,
        annotations,
      })
      const unreadable = { ...layerOf(good), size: good.bytes.length + 1 }
      await attach(rig, tag, good, { layers: [unreadable, layerOf(good)] })
      t.equal(await isSigned(request), true, 'behind one that cannot be read')
      await attach(rig, tag, good)
      t.equal(await isSigned(request), true, 'good')
      t.equal(await isSigned({ ...request, keys: [] }), false, 'without keys nothing is good')
    })
  }

  t.test('as Sigstore bundles are found through the referrers, by API or by tag', async (t) => {
    const rig = await setup(t)
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const bundleOf = (predicateType: string, sha256: string): Buffer => {
      const payload = Buffer.from(
        JSON.stringify({
          _type: 'https://in-toto.io/Statement/v1',
          subject: [{ digest: { sha256 } }],
          predicateType,
          predicate: {},
        }),
      )
      const type = 'application/vnd.in-toto+json'
      const sig = createSign('sha256')
        .update(`DSSEv1 ${type.length} ${type} ${payload.length} `)
        .update(payload)
        .sign(privateKey)
        .toString('base64')
      return Buffer.from(
        JSON.stringify({
          mediaType: BUNDLE,
          dsseEnvelope: { payloadType: type, payload: payload.toString('base64'), signatures: [{ sig }] },
        }),
      )
    }
    const hex = rig.digest.slice(7)
    for (const [what, bundle, good] of [
      ['a signed SBOM is no signature', bundleOf('https://spdx.dev/Document', hex), false],
      [
        'a signature of another image',
        bundleOf('https://sigstore.dev/cosign/sign/v1', '0'.repeat(64)),
        false,
      ],
      ['a signature', bundleOf('https://sigstore.dev/cosign/sign/v1', hex), true],
    ] as const) {
      const artifact = await attach(
        rig,
        'bundle',
        { bytes: bundle, mediaType: BUNDLE },
        { artifactType: BUNDLE },
      )
      const index = Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType: 'application/vnd.oci.image.index.v1+json',
          manifests: [{ mediaType: OCI_MANIFEST, ...artifact, artifactType: BUNDLE }],
        }),
      )
      await pushManifest(
        rig.registry,
        { ...rig.ref, tag: rig.digest.replace(':', '-') },
        'application/vnd.oci.image.index.v1+json',
        index,
      )
      t.equal(await isSigned({ ...rig, keys: [publicKey] }), good, what)
    }
    t.match(await listArtifacts(rig.registry, rig.ref, rig), [{ artifactType: BUNDLE }], 'and it is listed')
  })

  t.test('are found at a mirror while the registry itself is down', async (t) => {
    const rig = await setup(t)
    const { privateKey, publicKey } = generateKeyPairSync('ed25519')
    const AWAY = '127.0.0.1:1'
    const registry = createRegistryClient({
      registries: parseRegistries({ registries: { [AWAY]: { mirrors: [rig.host] } } }),
    })
    t.teardown(() => registry.close())
    const request = { registry, ref: parseReference(`${AWAY}/app:1`), digest: rig.digest, keys: [publicKey] }
    // A mirror without one does not prove that there is none.
    await t.rejects(isSigned(request), { code: 'ERR_REGISTRY', registryCode: 'UNREACHABLE' })
    await attach(rig, cosignTag(rig.digest, 'sig'), signed(payloadFor(rig.digest), privateKey))
    t.equal(await isSigned(request), true)
  })

  t.test('SBOMs and attestations beside an image are listed', async (t) => {
    const rig = await setup(t)
    await attach(rig, cosignTag(rig.digest, 'sbom'), {
      bytes: Buffer.from('{"spdxVersion":"SPDX-2.3"}'),
      mediaType: 'text/spdx+json',
    })
    await attach(rig, cosignTag(rig.digest, 'att'), {
      bytes: Buffer.from('{}'),
      mediaType: 'application/vnd.dsse.envelope.v1+json',
      annotations: { predicateType: 'https://slsa.dev/provenance/v1' },
    })
    t.same((await listArtifacts(rig.registry, rig.ref, rig)).map((a) => a.artifactType).toSorted(), [
      'https://slsa.dev/provenance/v1',
      'text/spdx+json',
    ])
  })
})

t.test(
  'wherry image inspect lists the artifacts of an image, and omits them when the registry is down',
  { skip: noRegistry || (process.getuid?.() !== 0 && 'needs root') },
  async (t) => {
    const data = mkdtempSync(join(tmpdir(), 'wherry-inspect-'))
    t.teardown(() => {
      rmSync(data, { recursive: true, force: true })
    })
    const image = async (...args: string[]) => await runWherry(['image', ...args, '--data', data])
    const list = async (...args: string[]) => {
      const { stdout, stderr, code } = await image('inspect', '--json', name, ...args)
      const [inspected] = JSON.parse(stdout) as [
        { artifacts?: Array<{ artifactType: string; sizeBytes: number }> },
      ]
      return { code, stderr, types: inspected.artifacts?.map((artifact) => artifact.artifactType).toSorted() }
    }
    let name = ''

    await t.test(
      'SBOM, provenance of this platform alone, and signatures of the index and of the image',
      async (t) => {
        const rig = await setup(t)
        const { registry, host, ref } = rig
        const { arch } = process
        const architecture = arch === 'x64' ? 'amd64' : arch
        const busybox = parseReference(await pushBusybox(host, makeBusyboxLayer()))
        const to = { ...ref, repository: busybox.repository }
        const beside = { ...rig, ref: to }
        const { digest: manifestDigest, size } = await registry.resolve(busybox)
        const attestation = async (about: string) => ({
          mediaType: OCI_MANIFEST,
          ...(await attach(beside, 'made', {
            bytes: Buffer.from(about),
            mediaType: 'application/vnd.in-toto+json',
            annotations: { 'in-toto.io/predicate-type': `https://${about.slice(7, 9)}.example/v1` },
          })),
          platform: { architecture: 'unknown', os: 'unknown' },
          annotations: {
            'vnd.docker.reference.type': 'attestation-manifest',
            'vnd.docker.reference.digest': about,
          },
        })
        const index = Buffer.from(
          JSON.stringify({
            schemaVersion: 2,
            mediaType: OCI_INDEX,
            manifests: [
              {
                mediaType: OCI_MANIFEST,
                digest: manifestDigest,
                size,
                platform: { architecture, os: 'linux' },
              },
              await attestation(manifestDigest),
              await attestation(`sha256:${'0'.repeat(64)}`),
            ],
          }),
        )
        await pushManifest(registry, { ...to, tag: 'multi' }, OCI_INDEX, index)
        await attach(beside, cosignTag(manifestDigest, 'sbom'), {
          bytes: Buffer.from('{"spdxVersion":"SPDX-2.3"}'),
          mediaType: 'text/spdx+json',
        })
        await attach(beside, cosignTag(digestOf(index), 'sig'), {
          bytes: payloadFor(digestOf(index)),
          mediaType: SIMPLE,
        })
        name = `${host}/busybox:multi`
        t.match(await image('pull', '-q', name), { code: 0 })
        t.same(await list(), {
          code: 0,
          stderr: '',
          types: [SIMPLE, `https://${manifestDigest.slice(7, 9)}.example/v1`, 'text/spdx+json'].toSorted(),
        })
        t.same(await list('--offline'), { code: 0, stderr: '', types: undefined })
        t.match(await image('inspect', name), { stdout: /^artifacts:\n {2}- artifactType: /m })
      },
    )
    // The registry ended with the nested test.
    t.match(await list(), {
      code: 0,
      stderr:
        /^wherry: image inspect: could not list the artifacts of [0-9a-f]{12} in 127.*: registry .*; --offline skips this\n$/,
      types: undefined,
    })
  },
)

t.test('a registry that fails or lies does not make an image signed', async (t) => {
  const { publicKey } = generateKeyPairSync('ed25519')
  const registry = createRegistryClient({ requestTimeoutMs: 60_000 })
  t.teardown(() => registry.close())
  const digest = `sha256:${'1'.repeat(64)}`
  for (const body of [
    '',
    'null',
    '[]',
    '{"layers":7,"manifests":{}}',
    `{"layers":[null,7,{"digest":"sha256:x"}],"manifests":[null,{"digest":3}]}`,
  ]) {
    const host = await startFake(t, (_request, response) => {
      response.end(body)
    })
    t.equal(
      await isSigned({ registry, ref: parseReference(`${host}/a:1`), digest, keys: [publicKey] }),
      false,
      body,
    )
  }
  const silent = await startFake(t, () => {})
  await t.rejects(
    isSigned({ registry, ref: parseReference(`${silent}/a:1`), digest, keys: [publicKey], timeoutMs: 100 }),
    { code: 'ERR_REGISTRY', message: /did not show all signatures of a within 100 ms/ },
  )
  const refusing = await startFake(t, (_request, response) => {
    response.writeHead(403).end()
  })
  await t.rejects(isSigned({ registry, ref: parseReference(`${refusing}/a:1`), digest, keys: [publicKey] }), {
    code: 'ERR_REGISTRY',
  })
  const large = await startFake(t, (_request, response) => {
    response.end(
      JSON.stringify({
        layers: [
          {
            mediaType: SIMPLE,
            digest,
            size: 1024 ** 4,
            annotations: { 'dev.cosignproject.cosign/signature': 'AA==' },
          },
        ],
      }),
    )
  })
  t.equal(
    await isSigned({ registry, ref: parseReference(`${large}/a:1`), digest, keys: [publicKey] }),
    false,
    'an artifact that is too large does not count',
  )
})

t.test('a policy', async (t) => {
  const log = createLog({ name: 'test', level: 'silent' })
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const folder = t.testdir({
    'cosign.pub': publicKey.export({ type: 'spki', format: 'pem' }),
    'private.pem': privateKey.export({ type: 'pkcs8', format: 'pem' }),
  })
  const file = join(folder, 'policy.json')
  const ref = parseReference('r.example/app:1')
  const checkOf = (policy: unknown, signed: boolean) => {
    writeFileSync(file, typeof policy === 'string' ? policy : JSON.stringify(policy))
    return createSignatureCheck({
      file,
      isSigned: async (_ref, _digest, keys) => signed && keys.length === 1,
      log,
    })
  }
  const keys = ['cosign.pub']
  t.test('refuses, warns or does nothing, by namespace', async (t) => {
    const policy = {
      default: { mode: 'warn', keys },
      namespaces: { prod: { mode: 'require', keys }, lab: { mode: 'off' } },
    }
    const unsigned = checkOf(policy, false)
    await t.rejects(unsigned('prod', ref, 'sha256:1'), NotSigned)
    t.match(await unsigned('', ref, 'sha256:1'), /not signed by any key/)
    t.match(await unsigned('toString', ref, 'sha256:1'), /not signed by any key/)
    t.equal(await unsigned('lab', ref, 'sha256:1'), undefined)
    const good = checkOf(policy, true)
    t.equal(await good('prod', ref, 'sha256:1'), undefined)
    const away = createSignatureCheck({
      file,
      log,
      isSigned: async () => {
        throw new RegistryError('it is away', { registryCode: 'UNREACHABLE', retryable: true })
      },
    })
    t.match(
      await away('', ref, 'sha256:1'),
      /^could not check whether .* is signed: it is away$/,
      'a warning needs no registry',
    )
    await t.rejects(away('prod', ref, 'sha256:1'), { code: 'ERR_REGISTRY' })
    t.equal(
      await createSignatureCheck({ file: '', isSigned: async () => false, log })('prod', ref, 'sha256:1'),
      undefined,
      'without a policy nothing is checked',
    )
  })
  t.test('that is invalid keeps the gateway from starting, with an error that says where', async (t) => {
    for (const [policy, message] of [
      ['{', /policy\.json is not JSON/],
      [{ default: { mode: 'maybe', keys } }, /default\.mode: must be "require", "warn" or "off"/],
      [{ default: { mode: 'require' } }, /default\.keys: must have at least one key/],
      [{ namespaces: { a: { mode: 'warn', keys: ['none.pub'] } } }, /cannot read \S*none\.pub/],
      [
        { namespaces: { a: { mode: 'warn', keys: ['private.pem'] } } },
        /private\.pem: is not a public key in PEM \(it is a private key/,
      ],
      [{ nonsense: 1 }, /nonsense: is not a known field/],
    ] as const) {
      t.throws(() => checkOf(policy, false), { code: 'ERR_INVALID_REQUEST', message })
    }
    t.throws(() => createSignatureCheck({ file: join(folder, 'absent'), isSigned: async () => true, log }), {
      message: /cannot read \S*absent/,
    })
  })
})
