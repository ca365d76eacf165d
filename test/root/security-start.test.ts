// What an image, its command or a neighbour can try while a container starts: redirect the kernel to the
// host's files, block the worker, or get it killed when memory runs out.

import { execFileSync, fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import { parseDeployment } from '../../services/contract/deployment.ts'
import type { Mount, RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { sweepDead } from '../../services/runtime/janitor.ts'
import { NATIVE_DIR, needsRoot, rigFor } from '../helpers/container.ts'

const VICTIM = fileURLToPath(new URL('../helpers/low-memory-start.ts', import.meta.url))

type Change = (spec: RuntimeSpec) => RuntimeSpec
const withArgs =
  (...args: string[]): Change =>
  (spec) => ({ ...spec, process: { ...spec.process, args } })
const withLayer =
  (layer: string, change: Change): Change =>
  (spec) =>
    change({ ...spec, root: { ...spec.root, layers: [...spec.root.layers, layer] } })
const volume = (destination: string, source: string): Mount => ({
  destination,
  type: 'bind',
  source,
  options: ['nosuid', 'nodev'],
})
const withVolume =
  (destination: string, source: string, change: Change): Change =>
  (spec) =>
    change({ ...spec, mounts: [...spec.mounts, volume(destination, source)] })

t.test('the command is looked up in the container only', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)

  t.test(
    'not through a directory that the worker has open (CVE-2024-21626, by the program instead of the cwd)',
    async (t) => {
      const outside = join(rig.data, 'outside')
      mkdirSync(outside)
      copyFileSync(join(NATIVE_DIR, 'probe'), join(outside, 'probe'))
      const fd = openSync(outside, 'r')
      t.teardown(() => closeSync(fd))
      const layer = rig.layer()
      writeFileSync(join(layer, 'script'), `#!/proc/self/fd/${fd}/probe echo\n`)
      chmodSync(join(layer, 'script'), 0o755)
      symlinkSync(`/proc/self/fd/${fd}`, join(layer, 'link'))
      for (const program of [
        `/proc/self/fd/${fd}/probe`,
        `/proc/self/fd/${fd}/../outside/probe`,
        '/link/probe',
        '/script',
      ]) {
        await t.rejects(
          rig.run([], withLayer(layer, withArgs(program, 'echo', 'ran'))),
          { name: 'StartError' },
          program,
        )
      }
    },
  )

  const roomy: Change = (spec) => ({
    ...spec,
    linux: { ...spec.linux, resources: { ...spec.linux.resources, memory: { limit: 256 << 20 } } },
  })
  /** A layer with the libraries of the host's Node, so that a refusal is not due to missing libraries. */
  function withLibraries(): string {
    const { sharedObjects } = process.report.getReport() as { sharedObjects: string[] }
    const layer = rig.layer()
    for (const library of sharedObjects.filter((path) => /\.so(\.|$)/.test(path) && path.startsWith('/'))) {
      for (const folder of [
        'lib64',
        basename(dirname(library)),
        'lib/x86_64-linux-gnu',
        'lib/aarch64-linux-gnu',
        'lib',
      ]) {
        mkdirSync(join(layer, folder), { recursive: true })
        copyFileSync(library, join(layer, folder, basename(library)))
      }
    }
    return layer
  }
  const sumOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

  t.test('not as the worker’s own program (CVE-2019-5736)', async (t) => {
    const layer = withLibraries()
    symlinkSync('/proc/self/exe', join(layer, 'link'))
    for (const program of ['/proc/self/exe', '/link']) {
      await t.rejects(
        rig.run(
          [],
          withLayer(layer, (spec) => roomy(withArgs(program, '--version')(spec))),
        ),
        { name: 'StartError' },
        program,
      )
    }
  })
  t.test(
    'a script with the worker’s program as its interpreter can run it and not write it (CVE-2019-5736)',
    async (t) => {
      const layer = withLibraries()
      const before = sumOf(process.execPath)
      writeFileSync(
        join(layer, 'script.cjs'),
        `#!/proc/self/exe
      const { chmodSync, openSync } = require('node:fs')
      const tried = ['/proc/self/exe', '/proc/1/exe'].flatMap(path => [() => openSync(path, 'r+'), () => openSync(path, 'a'), () => chmodSync(path, 0o777)])
      for (let i = 0; i < 1000; i++) for (const attempt of tried) try { attempt(); console.log('let through') } catch (err) { if (i === 0) console.log(err.code) }
    `,
      )
      chmodSync(join(layer, 'script.cjs'), 0o755)
      const { text } = await rig.run(
        [],
        withLayer(layer, (spec) => roomy(withArgs('/script.cjs')(spec))),
        { timeoutMs: 120_000 },
      )
      t.match(text, /^(?:E(?:TXTBSY|ACCES|PERM|ROFS)\n){6}$/)
      t.equal(sumOf(process.execPath), before)
      t.equal(
        (await rig.run(['opens', '/proc/1/exe', '/proc/self/exe'])).text,
        '/proc/1/exe ETXTBSY\n/proc/self/exe ETXTBSY\n',
        'its own program, in its own layer',
      )
    },
  )
})

t.test('an error names a command that cannot be run and the reason', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const layer = rig.layer()
  const put = (name: string, content: string | Uint8Array, mode = 0o755): void => {
    writeFileSync(join(layer, name), content)
    chmodSync(join(layer, name), mode)
  }
  const probe = readFileSync(join(NATIVE_DIR, 'probe'))
  const foreign = Buffer.from(probe)
  foreign.writeUInt16LE(8, 18) // e_machine: MIPS
  put('text', 'no program\n')
  put('empty', '')
  put('plain', '#!/probe\n', 0o644)
  put('script', '#!/no/such/interpreter\n')
  put('circle', '#!/circle\n')
  put('foreign', foreign)
  put('cut', probe.subarray(0, 200))
  mkdirSync(join(layer, 'folder'))
  symlinkSync('self', join(layer, 'self'))
  symlinkSync('nowhere', join(layer, 'dangling'))
  execFileSync('mkfifo', ['-m', '755', join(layer, 'pipe')])
  const cases: ReadonlyArray<readonly [program: string, code: string]> = [
    ...['/script', '/dangling', '/probe/below', '/' + 'x'.repeat(4096), '/' + 'x'.repeat(256)].map(
      (program) => [program, 'ERR_COMMAND_NOT_FOUND'] as const,
    ),
    ...[
      '/text',
      '/empty',
      '/plain',
      '/circle',
      '/foreign',
      '/cut',
      '/folder',
      '/self',
      '/pipe',
      '/',
      '.',
      '/dev/null',
      '/proc/self/maps',
    ].map((program) => [program, 'ERR_COMMAND_NOT_EXECUTABLE'] as const),
  ]
  for (const [program, code] of cases) {
    await t.rejects(
      rig.run([], withLayer(layer, withArgs(program))),
      { name: 'StartError', code, message: `command "${program.slice(0, 256)}` },
      program.slice(0, 40),
    )
  }
  const long = 'x'.repeat(100_000)
  await t.rejects(
    rig.run(['echo', 'x'.repeat(132_000)]),
    { code: 'ERR_COMMAND_NOT_EXECUTABLE', message: /too long for the kernel/ },
    'one argument above 128 KiB',
  )
  await t.rejects(
    rig.run(['echo', ...Array.from({ length: 30 }, () => long)]),
    { code: 'ERR_COMMAND_NOT_EXECUTABLE', message: /too long for the kernel/ },
    '3 MiB of arguments',
  )
  await t.rejects(
    rig.run(['echo', ...Array.from({ length: 50 }, () => long)]),
    { name: 'StartError', message: /too large: \d+ bytes, at most \d+/ },
    '5 MiB',
  )
  for (const cwd of [
    '/probe',
    '/probe/below',
    '/pipe',
    '/self',
    '/proc/none',
    '/dev/none',
    '/' + 'x'.repeat(256),
  ]) {
    await t.rejects(
      rig.run(
        ['cwd'],
        withLayer(layer, (spec) => ({ ...spec, process: { ...spec.process, cwd } })),
      ),
      { code: 'ERR_INVALID_ROOTFS', message: `working directory "${cwd}" cannot be entered (E` },
      cwd.slice(0, 40),
    )
  }
  t.equal(
    (
      await rig.run(
        ['cwd'],
        withLayer(layer, (spec) => ({ ...spec, process: { ...spec.process, cwd: '/dangling' } })),
      )
    ).text,
    '/nowhere\n',
    'the target of a link is created inside',
  )
  t.equal(rig.runtime.running, 0)
  t.equal(
    (await rig.run(['echo', 'still here'])).text,
    'still here\n',
    'failed starts leave nothing in the way',
  )
})

t.test('mounts', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test(
    'a volume behind a link of the image does not supply the source of masks (CVE-2025-31133)',
    async (t) => {
      const source = join(rig.data, 'volume')
      mkdirSync(source)
      writeFileSync(join(source, 'null'), 'not the null device')
      const layer = rig.layer()
      symlinkSync('/dev', join(layer, 'data'))
      const { text } = await rig.run(
        ['read', '/proc/timer_list'],
        withLayer(
          layer,
          withVolume('/data', source, (spec) => spec),
        ),
      )
      t.equal(text, '', 'still the null device')
    },
  )
})

t.test(
  'a volume below another volume is refused: a writer of the outer one could replace the mount point (rmdir) by a folder',
  async (t) => {
    const deploy =
      (...targets: string[]) =>
      () =>
        parseDeployment({
          service: 'f',
          image: 'busybox',
          volumes: targets.map((target, i) => ({ name: `v${i}`, target })),
        })
    t.throws(deploy('/v', '/v/sub'), InvalidRequest)
    t.throws(deploy('/v/sub/deeper', '/v'), InvalidRequest)
    t.throws(deploy('/v', '//v/./sub'), InvalidRequest)
    t.doesNotThrow(deploy('/v', '/volume'))
  },
)

t.test(
  'a container that runs out of memory before its program runs does not kill the worker',
  { skip: needsRoot },
  async (t) => {
    const child = fork(VICTIM)
    let data = ''
    child.on('message', (message: { data?: string }) => {
      data = message.data ?? data
    })
    const [code, signal] = (await once(child, 'exit')) as [number | null, string | null]
    if (data !== '') {
      await sweepDead(join(data, 'run'))
      rmSync(data, { recursive: true, force: true })
    }
    t.equal(signal, null, 'the kernel kills all processes that share the memory of its victim (oom_kill.c)')
    t.equal(code, 0)
  },
)
