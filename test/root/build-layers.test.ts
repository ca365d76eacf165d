// What wherry build stores: layers that are the same packed and unpacked, and nothing of a build that failed
// or was aborted.

import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { createLayerTool } from '../../services/build/layer-tool.ts'
import { createLayerMaker } from '../../services/build/layers.ts'
import type { BuildEvent } from '../../services/build/progress.ts'
import { pushIndex } from '../../services/images/assemble.ts'
import { registrySource } from '../../services/images/copy.ts'
import { hostPlatform } from '../../services/registry/platform.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { createImageStore } from '../../services/images/store.ts'
import { startUnpacker } from '../../services/images/unpack.ts'
import { BASE, buildRig, type BuildRig, type Built } from '../helpers/build.ts'
import { isKernelAtLeast } from '../../services/runtime/kernel.ts'
import { takeCensus } from '../helpers/census.ts'
import { needsRoot, NATIVE_DIR } from '../helpers/container.ts'
import { gzipLayer } from '../helpers/layer.ts'
import { noRegistry, startRegistry } from '../helpers/registry.ts'

const onBase = (...lines: readonly string[]): string => `${BASE}${lines.join('\n')}\n`

/** One line for each file in DIR, with its lstat(2) data and contents. */
function walk(dir: string, path = ''): string[] {
  return readdirSync(join(dir, path))
    .sort()
    .flatMap((name) => {
      const below = join(path, name)
      const file = join(dir, below)
      const { mode, uid, gid, size, rdev, nlink, mtimeNs } = lstatSync(file, { bigint: true })
      const isFolder = lstatSync(file).isDirectory()
      const content = lstatSync(file).isSymbolicLink()
        ? readlinkSync(file)
        : lstatSync(file).isFile()
          ? createHash('sha256').update(readFileSync(file)).digest('hex')
          : ''
      // overlayfs links its markers together; their link count and time are meaningless.
      if (lstatSync(file).isCharacterDevice()) return [`${below} hidden ${rdev}`]
      const line = [
        below,
        mode.toString(8),
        uid,
        gid,
        isFolder ? '' : size,
        isFolder ? '' : nlink,
        mtimeNs,
        content,
      ].join(' ')
      return isFolder ? [line, ...walk(dir, below)] : [line]
    })
}

async function digestOf(stream: Readable): Promise<string> {
  const hash = createHash('sha256')
  for await (const piece of stream) hash.update(piece as Buffer)
  return `sha256:${hash.digest('hex')}`
}

/** Unpacks the blob of BUILT's last layer as a pull would.  Returns the folder. */
async function unpackLast(t: Test, rig: BuildRig, built: Built): Promise<string> {
  const folder = join(rig.data, 'unpacked')
  mkdirSync(folder)
  const { digest } = rig.store.catalog.image(built.image.digest)!.layers.at(-1)!
  const unpacker = startUnpacker({ nativeDir: NATIVE_DIR, directory: folder, layer: digest })
  unpacker.stdin.end(
    execFileSync('zcat', ['-f'], { input: readFileSync(rig.store.blobPath(digest)), maxBuffer: 1 << 28 }),
  )
  t.match(await unpacker.result, { ok: true })
  return folder
}

async function sameTwice(t: Test, rig: BuildRig): Promise<void> {
  const long = 'x'.repeat(120)
  const built = await rig.build(
    onBase(
      `RUN mkdir -p /low/deep /gone /old/a && touch /low/deep/f /gone/f /old/a/b && mkdir /${long}`,
      `RUN rm -r /gone /low/deep && mkdir /low/deep && touch /low/deep/new && rm /old/a/b && echo x >/f && ln /f /hard && ln -s ${long}/${long} /soft && mkfifo /p && chmod 4755 /f && chown -h 3:4 /soft && touch -d "1999-01-02 03:04:05" /f && echo y >/${long}/${long} && mkdir -p /tmp/d && chmod 1777 /tmp/d`,
    ),
  )
  const folder = rig.layers(built).at(-1)!
  const { diffId } = rig.store.catalog.image(built.image.digest)!.layers.at(-1)!
  const unpacked = await unpackLast(t, rig, built)
  t.strictSame(walk(unpacked), walk(folder), 'file by file')
  t.ok(
    walk(folder).some((line) => line.startsWith('gone ')),
    'with the marker of a deletion',
  )
  const tool = createLayerTool({ nativeDir: NATIVE_DIR, signal: new AbortController().signal })
  for (const path of [folder, unpacked]) {
    const { stdout, ended } = tool.pack(path, rig.layers(built).slice(0, -1), undefined)
    t.equal(await digestOf(stdout), diffId, 'packed again it is the same archive, including attributes')
    await ended
  }
  const tree = await rig.tree(built)
  t.notOk(tree.has('gone'))
  t.strictSame(
    [...tree.keys()].filter((path) => path.startsWith('low')),
    ['low', 'low/deep', 'low/deep/new'],
    'a recreated folder hides the old one',
  )
}

async function umasks(t: Test, rig: BuildRig): Promise<void> {
  const lines = [
    'FROM base',
    'COPY <<EOF /h',
    'h',
    'EOF',
    'COPY --link f /linked/',
    'RUN echo "u:x:7:7::/:/bin/sh" >/etc/passwd',
    'USER u',
    // Secrets are on a tmpfs, whose ids can be mapped since Linux 6.3.
    ...(isKernelAtLeast(6, 3)
      ? ['RUN --mount=type=secret,id=s,mode=0444 cat /run/secrets/s >/dev/null']
      : []),
    'RUN --mount=type=bind,source=f,target=/a/b/f cat /h /linked/f /etc/resolv.conf /etc/hosts /a/b/f >/dev/null',
  ]
  const build = async (umask: number) => {
    const before = process.umask(umask)
    t.teardown(() => {
      process.umask(before)
    })
    return await rig.build(
      `${lines.join('\n')}\n`,
      { f: 'f' },
      { secrets: new Map([['s', Buffer.from('s')]]), usesCache: false, clampSeconds: 1_700_000_000 },
    )
  }
  const open = await build(0)
  const closed = await build(0o077)
  t.equal(closed.image.digest, open.image.digest)
  const scratch = await rig.build('FROM scratch\nCOPY f /\n', { f: randomBytes(8) })
  for (const layer of [...rig.layers(closed), ...rig.layers(scratch)])
    t.equal(lstatSync(layer).mode & 0o777, 0o755)
}

async function platforms(t: Test, rig: BuildRig): Promise<void> {
  const host = await startRegistry(t)
  const registry = createRegistryClient()
  t.teardown(() => registry.close())
  const made = async (architecture: string) => {
    const ref = parseReference(`${host}/${architecture}`)
    return {
      source: registrySource(registry, ref),
      digest: await pushImage({
        registry,
        reference: ref,
        config: { architecture, config: { Env: [`A=${architecture}`] } },
        layers: [gzipLayer([{ name: 'arch', data: architecture }])],
      }),
    }
  }
  const own = hostPlatform().architecture
  const parts = [await made(own), await made('s390x')]
  const { digest: index } = await pushIndex({ registry, to: parseReference(`${host}/base`), parts })
  const other = { platform: { os: 'linux', architecture: 's390x' } }
  const copies = `FROM --platform=$BUILDPLATFORM base AS builder\nCOPY --from=${host}/base arch /own\nRUN cat /own >/seen\nFROM ${host}/base\nCOPY --from=builder /seen /seen\nCOPY --from=${host}/base arch /copied\n`

  await t.test(
    'start from the image for them in an index, and copy from stages for their platform',
    async (t) => {
      const built = await rig.build(copies, {}, other)
      t.match(await rig.config(built), { architecture: 's390x', config: { Env: ['A=s390x', /^PATH=/] } })
      for (const [path, text] of [
        ['/arch', 's390x'],
        ['/copied', 's390x'],
        ['/seen', own],
      ] as const)
        t.equal(await rig.text(built, path), text)
      t.equal((await rig.build(copies, {}, other)).image.digest, built.image.digest)
    },
  )

  await t.test('and this machine keeps its own image of the same name', async (t) => {
    t.equal(rig.store.catalog.image(index)?.manifestDigest, parts[0]!.digest)
    t.equal(await rig.text(await rig.build(`FROM ${host}/base@${index}\n`), '/arch'), own)
    t.equal(rig.store.catalog.image(parts[1]!.digest)?.manifestDigest, parts[1]!.digest)
  })

  await t.test('a RUN for another platform fails, and a base image for another is rejected', async (t) => {
    await t.rejects(rig.build(`FROM ${host}/base\nRUN true\n`, {}, other), {
      message:
        /Dockerfile:2: programs for linux\/s390x cannot run on this machine, which is linux\/.*; only stages without RUN/,
    })
    await t.rejects(rig.build('FROM base\nCOPY a /\n', { a: '' }, other), {
      path: 'Dockerfile:1',
      message: `the image is for linux/${own}, the requested platform is linux/s390x`,
    })
    await t.rejects(
      rig.build(`FROM ${host}/base\n`, {}, { platform: { os: 'linux', architecture: 'arm', variant: 'v7' } }),
      { message: /is not available for linux\/arm; it is for/ },
    )
    await t.rejects(rig.build(`FROM ${host}/s390x\n`), {
      message: /the image is for linux\/s390x, this machine is/,
    })
  })
}

async function failures(t: Test, rig: BuildRig): Promise<void> {
  await t.test('a failed step has its line and last output', async (t) => {
    await t.rejects(rig.build(onBase('RUN true', 'RUN echo out; echo err >&2; exit 3')), {
      name: 'BuildStepFailed',
      path: 'Dockerfile:3',
      message: 'exited with code 3',
      output: ['out', 'err'],
      excerpt: />    3 \| RUN echo out/,
    })
    await t.rejects(rig.build(onBase('RUN ["/nothing"]')), {
      message: /Dockerfile:2: command "\/nothing" is not in the image/,
    })
    await t.rejects(rig.build(onBase('USER ghost', 'RUN true')), {
      message: /Dockerfile:3: .*no user "ghost"/,
    })
    await t.rejects(
      rig.build(onBase('RUN x=x; while true; do x=$x$x; done'), {}, { memoryBytes: 64 << 20 }),
      { message: /exceeded its memory limit of 64Mi.*--memory/ },
    )
    await t.rejects(
      rig.build('FROM base\nRUN true', {}, { platform: { os: 'linux', architecture: 's390x' } }),
      { message: /s390x/ },
    )
    const other = await rig.build(
      'FROM scratch\nCOPY a /',
      { a: 'a' },
      { platform: { os: 'linux', architecture: 's390x' } },
    )
    t.equal((await rig.config(other)).architecture, 's390x', 'without RUN it can be built')
    await t.rejects(
      rig.build('FROM scratch\nRUN true', {}, { platform: { os: 'linux', architecture: 's390x' } }),
      { message: /cannot run on this machine/ },
    )
  })

  await t.test('a file whose name means "deleted" in a layer is rejected', async (t) => {
    await t.rejects(rig.build(onBase('RUN touch /.wh.bin')), {
      message: /".wh.bin" has a name that layers use/,
    })
    await t.rejects(rig.build(onBase('COPY . /'), { '.wh.etc': '' }), {
      message: /".wh.etc" has a name that layers use/,
    })
  })

  await t.test('a step cannot create overlayfs markers', async (t) => {
    const built = await rig.build(
      onBase('RUN mkdir /d && mknod /d/etc c 0 0 2>&- || echo no node', 'RUN touch /d/ok'),
    )
    t.match(built.output, /no node/)
    t.ok((await rig.tree(built)).has('etc'))
  })

  await t.test('an aborted build ends its container and leaves nothing behind', async (t) => {
    const before = takeCensus(rig.data)
    const stopping = new AbortController()
    const onEvent = (event: BuildEvent): void => {
      if (event.kind === 'output') stopping.abort(new Error('enough'))
    }
    await t.rejects(
      rig.build(
        onBase('COPY a /a', 'RUN touch /half; echo started; sleep 4242'),
        { a: '' },
        { signal: stopping.signal, onEvent },
      ),
      { message: 'enough' },
    )
    t.strictSame(readdirSync(join(rig.data, 'images/tmp')), [], 'no draft')
    t.strictSame(
      readdirSync(join(rig.data, 'build/run')).filter((name) => name.startsWith('wherry-')),
      [],
    )
    const { cgroups, mounts, children } = takeCensus(rig.data)
    t.strictSame(
      { cgroups, mounts, children },
      { cgroups: before.cgroups, mounts: before.mounts, children: before.children },
    )
    t.equal(
      rig.store.catalog.images().filter((image) => image.names.includes('docker.io/library/stopped:latest'))
        .length,
      0,
    )
  })
}

t.test('a build', { skip: needsRoot }, async (t) => {
  const rig = await buildRig(t)
  await t.test('stores layers that are the same packed and unpacked', (t) => sameTwice(t, rig))
  await t.test('is the same, and open to all users of the image, whatever the umask', (t) => umasks(t, rig))
  await t.test('for other platforms', { skip: noRegistry }, (t) => platforms(t, rig))
  await t.test('leaves nothing behind when it fails', (t) => failures(t, rig))
})

t.test(
  'a disk with room for a step’s files but not for their layer is reported as full, and nothing remains',
  { skip: needsRoot },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'wherry-full-'))
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m,mode=0700', 'tmpfs', folder])
    t.teardown(() => {
      execFileSync('umount', [folder])
      rmSync(folder, { recursive: true })
    })
    const store = createImageStore({ dir: join(folder, 'images') })
    const tool = createLayerTool({ nativeDir: NATIVE_DIR, signal: new AbortController().signal })
    const maker = createLayerMaker({ store, tool, clampSeconds: undefined })
    const made = maker.make([], async (draft) => {
      writeFileSync(join(draft, 'upper/large'), randomBytes(9 << 20))
    })
    await t.rejects(made, { errno: 'ENOSPC', message: /no space is left on the disk of the image store/ })
    store.close()
    t.strictSame(
      ['blobs/sha256', 'layers/sha256', 'tmp'].flatMap((part) => readdirSync(join(folder, 'images', part))),
      [],
    )
  },
)
