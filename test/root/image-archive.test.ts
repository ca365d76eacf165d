// `wherry image` as a user runs it, with archives of skopeo, podman and Docker, and with hostile archives.

import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { makeBusyboxLayer, pushBusybox } from '../../infra/demo/image.ts'
import { loadArchive } from '../../services/images/archive.ts'
import { hostPlatform } from '../../services/registry/platform.ts'
import { createImageStore } from '../../services/images/store.ts'
import { tar, type TarEntry } from '../helpers/layer.ts'
import { noRegistry, startRegistry } from '../helpers/registry.ts'
import { runWherry } from '../helpers/wherry.ts'

const run = promisify(execFile)
const nativeDir = join(import.meta.dirname, '../../build/native')
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : existsSync(join(nativeDir, 'wherry-unpack'))
      ? false
      : 'build/native/wherry-unpack is missing: run make native'
const DAEMON_LOOKS = 1200

function missing(...programs: string[]): false | string {
  const absent = programs.filter((program) => spawnSync('which', [program]).status !== 0)
  return skip || noRegistry || (absent.length > 0 && `needs ${absent.join(', ')}`)
}

function folder(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'wherry-archive-'))
  t.teardown(() => {
    rmSync(path, { recursive: true, force: true })
  })
  return path
}

/** `wherry image ARGS` on the data folder DATA; fails the test unless it exits with 0. */
async function image(t: Test, data: string, ...args: string[]) {
  const ended = await runWherry(['image', ...args], { env: { WHERRY_DATA: data } })
  if (ended.code !== 0) t.fail(`wherry image ${args.join(' ')}: ${ended.stderr}`)
  return ended
}

/** A data folder that has busybox, pulled from a real registry as NAME. */
async function setup(t: Test) {
  const host = await startRegistry(t)
  const name = await pushBusybox(host, makeBusyboxLayer())
  const dir = folder(t)
  const data = join(dir, 'data')
  const { stdout } = await image(t, data, 'pull', '--json', name)
  return { dir, data, name, host, digest: (JSON.parse(stdout) as { digest: string }).digest }
}

t.test('an image from pull to prune', { skip: missing() }, async (t) => {
  const { dir, data, name, digest } = await setup(t)
  const short = digest.slice(7, 19)
  t.match(await image(t, data, 'pull', name), { stdout: `already have ${name}, ${short}\n` })
  t.match(await image(t, data, 'tag', name, 'mine'), {
    stdout: `docker.io/library/mine:latest is now ${short}\n`,
  })
  t.match(await image(t, data, 'ls'), {
    stdout: new RegExp(`^NAME .*\\n${name} .*${short} .*tag\\n.*mine:latest`),
    stderr: /^1 image, /,
  })
  t.match(JSON.parse((await image(t, data, 'inspect', '--json', short)).stdout), [
    { digest, cmd: ['sh'], names: { length: 2 }, layers: [{ isKeptPacked: true }] },
  ])
  t.match(await image(t, data, 'history', 'mine'), { stdout: /not in the history/ })
  t.match(await runWherry(['image', 'rm', short, '--data', data]), {
    code: 1,
    stderr: /^wherry: image rm: image .* has 2 names .*; remove it by name/,
  })
  t.match(await image(t, data, 'rm', 'mine'), {
    stdout: /^untagged docker.io\/library\/mine:latest; the image is kept because it has other names\n/,
  })
  t.match(await image(t, data, 'prune'), { stdout: /^0 images, / })
  t.match(await image(t, data, 'prune', '--all', '--dry-run'), {
    stdout: new RegExp(`^would remove ${name} `),
  })
  t.match(await image(t, data, 'rm', name), { stdout: new RegExp(`^removed ${name} .* freed\\n`) })
  t.equal((await image(t, data, 'ls', '--json')).stdout, '[]\n')
  t.strictSame(
    ['blobs/sha256', 'layers/sha256', 'tmp'].flatMap((part) => readdirSync(join(data, 'images', part))),
    [],
  )

  const wrong: ReadonlyArray<[readonly string[], number, RegExp]> = [
    [
      ['inspect', 'nothing'],
      1,
      /^wherry: image inspect: there is no image "nothing" on this machine; wherry image ls lists all/,
    ],
    [['rm', 'UPPER'], 1, /the repository must be lower case/],
    [['pull', 'localhost:1/x'], 1, /^wherry: image pull: registry localhost:1 cannot be reached/],
    [['save', 'x'], 2, /^wherry: image save: required option '-o, --output <file>' not specified/],
    [['prune', '--older', 'soon'], 2, /^wherry: image prune: --older "soon" must be a duration/],
    [['load', '-i', '/nowhere'], 1, /^wherry: image load: \/nowhere does not exist/],
    [
      ['ls', '--data', join(dir, 'none')],
      1,
      /^wherry: image ls: there is no image store in .*; choose the data folder/,
    ],
    [['frobnicate'], 2, /^wherry: image: unknown command 'frobnicate'; see wherry image --help/],
  ]
  for (const [args, code, stderr] of wrong)
    t.match(
      await runWherry(['image', ...args], { env: { WHERRY_DATA: data } }),
      { code, stderr, stdout: '' },
      args.join(' '),
    )
  t.equal(existsSync(join(dir, 'none')), false)
})

t.test('archives of skopeo and of Wherry', { skip: missing('skopeo') }, async (t) => {
  const { dir, data, name, digest } = await setup(t)
  await image(t, data, 'tag', name, 'mine')
  const archive = join(dir, 'a.tar')
  await image(t, data, 'save', '-o', archive, 'mine', name)
  const other = join(dir, 'other')

  await t.test('skopeo reads ours in both formats, with the same digest', async (t) => {
    await run('skopeo', [
      'copy',
      '-q',
      `docker-archive:${archive}:mine:latest`,
      `docker-archive:${dir}/skopeo-docker.tar:sk:docker`,
    ])
    await run('skopeo', [
      'copy',
      '-q',
      `oci-archive:${archive}:docker.io/library/mine:latest`,
      `oci-archive:${dir}/skopeo-oci.tar:sk:oci`,
    ])
    await run('skopeo', ['copy', '-q', `oci-archive:${archive}:${name}`, `oci:${dir}/layout:sk:folder`])
    await run('skopeo', ['copy', '-q', `oci-archive:${archive}:${name}`, `oci:${dir}/unnamed:latest`])
    t.match(JSON.parse((await run('skopeo', ['inspect', `oci-archive:${archive}:${name}`])).stdout), {
      Digest: digest,
    })
  })
  await t.test('both are loaded', async (t) => {
    t.match(await image(t, other, 'load', '-i', archive), {
      stdout: new RegExp(`^loaded docker.io/library/mine:latest, ${digest.slice(7, 19)}\nloaded ${name}, `),
    })
    t.match(await image(t, other, 'load', '-i', `${dir}/skopeo-docker.tar`), {
      stdout: /^loaded docker.io\/library\/sk:docker, /,
    })
    t.match(await image(t, other, 'load', '-i', `${dir}/skopeo-oci.tar`), {
      stdout: new RegExp(`^loaded docker.io/library/sk:oci, ${digest.slice(7, 19)}`),
    })
    t.match(await image(t, other, 'load', '-i', `${dir}/layout`), {
      stdout: new RegExp(`^loaded docker.io/library/sk:folder, ${digest.slice(7, 19)}`),
    })
    t.match(await image(t, other, 'load', '-i', `${dir}/unnamed`), {
      stdout: new RegExp(`^loaded ${digest}, which has no name`),
    })
    t.match(
      await runWherry(['image', 'load', '--json', '--data', other], {
        input: gzipSync(readFileSync(`${dir}/skopeo-docker.tar`)),
      }),
      { code: 0, stdout: /"names":\["docker.io\/library\/sk:docker"\]/ },
    )
  })
  await t.test('a name that moves is reported', async (t) => {
    const changed = join(dir, 'changed')
    await image(t, changed, 'load', '-i', `${dir}/skopeo-docker.tar`)
    await image(t, changed, 'tag', 'sk:docker', 'mine')
    t.match(await image(t, changed, 'load', '-i', archive), {
      stdout: /^loaded docker.io\/library\/mine:latest, [0-9a-f]{12}; previously [0-9a-f]{12}\n/,
    })
  })
  await t.test('saving again writes the same bytes, also to stdout, and never a partial file', async (t) => {
    await image(t, data, 'save', '-o', join(dir, 'b.tar'), 'mine', name)
    t.ok(readFileSync(archive).equals(readFileSync(join(dir, 'b.tar'))))
    const { stderr } = await image(t, data, 'save', '--format', 'oci', '-o', '-', 'mine')
    t.equal(stderr, 'saved mine\n')
    t.match(await runWherry(['image', 'save', '-o', join(dir, 'no/where.tar'), 'mine', '--data', data]), {
      code: 1,
      stderr: /^wherry: image save: .*where.tar cannot be written \(ENOENT/,
    })
    t.match(await runWherry(['image', 'save', '-o', '/dev/full', 'mine', '--data', data]), {
      code: 1,
      stderr: /^wherry: image save: \/dev\/full cannot be written \(ENOSPC/,
    })
    t.ok(statSync('/dev/full').isCharacterDevice(), 'a device is not replaced')
    t.strictSame(
      readdirSync(dir).filter((file) => file.includes('partial')),
      [],
    )
  })
  await t.test('a packed layer that is gone is fetched again and checked', async (t) => {
    const layer = (
      JSON.parse((await image(t, data, 'inspect', '--json', 'mine')).stdout) as Array<{
        layers: Array<{ digest: string }>
      }>
    )[0]!.layers[0]!.digest
    rmSync(join(data, 'images/blobs/sha256', layer.slice(7)))
    await image(t, data, 'save', '-o', join(dir, 'again.tar'), 'mine', name)
    t.ok(readFileSync(archive).equals(readFileSync(join(dir, 'again.tar'))))
    rmSync(join(other, 'images/blobs/sha256', layer.slice(7)))
    t.match(await runWherry(['image', 'save', '-o', join(dir, 'c.tar'), name, '--data', other]), {
      code: 1,
      stderr: /is stored only unpacked, and its source is unknown; pull the image again/,
    })
  })
})

t.test('podman loads ours, and we load podman’s', { skip: missing('podman') }, async (t) => {
  const { dir, data, name, digest } = await setup(t)
  const podman = (...args: string[]) =>
    run(
      'podman',
      [
        '--root',
        join(dir, 'root'),
        '--runroot',
        join(dir, 'run'),
        '--tmpdir',
        join(dir, 'tmp'),
        '--storage-driver',
        'vfs',
        ...args,
      ],
      { cwd: dir },
    )
  await image(t, data, 'save', '-o', join(dir, 'a.tar'), name)
  await podman('load', '-q', '-i', join(dir, 'a.tar'))
  t.match(JSON.parse((await podman('image', 'inspect', name)).stdout), [{ Config: { Cmd: ['sh'] } }])
  for (const format of ['docker-archive', 'oci-archive']) {
    await podman('save', '-q', '--format', format, '-o', join(dir, `${format}.tar`), name)
    t.match(
      await image(t, join(dir, 'other'), 'load', '-i', join(dir, `${format}.tar`)),
      { stdout: new RegExp(`^loaded ${name}, `) },
      format,
    )
  }
  t.match(await image(t, data, 'ls', '--json'), { stdout: new RegExp(digest) })
})

t.test(
  'docker loads ours, and we load docker’s',
  { skip: missing('dockerd', 'docker', 'containerd') },
  async (t) => {
    const { dir, data, name } = await setup(t)
    const socket = join(dir, 'docker.sock')
    const daemon = spawn(
      'setpriv',
      [
        '--pdeathsig',
        'SIGTERM',
        '--',
        'sh',
        '-c',
        `exec dockerd "$@" >${dir}/log 2>&1`,
        'sh',
        '--data-root',
        join(dir, 'docker'),
        '--exec-root',
        join(dir, 'exec'),
        '--pidfile',
        join(dir, 'pid'),
        '-H',
        `unix://${socket}`,
        '--bridge',
        'none',
        '--iptables=false',
        '--ip6tables=false',
        '--storage-driver',
        'vfs',
      ],
      { stdio: 'ignore' },
    )
    const docker = (...args: string[]) => run('docker', ['-H', `unix://${socket}`, ...args])
    const ended = once(daemon, 'exit')
    t.teardown(async () => {
      daemon.kill('SIGTERM')
      await ended
      for (const [, path] of readFileSync('/proc/self/mountinfo', 'utf8').matchAll(/^(?:\S+ ){4}(\S+)/gm))
        if (path!.startsWith(`${dir}/`)) spawnSync('umount', [path!])
    })
    for (
      let look = 0;
      look < DAEMON_LOOKS &&
      !(
        existsSync(socket) &&
        (await docker('version').then(
          () => true,
          () => false,
        ))
      );
      look++
    ) {
      await new Promise((resolve) => {
        setTimeout(resolve, 100)
      })
    }
    await image(t, data, 'save', '-o', join(dir, 'a.tar'), name)
    t.match((await docker('load', '-i', join(dir, 'a.tar'))).stdout, `Loaded image: ${name}`)
    t.match(JSON.parse((await docker('image', 'inspect', name)).stdout), [{ Config: { Cmd: ['sh'] } }])
    await docker('tag', name, 'second:v2')
    await docker('save', '-o', join(dir, 'd.tar'), name, 'second:v2')
    const { stdout } = await image(t, join(dir, 'other'), 'load', '-i', join(dir, 'd.tar'))
    t.match(stdout, new RegExp(`loaded ${name}, `))
    t.match(stdout, /loaded docker.io\/library\/second:v2, /)
  },
)

const PLATFORM = { os: 'linux', architecture: hostPlatform().architecture }
const layerOf = (name: string): Buffer => tar([{ name, data: name }])
const configOf = (...layers: Buffer[]): string =>
  JSON.stringify({
    ...PLATFORM,
    config: { Cmd: ['x'] },
    rootfs: { type: 'layers', diff_ids: layers.map(digestOf) },
  })

/** An archive as `docker save` 20.10 wrote it: a folder per layer, and links for shared layers. */
function oldArchive(): Buffer {
  const [base, top] = [layerOf('base'), layerOf('top')]
  const [one, two] = [configOf(base), configOf(base, top)]
  const hex = (text: string): string => digestOf(Buffer.from(text)).slice(7)
  return tar([
    { name: 'aa/', type: '5' },
    { name: 'aa/VERSION', data: '1.0' },
    { name: 'aa/json', data: '{}' },
    { name: 'aa/layer.tar', data: base },
    { name: 'bb/', type: '5' },
    { name: 'bb/layer.tar', type: '2', link: '../aa/layer.tar' },
    { name: 'cc/', type: '5' },
    { name: 'cc/layer.tar', data: top },
    { name: `${hex(one).slice(0, 20)}.json`, data: one },
    { name: `${hex(two).slice(0, 20)}.json`, data: two },
    {
      name: 'manifest.json',
      data: JSON.stringify([
        {
          Config: `${hex(one).slice(0, 20)}.json`,
          RepoTags: ['one:v1', 'also/one:v1'],
          Layers: ['aa/layer.tar'],
        },
        { Config: `${hex(two).slice(0, 20)}.json`, RepoTags: null, Layers: ['bb/layer.tar', 'cc/layer.tar'] },
      ]),
    },
    { name: 'repositories', data: '{}' },
  ])
}

function openStore(t: Test) {
  const dir = folder(t)
  const store = createImageStore({ dir })
  t.teardown(() => store.close())
  const load = (source: Readable | string) =>
    loadArchive({ store, source, nativeDir, signal: new AbortController().signal })
  return { dir, store, load }
}

t.test('an archive of an old docker save, with links between its layers', { skip }, async (t) => {
  const { dir, store, load } = openStore(t)
  const loaded = await load(Readable.from([oldArchive()]))
  t.match(loaded, [{ names: ['docker.io/library/one:v1', 'docker.io/also/one:v1'] }, { names: [] }])
  t.equal(store.catalog.image(loaded[1]!.digest)?.layers.length, 2)
  t.equal(readFileSync(join(store.layerPath(digestOf(layerOf('top'))), 'top'), 'utf8'), 'top')
  t.strictSame(readdirSync(join(dir, 'tmp')), [])
  t.strictSame(
    (await load(Readable.from([oldArchive()]))).map((image) => image.digest),
    loaded.map((image) => image.digest),
    'the same archive gives the same digests',
  )
})

t.test('hostile archives are refused, and the store does not change', { skip }, async (t) => {
  const base = layerOf('other')
  const config = configOf(base)
  const docker = (change: Record<string, unknown>, more: readonly TarEntry[] = []): Buffer =>
    tar([
      { name: 'l/layer.tar', data: base },
      { name: 'c.json', data: config },
      ...more,
      {
        name: 'manifest.json',
        data: JSON.stringify([{ Config: 'c.json', RepoTags: ['a:b'], Layers: ['l/layer.tar'], ...change }]),
      },
    ])
  const blob = (bytes: Uint8Array): string => `blobs/sha256/${digestOf(bytes).slice(7)}`
  const describe = (bytes: Uint8Array, mediaType: string) => ({
    mediaType,
    digest: digestOf(bytes),
    size: bytes.length,
  })
  const oci = 'application/vnd.oci.image'
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: `${oci}.manifest.v1+json`,
      config: describe(Buffer.from(config), `${oci}.config.v1+json`),
      layers: [describe(base, `${oci}.layer.v1.tar`)],
    }),
  )
  const layout = (entries: readonly TarEntry[], annotations: object = {}): Buffer =>
    tar([
      ...entries,
      { name: 'oci-layout', data: '{}' },
      {
        name: 'index.json',
        data: JSON.stringify({
          schemaVersion: 2,
          manifests: [{ ...describe(manifest, `${oci}.manifest.v1+json`), annotations }],
        }),
      },
    ])
  const whole: readonly TarEntry[] = [
    { name: blob(manifest), data: manifest },
    { name: blob(Buffer.from(config)), data: config },
    { name: blob(base), data: base },
  ]
  const cases: ReadonlyArray<[string, Buffer, { code?: string; message?: RegExp }]> = [
    [
      'a name with ..',
      docker({}, [{ name: '../../evil', data: 'x' }]),
      { code: 'ERR_INVALID_CONTENT', message: /leads out of the archive/ },
    ],
    [
      'an absolute name',
      docker({}, [{ name: '/etc/evil', data: 'x' }]),
      { message: /leads out of the archive/ },
    ],
    [
      'a link to the host',
      docker({}, [{ name: 'm/layer.tar', type: '2', link: '/etc/shadow' }]),
      { message: /is a link/ },
    ],
    [
      'a link with ..',
      docker({}, [{ name: 'm/layer.tar', type: '2', link: '../../../etc/shadow' }]),
      { message: /leads out of the archive/ },
    ],
    [
      'a link in place of a document',
      docker({}, [{ name: 'x.json', type: '2', link: 'c.json' }]),
      { message: /is a link/ },
    ],
    [
      'a hard link',
      docker({}, [{ name: 'm/layer.tar', type: '1', link: 'l/layer.tar' }]),
      { message: /is not a file \(link\)/ },
    ],
    ['a device', docker({}, [{ name: 'sda', type: '4' }]), { message: /is not a file/ }],
    ['the same name twice', docker({}, [{ name: './c.json', data: config }]), { message: /occurs twice/ }],
    [
      'a very long name',
      docker({}, [{ name: 'x', pax: { path: 'y/'.repeat(400) }, data: 'x' }]),
      { message: /longer than 512/ },
    ],
    [
      'a link to nothing',
      docker({ Layers: ['m/layer.tar'] }, [{ name: 'm/layer.tar', type: '2', link: '../n/layer.tar' }]),
      { message: /it has no "m\/layer.tar"/ },
    ],
    [
      'a layer that the config does not name',
      docker({ Layers: ['l/layer.tar', 'l/layer.tar'] }),
      { message: /has 2 layers, but its config names 1/ },
    ],
    [
      'a layer with another diffID than the config says',
      docker({ Layers: ['m/layer.tar'] }, [{ name: 'm/layer.tar', data: layerOf('third') }]),
      { code: 'ERR_DIGEST_MISMATCH' },
    ],
    ['a layer that is no archive', docker({ Layers: ['c.json'] }), { code: 'ERR_INVALID_CONTENT' }],
    [
      'an invalid name',
      docker({ RepoTags: ['a:b', '../../evil'] }),
      { message: /is not the name of an image/ },
    ],
    [
      'a name that is a digest',
      docker({ RepoTags: [`a@${digestOf(base)}`] }),
      { message: /is a digest, not the name/ },
    ],
    ['names that are no list', docker({ RepoTags: 'a:b' }), { message: /is not a list/ }],
    [
      '10,001 entries',
      docker(
        {},
        Array.from({ length: 10_001 }, (_, i) => ({ name: `f${i}` })),
      ),
      { code: 'ERR_CONTENT_LIMIT' },
    ],
    [
      'a manifest.json that is not JSON',
      tar([{ name: 'manifest.json', data: '{' }]),
      { message: /its manifest.json is not JSON/ },
    ],
    ['neither of both', tar([{ name: 'x', data: 'x' }]), { message: /neither a manifest.json/ }],
    [
      'a bomb',
      gzipSync(tar([{ name: 'zeros', data: Buffer.alloc(100 << 20) }]), { level: 9 }),
      { code: 'ERR_CONTENT_LIMIT', message: /inflates to more than 1000 times/ },
    ],
    ['half of it', docker({}).subarray(0, 1500), { message: /not a tar archive, or damaged/ }],
    [
      'a blob under another’s digest',
      layout([whole[0]!, { name: blob(Buffer.from(config)), data: config.replace('"x"', '"y"') }, whole[2]!]),
      { code: 'ERR_DIGEST_MISMATCH' },
    ],
    [
      'a layer under another’s digest',
      layout([whole[0]!, whole[1]!, { name: blob(base), data: Buffer.from(base).fill(1, 0, 1) }]),
      { code: 'ERR_DIGEST_MISMATCH' },
    ],
    ['a layer that is not there', layout(whole.slice(0, 2)), { message: /it has no "blobs/ }],
    [
      'an annotation that is not a name',
      layout(whole, { 'io.containerd.image.name': 'a/../b:c' }),
      { message: /is not the name of an image/ },
    ],
    ['an image for another machine only', layout([]), { message: /has no image for this machine/ }],
  ]
  const { dir, store, load } = openStore(t)
  await load(Readable.from([oldArchive()]))
  const contents = (): object => ({
    images: store.catalog
      .images()
      .map((image) => image.digest)
      .sort(),
    names: [...store.catalog.names()],
    files: ['blobs/sha256', 'layers/sha256', 'tmp'].map((part) => readdirSync(join(dir, part)).sort()),
  })
  const before = contents()
  for (const [what, bytes, { code = /^ERR_/, message = /./ }] of cases) {
    await t.rejects(load(Readable.from([bytes])), { code, message }, what)
    t.strictSame(contents(), before, `${what}: nothing has changed`)
  }
})

t.test('a layout folder with a link that leads out of it', { skip }, async (t) => {
  const { load } = openStore(t)
  const layout = folder(t)
  writeFileSync(join(layout, 'oci-layout'), '{}')
  symlinkSync('/etc/passwd', join(layout, 'index.json'))
  await t.rejects(load(layout), { message: /is a link that leads out of it/ })
  rmSync(join(layout, 'index.json'))
  mkdirSync(join(layout, 'index.json'))
  await t.rejects(load(layout), { message: /is not a file/ })
  rmSync(join(layout, 'index.json'), { recursive: true })
  execFileSync('mkfifo', [join(layout, 'index.json')])
  await t.rejects(load(layout), { message: /is not a file/ })
})
