// The pure half of the container runtime: image and function → spec → plan → bytes; users; cgroup files.

import t from 'tap'
import { parseDeployment } from '../../services/contract/deployment.ts'
import type { Image } from '../../services/contract/image.ts'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { capabilityMask } from '../../services/runtime/capability.ts'
import { checkSpec } from '../../services/runtime/check.ts'
import { parseMounts, parseOwnCgroups } from '../../services/runtime/cgroup/host.ts'
import { encodePlan, HEADER_BYTES, OP_BYTES } from '../../services/runtime/encode.ts'
import type { HostFacts } from '../../services/runtime/host-facts.ts'
import { ATTR, CLONE } from '../../services/runtime/linux.ts'
import { FLAG, type Op, type OpKind } from '../../services/runtime/ops.ts'
import { buildPlan } from '../../services/runtime/plan.ts'
import { programPaths } from '../../services/runtime/plan-process.ts'
import { buildSpec } from '../../services/runtime/spec.ts'
import { explainFailure } from '../../services/runtime/start-failure.ts'
import { resolveUser } from '../../services/runtime/user.ts'
import { WIRE } from '../../services/runtime/wire.ts'

const config = {
  os: 'linux',
  architecture: 'amd64',
  env: ['PATH=/bin', 'LANG=C', 'EMPTY='],
  entrypoint: ['/entry'],
  cmd: ['a', 'b'],
  user: '',
  workingDir: '/app',
  diffIds: [],
}
const image: Image = { digest: 'sha256:0', config, layers: ['/layers/0', '/layers/1'] }
const root = { uid: 0, gid: 0, additionalGids: [] }

function specOf(
  deployment: Record<string, unknown>,
  more: Partial<Image['config']> = {},
  volumePaths = new Map<string, string>(),
): RuntimeSpec {
  const spec = parseDeployment({ service: 'Resize.Me', image: 'x', ...deployment })
  return buildSpec({
    image: { ...image, config: { ...config, ...more } },
    function: spec,
    user: root,
    volumePaths,
  })
}

t.test('spec', async (t) => {
  t.test('ENTRYPOINT and CMD, command and args', async (t) => {
    t.same(specOf({}).process.args, ['/entry', 'a', 'b'])
    t.same(specOf({ args: ['c'] }).process.args, ['/entry', 'c'])
    t.same(specOf({ command: ['/other'] }).process.args, ['/other'], 'a new command drops the image’s CMD')
    t.same(specOf({ command: ['/other'], args: ['c'] }).process.args, ['/other', 'c'])
    t.throws(() => specOf({}, { entrypoint: [], cmd: [] }), { code: 'ERR_NO_COMMAND' })
  })
  t.test('later variables win: defaults, image, function', async (t) => {
    const { env } = specOf({ envVars: { LANG: 'de', MORE: '1' } }).process
    t.same(env, ['PATH=/bin', 'HOSTNAME=resize-me', 'HOME=/root', 'LANG=de', 'EMPTY=', 'MORE=1'])
  })
  t.test('limits become the cgroup’s numbers', async (t) => {
    t.same(specOf({ limits: { memory: '64Mi', cpu: '250m', pids: 7 } }).linux.resources, {
      memory: { limit: 64 << 20 },
      cpu: { quota: 25_000, period: 100_000 },
      pids: { limit: 7 },
    })
    t.equal(specOf({ limits: { cpu: 0.01 } }).linux.resources.cpu.quota, 1000)
  })
  t.test('volumes come behind the system’s mounts', async (t) => {
    const spec = specOf(
      {
        volumes: [
          { name: 'a', target: '//data//x/' },
          { name: 'b', target: '/data/y', readonly: true },
        ],
      },
      {},
      new Map([
        ['a', '/v/a'],
        ['b', '/v/b'],
      ]),
    )
    t.same(spec.mounts.slice(-2), [
      { destination: '/data/x', type: 'bind', source: '/v/a', options: ['nosuid', 'nodev'] },
      { destination: '/data/y', type: 'bind', source: '/v/b', options: ['nosuid', 'nodev', 'ro'] },
    ])
  })
  t.test('a volume below another one’s target is refused', async (t) => {
    t.throws(
      () =>
        specOf({
          volumes: [
            { name: 'b', target: '/data/sub' },
            { name: 'a', target: '/data/' },
          ],
        }),
      { code: 'ERR_INVALID_REQUEST', message: /volumes\[0\]\.target: .*below/ },
    )
  })
  t.test(
    'what the kernel counts per user over namespaces is limited, and core dumps go to nobody, not even to a program (RLIMIT_CORE 1, core(5))',
    async (t) => {
      const {
        process: { rlimits, oomScoreAdj },
        linux: { sysctl },
      } = specOf({})
      t.match(
        rlimits.find((limit) => limit.type === 'RLIMIT_CORE'),
        { soft: 1, hard: 1 },
      )
      for (const type of ['RLIMIT_SIGPENDING', 'RLIMIT_MSGQUEUE', 'RLIMIT_NOFILE'])
        t.ok(
          rlimits.some((limit) => limit.type === type),
          type,
        )
      t.same(Object.keys(sysctl ?? {}), ['user.max_inotify_instances', 'user.max_inotify_watches'])
      t.equal(oomScoreAdj, 1000, 'functions go before their worker')
    },
  )
  t.test('no capability, ever', async (t) => {
    t.ok(Object.values(specOf({}).process.capabilities).every((set) => set.length === 0))
  })
})

function catching(work: () => void): unknown {
  try {
    work()
    return undefined
  } catch (err) {
    return err
  }
}

const facts: HostFacts = {
  stageDir: '/data/stage',
  devDir: '/data/dev',
  idBase: 65_536,
  idmapFd: 20,
  netnsFd: 21,
  cgroupFd: -1,
  cgroupTasks: ['/cg/memory/tasks', '/cg/pids/tasks'],
  seccomp: new Uint8Array(16),
  rootByWorker: false,
  procPaths: new Map([
    ['/proc/keys', 'file'],
    ['/proc/acpi', 'directory'],
    ['/proc/sys', 'directory'],
  ]),
}
const kinds = (ops: readonly Op[]): string[] => ops.map((op) => op.kind)
const all = <K extends OpKind>(ops: readonly Op[], kind: K) =>
  ops.filter((op): op is Extract<Op, { kind: K }> => op.kind === kind)

t.test('plan', async (t) => {
  t.test('is the life of a start, in order', async (t) => {
    const { ops } = buildPlan(specOf({}), facts)
    t.same(
      kinds(ops).filter((kind, i, all) => kind !== all[i - 1]),
      [
        'tree',
        'cgroupJoin',
        'userMaps',
        'umask',
        'unshare',
        'propagation',
        'fsmount',
        'attach',
        'setupIds',
        'fchdir',
        'mkdir',
        'attach',
        'mount',
        'fsmount',
        'write',
        'mkdir',
        'subtree',
        'mkdir',
        'subtree',
        'pivot',
        'attach',
        'bind',
        'hostname',
        'rlimit',
        'closeFds',
        'chdir',
        'ids',
        'capabilities',
        'noNewPrivs',
        'parentDeath',
        'seccomp',
        'exec',
      ],
    )
  })
  t.test('stacks the upper layer first and maps every layer’s ids', async (t) => {
    const { ops } = buildPlan(specOf({}), facts)
    t.match(all(ops, 'mount')[0]?.data, /^lowerdir=l1:l0,upperdir=upper,workdir=work,userxattr$/)
    t.ok(all(ops, 'tree').every((op) => op.flags === FLAG.idmap))
  })
  t.test(
    'where a tmpfs keeps no attributes, the worker mounts the root aside, before the clone',
    async (t) => {
      const byWorker = (layers: readonly string[], change: Partial<HostFacts> = {}) => {
        const spec = specOf({})
        return buildPlan(
          { ...spec, root: { ...spec.root, layers } },
          { ...facts, rootByWorker: true, ...change },
        ).ops
      }
      const ops = byWorker(['/a', '/b'])
      const at = kinds(ops).indexOf('aside')
      const aside = ops.slice(at + 1, at + 1 + all(ops, 'aside')[0]!.count)
      t.same(
        kinds(ops.slice(0, at)).filter((kind) => kind !== 'tree'),
        [],
      )
      t.same(
        kinds(aside).filter((kind, i, all) => kind !== all[i - 1]),
        ['propagation', 'fsmount', 'attach', 'fchdir', 'mkdir', 'attach', 'mount', 'fsmount', 'subtree'],
      )
      t.equal(
        all(aside, 'mount')[0]?.data,
        'lowerdir=l1:l0,userxattr',
        'the marks of layers are read by an overlay of theirs',
      )
      t.match(all(aside, 'fsmount').at(-1), {
        type: 'overlay',
        options: ['source=overlay', 'lowerdir=lower', 'upperdir=upper', 'workdir=work'],
        set: ATTR.nosuid | ATTR.nodev,
      })
      t.match(
        all(aside, 'mkdir').find((op) => op.path === 'upper'),
        { owner: facts.idBase },
        'the container’s "/" is its own',
      )
      t.notOk(kinds(byWorker(['/a'])).includes('mount'), 'one layer has nothing to hide')
      t.notOk(kinds(byWorker(['/a'], { idmapFd: -1 })).includes('aside'))
    },
  )
  t.test('hides what this kernel has and nothing else', async (t) => {
    const behind = buildPlan(specOf({}), facts).ops
    t.match(
      all(behind, 'bind').map((op) => [op.source, op.target]),
      [
        ['/dev/null', '/proc/keys'],
        ['/proc/sys', '/proc/sys'],
      ],
    )
    t.ok(all(behind, 'attach').some((op) => op.target === '/proc/acpi'))
  })
  t.test('nothing is looked up through the image before the pivot', async (t) => {
    const { ops } = buildPlan(specOf({}), facts)
    const pivot = kinds(ops).indexOf('pivot')
    const before = all(ops.slice(0, pivot), 'attach').map((op) => op.target)
    t.same(before, ['/data/stage', 'l0', 'l1'])
  })
  t.test('a pooled network namespace is entered, not made', async (t) => {
    t.equal(buildPlan(specOf({}), facts).cloneFlags & CLONE.network, 0)
    const fresh = buildPlan(specOf({}), { ...facts, netnsFd: -1 })
    t.equal(fresh.cloneFlags & CLONE.network, CLONE.network)
    t.ok(kinds(fresh.ops).includes('loopbackUp'))
  })
  t.test('a read-only root is sealed after everything is mounted', async (t) => {
    const { ops } = buildPlan(specOf({ readOnlyRootFilesystem: true }), facts)
    t.ok(kinds(ops).indexOf('attributes') > kinds(ops).lastIndexOf('attach'))
  })
  t.test('programs are looked for as execvp does', async (t) => {
    t.same(programPaths('sh', ['PATH=/a::/b']), ['/a/sh', './sh', '/b/sh'])
    t.same(programPaths('./x', ['PATH=/a']), ['./x'])
  })
  t.test('failures are explained where the image is the reason', async (t) => {
    const spec = specOf({})
    const exec: Op = { kind: 'exec', programs: [], args: [], env: [] }
    const attach = (target: string): Op => ({ kind: 'attach', handle: 0, target })
    t.match(explainFailure(spec, exec, 'ENOENT'), {
      code: 'ERR_COMMAND_NOT_FOUND',
      message: /"\/entry" is not in the image/,
    })
    t.match(explainFailure(spec, exec, 'EACCES'), { code: 'ERR_COMMAND_NOT_EXECUTABLE' })
    t.match(explainFailure(spec, attach('/dev'), 'ELOOP'), {
      message: /symbolic link at \/dev/,
    })
    t.match(explainFailure(spec, attach('/data'), 'EXDEV'), {
      message: /symbolic link at \/data that leads to \/proc/,
    })
    t.equal(explainFailure(spec, { kind: 'setupIds' }, 'EPERM'), undefined)
  })
})

/** FAULTY in place of the value at PATH. */
function spoiled(path: string, faulty: unknown): RuntimeSpec {
  const copy = structuredClone(
    specOf({ volumes: [{ name: 'a', target: '/data' }] }, {}, new Map([['a', '/v/a']])),
  )
  const keys = path.split(/[.[\]]+/).filter((key) => key !== '')
  let at = copy as unknown as Record<string, unknown>
  for (const key of keys.slice(0, -1)) at = at[key] as Record<string, unknown>
  at[keys.at(-1)!] = faulty
  return copy
}

t.test('a wrong field of a spec names itself before anything is taken for the container', async (t) => {
  const wrong: ReadonlyArray<[path: string, values: readonly unknown[], named?: string]> = [
    ['process.args', [[], ['']]],
    ['process.args', [Array.from({ length: 4097 }, () => 'x')]],
    ['process.args[1]', ['a\0b']],
    ['process.env[0]', ['A=\0', 'NOVALUE', '=x', '']],
    ['process.cwd', ['', 'relative', '/a\0']],
    ['process.user.uid', [-1, 65_536, 4_294_967_295, 4_294_967_296, 1e12, 1.5, NaN, Infinity]],
    ['process.user.gid', [-1, 65_536, 4_294_967_296, NaN]],
    ['process.user.additionalGids', [[-1], [65_536], [0.5]], 'process.user.additionalGids[0]'],
    ['process.user.additionalGids', [Array.from({ length: 65_537 }, () => 1)]],
    ['process.rlimits[1].type', ['RLIMIT_NOTHING', 'toString', 'RLIMIT_NOFILE']],
    ['process.rlimits[1].soft', [-1, 0.5, 2]],
    ['process.rlimits[1].hard', [-1, NaN, Infinity]],
    ['process.capabilities.ambient', [['CAP_NONE'], ['cap_chown']], 'process.capabilities.ambient[0]'],
    ['process.oomScoreAdj', [-1001, 1001, 0.5]],
    ['hostname', ['x'.repeat(65), 'a\0']],
    ['root.layers', [[], Array.from({ length: 129 }, (_, i) => `/l/${i}`)]],
    ['root.layers[0]', ['relative', '/a/../b', '/a\0']],
    ['root.scratchBytes', [0, -1, NaN]],
    ['root.scratchInodes', [0, 1.5]],
    [
      'mounts[4].destination',
      [
        '',
        '/',
        '//',
        '/proc',
        '/proc/self',
        '/dev',
        '/dev/../proc',
        '/sys/x',
        'relative',
        '..',
        '/..',
        '/a/../../b',
        '/a\0',
        '/tmp',
      ],
    ],
    ['mounts[4].source', ['', 'relative', undefined, '/v/../x', '/a\0']],
    ['mounts[4].type', ['overlay']],
    ['mounts[4].options[0]', ['suid', 'mode=9', 'ro,exec']],
    ['linux.namespaces[0]', ['time', '__proto__']],
    ['linux.resources.memory.limit', [0, -1, NaN, 1.5]],
    ['linux.resources.cpu.quota', [0, 999, -1]],
    ['linux.resources.cpu.period', [0, 1_000_001]],
    ['linux.resources.pids.limit', [0, -1, 4_194_305]],
    ['linux.maskedPaths[0]', ['proc', '/proc/../sys']],
    ['linux.readonlyPaths[0]', ['', '/a\0']],
    ['linux.sysctl', [{ '../kernel': '1' }], 'linux.sysctl.../kernel'],
    ['linux.sysctl', [{ 'user.max_inotify_watches': '1\0' }], 'linux.sysctl.user.max_inotify_watches'],
  ]
  t.doesNotThrow(() => checkSpec(specOf({})))
  for (const [path, values, named = path] of wrong) {
    for (const value of values) {
      const err = catching(() => checkSpec(spoiled(path, value)))
      t.match(
        err,
        { name: 'StartError', code: 'ERR_START' },
        `${path} ${JSON.stringify(value)?.slice(0, 40)}`,
      )
      t.ok(String(err).includes(`${named}: `), String(err).slice(0, 200))
    }
  }
  const twice = { ...spoiled('process.cwd', ''), hostname: 'x'.repeat(65) }
  t.match(
    catching(() => checkSpec(twice)),
    { message: /process\.cwd: .*; hostname: / },
    'all of them at once',
  )
  t.throws(() => buildPlan(twice, facts), { code: 'ERR_START' }, 'no plan is made of it')
})

t.test('bytes', async (t) => {
  const plan = buildPlan(specOf({}), facts)
  const bytes = encodePlan(plan)
  const text = (at: number): string =>
    bytes.toString('utf8', bytes.readUInt32LE(16) + at, bytes.indexOf(0, bytes.readUInt32LE(16) + at))
  t.test('header and operations stand where the C header says', async (t) => {
    t.equal(bytes.readUInt32LE(8), bytes.length)
    t.equal(bytes.readUInt32LE(12), plan.ops.length)
    t.equal(bytes.readUInt32LE(16), HEADER_BYTES + plan.ops.length * OP_BYTES)
    t.equal(bytes.readUInt32LE(HEADER_BYTES), WIRE.tree.code)
    t.equal(text(bytes.readUInt32LE(HEADER_BYTES + 24)), '/layers/0')
    t.equal(bytes.at(-1), 0)
  })
  t.test('blobs are aligned', async (t) => {
    const at = HEADER_BYTES + plan.ops.findIndex((op) => op.kind === 'seccomp') * OP_BYTES
    t.equal(bytes.readUInt32LE(at + 24) % 8, 0)
  })
  t.test('a NUL in an argument cannot split it', async (t) => {
    const spoil = (op: Op): Op => (op.kind === 'exec' ? { ...op, programs: ['/a\0b'] } : op)
    t.throws(() => encodePlan({ ...plan, ops: plan.ops.map(spoil) }), { name: 'TypeError' })
  })
  t.test('an environment beyond 4 MiB is refused', async (t) => {
    const spec = specOf({})
    t.throws(
      () =>
        encodePlan(
          buildPlan({ ...spec, process: { ...spec.process, env: ['A=' + 'x'.repeat(5 << 20)] } }, facts),
        ),
      { name: 'StartError' },
    )
  })
})

t.test('capabilities', async (t) => {
  t.equal(
    capabilityMask(['CAP_CHOWN', 'CAP_SYS_ADMIN', 'CAP_CHECKPOINT_RESTORE']),
    1n | (1n << 21n) | (1n << 40n),
  )
  t.throws(() => capabilityMask(['CAP_NONE']), /"CAP_NONE" is not a capability/)
})

t.test('users', async (t) => {
  const files = {
    passwd:
      'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/app:/bin/sh\n1e12:x:0:0::/:/bin/sh\nbad:x:zero:0::/:\nbig:x:4294967296:0::/:\n99999:x:0:0::/:\n',
    group: 'root:x:0:\nwww:x:33:app,other\naudio:x:29:app\nbig:x:70000:\n',
  }
  const good: ReadonlyArray<[string, object]> = [
    ['', { uid: 0, gid: 0, additionalGids: [] }],
    ['root', { uid: 0, gid: 0 }],
    ['app', { uid: 1000, gid: 1001, additionalGids: [33, 29] }],
    ['1000', { uid: 1000, gid: 1001, additionalGids: [33, 29] }],
    ['2000', { uid: 2000, gid: 0, additionalGids: [] }],
    ['app:www', { uid: 1000, gid: 33, additionalGids: [] }],
    ['7:8', { uid: 7, gid: 8 }],
  ]
  for (const [written, expected] of good) t.match(resolveUser(written, files), expected, `"${written}"`)
  const bad = [
    'nobody',
    '65536',
    '4294967295',
    '4294967296',
    '99999',
    '1000:99999999999',
    '-1',
    '0x0',
    ' 0',
    'bad',
    'big',
    'app:none',
    'app:big',
    'a:b:c',
    ':0',
    '+0',
  ]
  for (const written of bad)
    t.throws(
      () => resolveUser(written, files),
      { code: 'ERR_UNKNOWN_USER' },
      `"${written}" is refused, never root`,
    )
  t.throws(() => resolveUser('app', { passwd: undefined, group: undefined }), /no user "app"/)
})

t.test('cgroups of this host', async (t) => {
  t.test('own paths differ per hierarchy', async (t) => {
    const own = parseOwnCgroups('9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/d\n')
    t.same(
      [...own.v1],
      [
        ['name=systemd', '/'],
        ['memory', '/a/b'],
        ['cpu', '/c'],
        ['cpuacct', '/c'],
      ],
    )
    t.equal(own.v2, '/d')
  })
  t.test('what a mount hides is cut off', async (t) => {
    const mounts = parseMounts(
      [
        '30 20 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory',
        '31 20 0:26 /docker/x /sys/fs/cgroup/cpu\\040acct rw - cgroup cgroup rw,cpu,cpuacct',
        '32 20 0:27 / /sys/fs/cgroup rw - cgroup2 none rw',
        'nonsense',
        '',
      ].join('\n'),
    )
    t.equal(mounts.v1[0]?.directoryOf('/a'), '/sys/fs/cgroup/memory/a')
    t.equal(mounts.v1[0]?.directoryOf('/'), '/sys/fs/cgroup/memory')
    t.equal(mounts.v1[1]?.directoryOf('/docker/x/y'), '/sys/fs/cgroup/cpu acct/y')
    t.equal(mounts.v1[1]?.directoryOf('/docker/x'), '/sys/fs/cgroup/cpu acct')
    t.equal(mounts.v2?.directoryOf('/d'), '/sys/fs/cgroup/d')
  })
  t.test(
    'a container that mounts them again where everybody sees it is not taken for the host',
    async (t) => {
      const mounts = parseMounts(
        [
          '30 20 0:25 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct',
          '31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw',
          '90 80 0:25 /others /tmp/rootfs/sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct',
          '91 80 0:27 /others /tmp/rootfs/sys/fs/cgroup/unified rw - cgroup2 none rw',
        ].join('\n'),
      )
      t.same(
        mounts.v1.map((mount) => mount.directoryOf('/mine')),
        ['/sys/fs/cgroup/cpu/mine'],
      )
      t.equal(mounts.v2?.directoryOf('/mine'), '/sys/fs/cgroup/unified/mine')
    },
  )
})
