// What a container can do to the folders of its image, with both ways of mounting its root: by itself, and by
// the worker where a tmpfs keeps no user.* attributes (Linux before 6.6). The second way works on all
// kernels.

import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { startUnpacker } from '../../services/images/unpack.ts'
import { createCgroupPool } from '../../services/runtime/cgroup/pool.ts'
import { createCgroupDriver } from '../../services/runtime/cgroup/cgroup.ts'
import { createRuntime } from '../../services/runtime/container.ts'
import { claimIdRanges } from '../../services/runtime/id-ranges.ts'
import { instanceName } from '../../services/runtime/janitor.ts'
import { openNative } from '../../services/runtime/native.ts'
import { compileSeccomp } from '../../services/runtime/seccomp.ts'
import { FUNCTION_PROFILE } from '../../services/runtime/seccomp-profile.ts'
import { createSlots } from '../../services/runtime/slots.ts'
import { takeCensus } from '../helpers/census.ts'
import { NATIVE_DIR, needsRoot, probeSpec, SLOWNESS, runOnce } from '../helpers/container.ts'
import { tar, type TarEntry } from '../helpers/layer.ts'
import { newFolder } from '../helpers/worker-process.ts'

const BUSYBOX = '/bin/busybox'
const APPLETS = ['sh', 'cat', 'find', 'ls', 'mkdir', 'mv', 'rm', 'rmdir', 'sort', 'stat', 'touch']
const MIB = 1 << 20
const skip = needsRoot || (existsSync(BUSYBOX) ? false : `needs ${BUSYBOX} (Debian package busybox-static)`)
const native = openNative(NATIVE_DIR)

/** Layers with all kinds of entries, lowest first. */
const layersOf = (): ReadonlyArray<readonly TarEntry[]> => [
  [
    { name: 'bin/busybox', mode: 0o755, data: readFileSync(BUSYBOX) },
    ...APPLETS.map((name) => ({ name: `bin/${name}`, type: '2', link: 'busybox' })),
    { name: 'probe', mode: 0o755, data: readFileSync(join(NATIVE_DIR, 'probe')) },
    ...['full/a', 'full/b/c', 'gone/x', 'hidden/below', 'kept/below', 'replaced/old'].map((name) => ({
      name,
      data: 'x',
    })),
  ],
  [
    { name: '.wh.gone' },
    { name: 'hidden/', type: '5' },
    { name: 'hidden/.wh..wh..opq' },
    { name: 'hidden/above', data: 'x' },
    { name: 'kept/above', data: 'x' },
  ],
  [{ name: '.wh.replaced' }, { name: 'replaced/new', data: 'x' }],
]
const FOLDERS = '/full /gone /hidden /kept /moved /replaced'
const AS_BUILT =
  '/full /full/a /full/b /full/b/c /hidden /hidden/above /kept /kept/above /kept/below /replaced /replaced/new'

async function unpack(directory: string, entries: readonly TarEntry[]): Promise<string> {
  mkdirSync(directory)
  const { stdin, result } = startUnpacker({
    nativeDir: NATIVE_DIR,
    directory,
    compression: 'none',
    layer: 'test',
  })
  stdin.end(tar(entries))
  const unpacked = await result
  if (!unpacked.ok) throw unpacked.error
  return directory
}

/** Our descriptors of detached mounts. */
function openMounts(): number {
  const link = (fd: string): string => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return ''
    }
  }
  return readdirSync('/proc/self/fd').filter((fd) => link(fd) === '/').length
}

/** A runtime in which the worker mounts the roots of containers, or the containers do. */
async function rigFor(t: Test, rootByWorker: boolean) {
  const folder = newFolder(t)
  const [devRoot, stageDir] = ['dev', 'stage'].map((name) => join(folder, name)) as [string, string]
  for (const directory of [devRoot, stageDir]) mkdirSync(directory, { mode: 0o711 })
  const layers: string[] = []
  for (const [i, entries] of layersOf().entries()) layers.push(await unpack(join(folder, `l${i}`), entries))
  const driver = createCgroupDriver({ native, instance: instanceName(), folder })
  const slots = createSlots({
    native,
    ranges: claimIdRanges({ native, count: 2, preferred: 7 }),
    idmap: true,
    devRoot,
  })
  const cgroups = createCgroupPool({ driver, onLeak: (what) => t.fail(`left behind: ${what}`) })
  const runtime = createRuntime({
    native,
    slots,
    cgroups,
    host: { stageDir, seccomp: compileSeccomp(FUNCTION_PROFILE), rootByWorker, procPaths: new Map() },
  })
  t.teardown(() => runtime.close())
  return {
    runtime,
    stageDir,
    async run(
      args: readonly string[],
      {
        change = (spec) => spec,
        count = layers.length,
      }: { change?: (spec: RuntimeSpec) => RuntimeSpec; count?: number } = {},
    ) {
      const base = probeSpec(layers.slice(0, count), [])
      const spec = change({ ...base, process: { ...base.process, args, env: ['PATH=/bin'] } })
      const result = await runOnce(runtime, {
        spec,
        body: Buffer.alloc(0),
        timeoutMs: 30_000 * SLOWNESS,
        responseMaxBytes: MIB,
        signal: new AbortController().signal,
      })
      return { outcome: result.outcome, said: result.response.toString().trim().replaceAll('\n', ' ') }
    },
  }
}

for (const rootByWorker of [false, true]) {
  const lacking =
    rootByWorker || skip || native.tmpfsKeepsAttributes()
      ? false
      : 'a tmpfs of this kernel keeps no user.* attributes'
  t.test(
    `a root mounted by ${rootByWorker ? 'the worker' : 'the container'}`,
    { skip: skip || lacking },
    async (t) => {
      const rig = await rigFor(t, rootByWorker)
      const tree = `find ${FOLDERS} 2>&- | sort`
      await rig.run(['sh', '-c', ':'])
      const before = takeCensus(rig.stageDir)

      t.test('shows the merged layers, or a single layer', async (t) => {
        t.same(await rig.run(['sh', '-c', tree]), { outcome: 'ok', said: AS_BUILT })
        t.same(
          (await rig.run(['sh', '-c', 'ls /hidden /replaced'], { count: 1 })).said,
          '/hidden: below  /replaced: old',
        )
      })
      for (const count of [1, 3]) {
        t.test(
          `its folders can be removed and be replaced by folders, files and moved ones, from ${count} layers`,
          async (t) => {
            const change =
              'set -e; rm -r /full /hidden /replaced; mkdir /full; ls -A /full; mkdir -p /gone/new; touch /replaced; rm /kept/below; mv /kept /moved; mkdir /kept; rmdir /kept; mv /moved /full/in'
            const { said } = await rig.run(['sh', '-c', `(${change}) 2>&1; ${tree}`], { count })
            t.same(
              said,
              `/full /full/in ${count === 3 ? '/full/in/above ' : ''}/gone /gone/new ${count === 1 ? '/gone/x ' : ''}/replaced`,
            )
          },
        )
      }
      t.test('the layers are unchanged', async (t) =>
        t.same((await rig.run(['sh', '-c', tree])).said, AS_BUILT),
      )
      t.test('it and its files belong to root inside', async (t) => {
        t.same(
          (await rig.run(['sh', '-c', 'touch /new; mkdir /dir; stat -c %u:%g:%a / /full /new /dir /tmp']))
            .said,
          '0:0:755 0:0:755 0:0:644 0:0:755 0:0:1777',
        )
      })
      t.test('writes are bounded by its size and count as the container’s memory', async (t) => {
        const [bytes, why] = (await rig.run(['/probe', 'fill', '/fill'])).said.split(' ')
        t.equal(why, 'ENOSPC')
        t.ok(Number(bytes) > 3 * MIB && Number(bytes) <= 4 * MIB, `${bytes} bytes`)
        const large = (spec: RuntimeSpec): RuntimeSpec => ({
          ...spec,
          root: { ...spec.root, scratchBytes: 64 * MIB },
        })
        t.match(await rig.run(['/probe', 'fill', '/fill'], { change: large }), { outcome: 'oom' })
      })
      t.test('the list of mounts shows one overlay, with relative names', async (t) => {
        const lines = (
          await rig.run(['sh', '-c', 'while read -r line; do echo "$line;"; done </proc/self/mountinfo'])
        ).said.split('; ')
        t.match(
          lines.filter((line) => line.includes(' overlay ')),
          [/ \/ \/ .*nodev.* - overlay overlay rw,.*lowerdir=(l2:l1:l0|lower),upperdir=upper,workdir=work/],
        )
        t.equal(lines.filter((line) => line.includes('nosuid') && line.includes(' - overlay ')).length, 1)
        t.ok(lines.length > 3 && lines.every((line) => !line.includes(rig.stageDir)))
      })
      t.test('a start that fails in the middle names the operation and leaves no mount open', async (t) => {
        const small = (spec: RuntimeSpec): RuntimeSpec => ({
          ...spec,
          root: { ...spec.root, scratchInodes: 3 },
        })
        const held = openMounts()
        for (let i = 0; i < 5; i++)
          await t.rejects(rig.run(['sh'], { change: small }), {
            message: /^mkdir (work|l\d|lower|root|empty): mkdirat: ENOSPC/,
          })
        t.equal(openMounts(), held)
      })
      t.test('nothing is left on the host', async (t) => {
        t.same({ ...takeCensus(rig.stageDir), cgroups: 0, fds: 0 }, { ...before, cgroups: 0, fds: 0 })
        t.equal(rig.runtime.running, 0)
      })
    },
  )
}
