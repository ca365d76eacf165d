// What a function sees in its file system, and how an image can attack its setup: /proc, /dev, descriptors,
// masks, and root file systems that try to redirect a mount.

import {
  chmodSync,
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
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import koffi from 'koffi'
import t from 'tap'
import type { Mount, RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { MASKED_PATHS } from '../../services/runtime/spec.ts'
import { needsRoot, rigFor, type Rig } from '../helpers/container.ts'

type Change = (spec: RuntimeSpec) => RuntimeSpec
const asUser =
  (uid: number): Change =>
  (spec) => ({ ...spec, process: { ...spec.process, user: { uid, gid: uid, additionalGids: [] } } })
const withLayer =
  (layer: string, change: Change = (spec) => spec): Change =>
  (spec) =>
    change({ ...spec, root: { ...spec.root, layers: [...spec.root.layers, layer] } })
const withCwd =
  (cwd: string): Change =>
  (spec) => ({ ...spec, process: { ...spec.process, cwd } })
const withVolume =
  (destination: string, source: string): Change =>
  (spec) => ({
    ...spec,
    mounts: [
      ...spec.mounts,
      { destination, type: 'bind', source, options: ['nosuid', 'nodev'] } satisfies Mount,
    ],
  })

/** At most MAX files of the host's /proc that belong to no process. */
function kernelFiles(max: number): string[] {
  const found: string[] = []
  const walk = (directory: string): void => {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = `${directory}/${entry.name}`
      if (
        found.length >= max ||
        (directory === '/proc' && /^(?:\d+|self|thread-self|net|mounts)$/.test(entry.name))
      )
        continue
      if (entry.isDirectory()) walk(path)
      else if (entry.isFile()) found.push(path)
    }
  }
  walk('/proc')
  return found
}

t.test('visible parts of the kernel', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)

  t.test('no file of /proc that belongs to the kernel can be opened for writing', async (t) => {
    const files = kernelFiles(4000).filter(
      (path) => !MASKED_PATHS.some((masked) => path === masked || path.startsWith(`${masked}/`)),
    )
    t.ok(files.length > 100 && files.includes('/proc/sys/kernel/core_pattern'), `${files.length} files`)
    for (const uid of [0, 1000]) {
      const { text } = await rig.run(['opens', ...files, '/proc/sysrq-trigger'], asUser(uid))
      const lines = text.trim().split('\n')
      t.equal(lines.length, files.length + 1)
      t.same(
        lines.filter((line) => !/ E(?:ROFS|ACCES|PERM|NOENT|IO)$/.test(line)),
        [],
        `as ${uid}`,
      )
    }
  })
  t.test(
    'neither disks, memory, the kernel’s log nor any other device is visible, nor /sys with the cgroup files',
    async (t) => {
      const devices = readdirSync('/dev').map((name) => `/dev/${name}`)
      const { text } = await rig.run([
        'opens',
        ...devices,
        '/dev/mem',
        '/dev/kmsg',
        '/dev/fuse',
        '/dev/net/tun',
        '/sys/kernel',
        '/sys/fs/cgroup/cgroup.procs',
      ])
      const there = text
        .trim()
        .split('\n')
        .filter((line) => !line.endsWith(' ENOENT'))
        .map((line) => line.split(' ')[0]!)
      t.same(
        there.filter(
          (path) => !/^\/dev\/(?:null|zero|full|random|urandom|tty|shm|fd|stdin|stdout|stderr)$/.test(path),
        ),
        [],
      )
      for (const uid of [0, 1000])
        t.same((await rig.run(['list', '/dev'], asUser(uid))).text.trim().split('\n').toSorted(), [
          'fd',
          'full',
          'null',
          'random',
          'shm',
          'stderr',
          'stdin',
          'stdout',
          'tty',
          'urandom',
          'zero',
        ])
    },
  )
  t.test(
    'masked paths are empty, also when the image ships symbolic links and files in their place (CVE-2025-31133)',
    async (t) => {
      const layer = rig.layer()
      for (const path of MASKED_PATHS) {
        mkdirSync(join(layer, 'proc'), { recursive: true })
        symlinkSync('/proc/self/maps', join(layer, path))
      }
      mkdirSync(join(layer, 'dev'))
      writeFileSync(join(layer, 'dev', 'null'), 'not the null device')
      const masked = MASKED_PATHS.filter((path) => existsSync(path))
      t.ok(masked.length > 0)
      for (const path of masked) {
        const { text } = await rig.run(
          [statSync(path).isDirectory() ? 'list' : 'read', path],
          withLayer(layer),
        )
        t.equal(text, '', path)
      }
    },
  )
  t.test('the list of mounts reveals no path of the host but that of the device nodes', async (t) => {
    const lines = (await rig.run(['read', '/proc/self/mountinfo'])).text.trim().split('\n')
    const telling = lines.filter((line) => line.includes(rig.data))
    t.ok(lines.length > 5)
    t.same(
      telling
        .map((line) => line.split(' ')[4]!)
        .filter((target) => target !== '/dev' && !MASKED_PATHS.includes(target)),
      [],
    )
    t.match(
      lines.find((line) => line.includes(' overlay ')),
      /lowerdir=l0,upperdir=upper,workdir=work/,
      'layers by relative names',
    )
  })
})

t.test(
  'other users of the host cannot list what the runtime keeps on disk (CVE-2024-25621)',
  { skip: needsRoot },
  async (t) => {
    const rig = await rigFor(t)
    await rig.run(['echo'])
    for (const folder of ['run', ...readdirSync(join(rig.data, 'run')).map((name) => join('run', name))]) {
      t.equal(statSync(join(rig.data, folder)).mode & 0o066, 0, folder)
    }
  },
)

t.test('descriptors of the worker', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const outside = join(rig.data, 'outside')
  mkdirSync(outside)
  writeFileSync(join(outside, 'canary'), 'secret')
  const libc = koffi.load('libc.so.6')
  const open = libc.func('int open(const char *path, int flags)')
  const close = libc.func('int close(int fd)')
  // Node opens close-on-exec descriptors only; these are not.
  const fds: number[] = Array.from({ length: 500 }, () => open(outside, 0))
  t.teardown(() => {
    for (const fd of fds) close(fd)
  })

  t.test('500 descriptors that are not close-on-exec: the program has 0, 1 and 2', async (t) => {
    t.ok(fds.every((fd) => fd > 2))
    t.equal(
      (await rig.run(['list', '/proc/self/fd'])).text,
      '0\n1\n2\n3\n',
      '3 is the directory being listed',
    )
  })
  t.test('no working directory leads through them (CVE-2024-21626)', async (t) => {
    const layer = rig.layer()
    symlinkSync(`/proc/self/fd/${fds[0]}`, join(layer, 'link'))
    const cwds = [
      ...Array.from({ length: 58 }, (_, i) => `/proc/self/fd/${i + 3}`),
      `/proc/self/fd/${fds[0]}`,
      `/proc/1/fd/${fds[499]}`,
      '/link',
      '/proc/self/fd/../fd/10',
      '/proc/1/cwd',
      '/proc/self/cwd',
      '/proc/1/root',
      '/proc/thread-self/root',
    ]
    for (const cwd of cwds) {
      const outcome = await rig.run(['list', '.'], withLayer(layer, withCwd(cwd))).then(
        (result) => result.text,
        (err: { code: string }) => err.code,
      )
      t.notMatch(outcome, /canary/, cwd)
      t.ok(outcome === 'ERR_INVALID_ROOTFS' || outcome.includes('probe\n'), `${cwd}: ${outcome}`)
    }
  })
  t.test(
    'its environment and its memory cannot be read, and no process of the host is visible',
    async (t) => {
      t.same(
        (await rig.run(['list', '/proc'])).text.split('\n').filter((name) => /^\d+$/.test(name)),
        ['1'],
      )
      t.equal((await rig.run(['read', `/proc/${process.pid}/environ`])).text, 'ENOENT\n')
      t.equal((await rig.run(['read', '/proc/1/environ'])).text, 'PATH=/\0A=1\0')
    },
  )
})

/** An image's file system by path: a link's target, 'file', 'fifo' or 'folder'. */
type Tree = Readonly<Record<string, string>>

/** A layer with TREE, and with a folder at the path of OUTSIDE on the host. */
function plant(rig: Rig, tree: Tree, outside: string): string {
  const layer = rig.layer()
  mkdirSync(join(layer, outside), { recursive: true })
  for (const [path, what] of Object.entries(tree)) {
    if (what === 'folder') mkdirSync(join(layer, path))
    else if (what === 'file') writeFileSync(join(layer, path), '')
    else if (what === 'fifo') execFileSync('mkfifo', [join(layer, path)])
    else symlinkSync(what, join(layer, path))
  }
  return layer
}

t.test('a root file system that leads outside', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const outside = mkdtempSync('/var/tmp/wherry-outside-')
  t.teardown(() => rmSync(outside, { recursive: true, force: true }))
  const source = join(rig.data, 'volume')
  mkdirSync(source)
  for (const folder of [outside, source]) chmodSync(folder, 0o777)
  writeFileSync(join(outside, 'canary'), 'secret')
  const mounts = (): string[] =>
    readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(rig.data) || line.includes(outside))

  const inside = /^(?:ok|probe)/
  const cases: ReadonlyArray<readonly [what: string, tree: Tree, target: string, expected: RegExp]> = [
    ['/proc is a link (CVE-2019-19921)', { proc: outside }, '/v', /ERR_INVALID_ROOTFS/],
    ['/proc is a link to itself', { proc: 'proc' }, '/v', /ERR_INVALID_ROOTFS/],
    ['/proc is a file', { proc: 'file' }, '/v', /ERR_INVALID_ROOTFS/],
    ['/dev is a link (CVE-2026-41579, CVE-2026-47766)', { dev: outside }, '/v', /ERR_INVALID_ROOTFS/],
    ['/dev is a link into /proc', { dev: '/proc/self/cwd' }, '/v', /ERR_INVALID_ROOTFS/],
    ['/dev is a pipe', { dev: 'fifo' }, '/v', /ERR_INVALID_ROOTFS/],
    [
      '/dev has links of its own',
      { dev: 'folder', 'dev/shm': outside, 'dev/null': `${outside}/canary` },
      '/v',
      inside,
    ],
    ['/tmp is a link', { tmp: outside }, '/v', inside],
    ['/tmp is a link upwards', { tmp: '../../../../../../../..' + outside }, '/v', inside],
    ['/tmp is a link to /proc', { tmp: '/proc' }, '/v', /ERR_INVALID_ROOTFS.*leads to \/proc/],
    ['/tmp is a link to /proc/self', { tmp: '/proc/self' }, '/v', /ERR_INVALID_ROOTFS.*leads to \/proc/],
    ['/tmp is a magic link', { tmp: '/proc/self/cwd' }, '/v', /ERR_INVALID_ROOTFS/],
    ['/tmp is a pipe', { tmp: 'fifo' }, '/v', /ERR_INVALID_ROOTFS/],
    ['/etc is a link', { etc: outside }, '/etc/v', inside],
    ['the target is a link (CVE-2021-30465)', { v: outside }, '/v', inside],
    ['the target is a link upwards', { v: `../../../..${outside}` }, '/v', inside],
    ['the target lies behind two links', { a: 'b', b: outside }, '/a/v', inside],
    ['the target lies behind a link upwards', { up: '../../../..' }, `/up${outside}`, inside],
    [
      'the target is a link to a kernel setting (CVE-2019-16884, CVE-2023-27561, CVE-2023-28642, CVE-2025-52881)',
      { v: '/proc/sys/kernel' },
      '/v',
      /ERR_INVALID_ROOTFS.*leads to \/proc/,
    ],
    [
      'the target is a link to the process’s attributes',
      { v: '/proc/self/attr' },
      '/v',
      /ERR_INVALID_ROOTFS.*leads to \/proc/,
    ],
    ['the target is a magic link', { v: '/proc/self/root' }, '/v', /ERR_INVALID_ROOTFS/],
    ['the target is a pipe', { v: 'fifo' }, '/v', /ERR_INVALID_ROOTFS/],
    ['the target is a file', { v: 'file' }, '/v', /ERR_INVALID_ROOTFS/],
    ['the target is a circle', { v: 'w', w: 'v' }, '/v', /ERR_INVALID_ROOTFS/],
    ['the target leads nowhere', { v: '/no/such' }, '/v', inside],
  ]
  for (const [what, tree, target, expected] of cases) {
    t.test(`${what}: nothing outside is touched (CVE-2024-45310)`, async (t) => {
      const change = withLayer(plant(rig, tree, outside), withVolume(target, source))
      for (const verb of [
        ['list', '/'],
        ['write', `${target}/x`, '1'],
        ['write', '/tmp/x', '1'],
      ]) {
        const outcome = await rig.run(verb, change).then(
          (result) => result.text,
          (err: { code: string; message: string }) => `${err.code} ${err.message}`,
        )
        t.notMatch(outcome, /canary/)
        t.match(outcome.replace(/^(?:.+\n)*probe\n/, 'probe\n'), expected, `${verb.join(' ')}: ${outcome}`)
      }
      t.same(readdirSync(outside), ['canary'])
      t.equal(readFileSync(join(outside, 'canary'), 'utf8'), 'secret')
    })
  }
  t.test('none of them is mounted on the host', async (t) => {
    t.same(mounts(), [])
  })
})
