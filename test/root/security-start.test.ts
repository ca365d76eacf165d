// What an image, its command or a neighbour can do while a container is being started: lead the kernel
// to the host's files, hold up the worker, or take it along when memory runs out.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, closeSync, copyFileSync, mkdirSync, openSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import { parseDeployment } from '../../services/contract/function-spec.ts'
import type { Mount, RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { sweepDead } from '../../services/runtime/janitor.ts'
import { NATIVE_DIR, needsRoot, rigFor } from '../helpers/container.ts'

const VICTIM = fileURLToPath(new URL('../helpers/low-memory-start.ts', import.meta.url))

type Change = (spec: RuntimeSpec) => RuntimeSpec
const withArgs = (...args: string[]): Change => spec => ({ ...spec, process: { ...spec.process, args } })
const withLayer = (layer: string, change: Change): Change => spec => change({ ...spec, root: { ...spec.root, layers: [...spec.root.layers, layer] } })
const volume = (destination: string, source: string): Mount => ({ destination, type: 'bind', source, options: ['nosuid', 'nodev'] })
const withVolume = (destination: string, source: string, change: Change): Change => spec => change({ ...spec, mounts: [...spec.mounts, volume(destination, source)] })

t.test('the command is looked up in the container only', { skip: needsRoot }, async t => {
  const rig = await rigFor(t)

  t.test('not through a directory that the worker has open (CVE-2024-21626, by the program instead of the cwd)', async t => {
    const outside = join(rig.data, 'outside')
    mkdirSync(outside)
    copyFileSync(join(NATIVE_DIR, 'probe'), join(outside, 'probe'))
    const fd = openSync(outside, 'r')
    t.teardown(() => closeSync(fd))
    const layer = rig.layer()
    writeFileSync(join(layer, 'script'), `#!/proc/self/fd/${fd}/probe echo\n`)
    chmodSync(join(layer, 'script'), 0o755)
    symlinkSync(`/proc/self/fd/${fd}`, join(layer, 'link'))
    for (const program of [`/proc/self/fd/${fd}/probe`, `/proc/self/fd/${fd}/../outside/probe`, '/link/probe', '/script']) {
      await t.rejects(rig.run([], withLayer(layer, withArgs(program, 'echo', 'ran'))), { name: 'StartError' }, program)
    }
  })

  t.test('not as the worker’s own program (CVE-2019-5736)', async t => {
    // With its libraries in the image the host's Node would really run, so a refusal is not for want of them.
    const { sharedObjects } = process.report.getReport() as { sharedObjects: string[] }
    const layer = rig.layer()
    for (const library of sharedObjects.filter(path => /\.so(\.|$)/.test(path) && path.startsWith('/'))) {
      for (const folder of ['lib64', basename(dirname(library)), 'lib/x86_64-linux-gnu', 'lib/aarch64-linux-gnu', 'lib']) {
        mkdirSync(join(layer, folder), { recursive: true })
        copyFileSync(library, join(layer, folder, basename(library)))
      }
    }
    symlinkSync('/proc/self/exe', join(layer, 'link'))
    const roomy: Change = spec => ({ ...spec, linux: { ...spec.linux, resources: { ...spec.linux.resources, memory: { limit: 256 << 20 } } } })
    for (const program of ['/proc/self/exe', '/link']) {
      await t.rejects(rig.run([], withLayer(layer, spec => roomy(withArgs(program, '--version')(spec)))), { name: 'StartError' }, program)
    }
  })
})

t.test('mounts', { skip: needsRoot }, async t => {
  const rig = await rigFor(t)
  t.test('a volume behind a link of the image does not supply what masks are made of (CVE-2025-31133)', async t => {
    const source = join(rig.data, 'volume')
    mkdirSync(source)
    writeFileSync(join(source, 'null'), 'not the null device')
    const layer = rig.layer()
    symlinkSync('/dev', join(layer, 'data'))
    const { text } = await rig.run(['read', '/proc/timer_list'], withLayer(layer, withVolume('/data', source, spec => spec)))
    t.equal(text, '', 'still the null device')
  })
})

t.test('a volume below another volume is refused: who has the outer one could take it off (rmdir) and put a folder there', async t => {
  const deploy = (...targets: string[]) => () => parseDeployment({ service: 'f', image: 'busybox', volumes: targets.map((target, i) => ({ name: `v${i}`, target })) })
  t.throws(deploy('/v', '/v/sub'), InvalidRequest)
  t.throws(deploy('/v/sub/deeper', '/v'), InvalidRequest)
  t.throws(deploy('/v', '//v/./sub'), InvalidRequest)
  t.doesNotThrow(deploy('/v', '/volume'))
})

t.test('a container that runs out of memory before its program runs does not take the worker along', { skip: needsRoot }, async t => {
  const child = fork(VICTIM)
  let data = ''
  child.on('message', (message: { data?: string }) => { data = message.data ?? data })
  const [code, signal] = await once(child, 'exit') as [number | null, string | null]
  if (data !== '') {
    await sweepDead(join(data, 'run'))
    rmSync(data, { recursive: true, force: true })
  }
  t.equal(signal, null, 'the kernel kills all processes that share the memory of its victim (oom_kill.c)')
  t.equal(code, 0)
})
