// How wherry-oci parses config.json, and the pure steps after it: mount options, cgroup files, device rules,
// plans. Also the command line and the records of containers.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { parseFlags, type Flag } from '../../services/oci/command-line.ts'
import { parseConfig, parseProcess } from '../../services/oci/config/config.ts'
import { parseSignal } from '../../services/oci/signals.ts'
import { createRecords, type ContainerRecord } from '../../services/containers/records.ts'
import { specTemplate } from '../../services/oci/config/template.ts'
import { buildEntryPlan } from '../../services/runtime/bundle/entry-plan.ts'
import { buildContainerPlan } from '../../services/runtime/bundle/plan.ts'
import { limitsV1, limitsV2 } from '../../services/runtime/cgroup/limits.ts'
import { deviceLine, deviceProgram, effectiveRules } from '../../services/runtime/cgroup/device-filter.ts'
import { encodePlan } from '../../services/runtime/encode.ts'
import { parseMountOptions } from '../../services/runtime/bundle/mount-options.ts'
import { ATTR, CLONE, MS } from '../../services/runtime/linux.ts'
import { compileProfile } from '../../services/runtime/bundle/seccomp.ts'

// oxlint-disable-next-line no-explicit-any
type Config = any
const template = (change: (config: Config) => void = () => {}): Config => {
  const config: Config = structuredClone(specTemplate())
  change(config)
  return config
}
const parse = (change?: (config: Config) => void) => parseConfig(JSON.stringify(template(change)), '/bundle')

t.test('a config.json', async (t) => {
  t.test('accepts the template and resolves paths against the bundle', async (t) => {
    const { spec, warnings } = parse((config) => {
      config.mounts.push({ destination: 'relative/place/', type: 'none', source: 'data', options: ['rbind'] })
    })
    t.match(spec, {
      root: { path: '/bundle/rootfs', readonly: true },
      process: { noNewPrivileges: true, terminal: true },
      hooks: { prestart: [] },
    })
    t.match(spec.mounts.at(-1), { destination: '/relative/place', type: 'bind', source: '/bundle/data' })
    t.same(warnings, [])
  })
  t.test('ignores unknown fields and null', async (t) => {
    t.equal(
      parse((config) => {
        Object.assign(config, { newField: 1, annotations: null, domainname: null })
        config.linux.other = {}
      }).spec.domainname,
      undefined,
    )
  })
  t.test('keeps limits of 2⁶⁴ − 1 exactly', async (t) => {
    const text = JSON.stringify(
      template((config) => {
        config.process.rlimits = [{ type: 'RLIMIT_CORE', soft: 0, hard: 7 }]
      }),
    ).replace('"hard":7', '"hard":18446744073709551615')
    t.equal(parseConfig(text, '/b').spec.process.rlimits[0]?.hard, 18446744073709551615n)
  })
  t.test('leaves out unknown capabilities with a warning', async (t) => {
    const { spec, warnings } = parse((config) => {
      config.process.capabilities.bounding = ['CAP_KILL', 'CAP_NEVER']
    })
    t.same(spec.process.capabilities.bounding, ['CAP_KILL'])
    t.same(warnings, ['process.capabilities.bounding: left out: "CAP_NEVER"; unknown to this kernel'])
  })
  t.test('parses a separate process by the same rules', async (t) => {
    t.match(parseProcess('{"args":["a"],"cwd":"/"}').process, { args: ['a'], user: { uid: 0 }, rlimits: [] })
    t.throws(() => parseProcess('{"args":[1],"cwd":"/"}'), /process\.args\[0\]: 1 is not a string/)
    t.throws(() => parseProcess('{'), /is not JSON/)
  })
})

t.test('mount options', async (t) => {
  t.match(parseMountOptions(['nosuid', 'strictatime', 'mode=755', 'size=65536k']), {
    set: ATTR.nosuid | ATTR.strictatime,
    clear: ATTR.atime,
    data: ['mode=755', 'size=65536k'],
  })
  t.match(parseMountOptions(['rbind', 'ro', 'rprivate']), {
    bind: { recursive: true },
    set: ATTR.ro,
    recursiveSet: 0,
    propagations: [MS.private | MS.rec],
  })
  t.match(parseMountOptions(['bind', 'rro', 'rnoexec']), {
    bind: { recursive: false },
    set: 0,
    recursiveSet: ATTR.ro | ATTR.noexec,
  })
  t.match(parseMountOptions(['ro', 'rw']), { set: 0, clear: ATTR.ro }, 'the later one holds')
  t.match(parseMountOptions(['rw', 'ro']), { set: ATTR.ro, clear: 0 })
  t.match(parseMountOptions(['relatime', 'tmpcopyup', 'defaults']), {
    set: 0,
    clear: ATTR.atime,
    copyUp: true,
    data: [],
  })
})

t.test('converts limits to cgroup files', async (t) => {
  const {
    linux: { resources },
  } = parse((config) => {
    Object.assign(config.linux.resources, {
      memory: { limit: 1000, swap: 3000, reservation: -1 },
      cpu: { shares: 1024, quota: -1, period: 50_000, cpus: '0-1' },
      pids: { limit: -1 },
      blockIO: { weight: 10, throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 5 }] },
      hugepageLimits: [{ pageSize: '2MB', limit: 7 }],
      unified: { 'memory.high': '9' },
    })
  }).spec
  const text = (writes: ReturnType<typeof limitsV1>): string[] =>
    writes.map(({ file, text: value }) => `${file}=${value}`)
  t.same(text(limitsV1(resources)), [
    'memory.limit_in_bytes=1000',
    'memory.memsw.limit_in_bytes=3000',
    'memory.soft_limit_in_bytes=-1',
    'cpu.shares=1024',
    'cpu.cfs_period_us=50000',
    'cpu.cfs_quota_us=-1',
    'cpuset.cpus=0-1',
    'pids.max=max',
    'blkio.weight=10',
    'blkio.throttle.read_bps_device=8:0 5',
    'hugetlb.2MB.limit_in_bytes=7',
  ])
  t.same(text(limitsV2(resources)), [
    'memory.max=1000',
    'memory.swap.max=2000',
    'memory.low=max',
    'cpu.weight=39',
    'cpu.max=max 50000',
    'cpuset.cpus=0-1',
    'pids.max=max',
    'io.bfq.weight=10',
    'io.max=8:0 rbps=5',
    'hugetlb.2MB.max=7',
    'memory.high=9',
  ])
})

t.test('device rules', async (t) => {
  t.equal(deviceLine({ allow: true, type: 'c', major: 1, access: 'rw' }), 'c 1:* rw')
  t.match(effectiveRules([]), [
    { allow: false, type: 'a', access: 'rwm' },
    { allow: true, type: 'c', access: 'm' },
  ])
  const program = deviceProgram([
    { allow: true, type: 'b', major: 3, minor: 4, access: 'r' },
    { allow: false, type: 'a', access: 'rwm' },
  ])
  t.equal(program.length / 8, 8, 'what stands behind a rule for everything is left out')
  t.equal(deviceProgram([]).length / 8, 8, 'no rule allows nothing')
})

const entry = {
  initFd: 10,
  socketFd: 11,
  preserveFds: 0,
  joined: [],
  created: [],
  uidMap: '',
  gidMap: '',
  cgroupFd: -1,
  cgroupTasks: [],
}

t.test('plans', async (t) => {
  t.test('join the cgroup before its namespace, which then has it as the root', async (t) => {
    const { ops, cloneFlags } = buildEntryPlan({
      ...entry,
      cgroupTasks: ['/c/tasks'],
      created: ['mount', 'cgroup'],
    })
    const kinds = ops.map((op) => op.kind)
    t.ok(kinds.indexOf('cgroupJoin') < kinds.indexOf('unshare'))
    t.equal(cloneFlags, CLONE.mount)
  })
  t.test('join a user namespace last and create new namespaces inside it', async (t) => {
    const { ops, cloneFlags } = buildEntryPlan({
      ...entry,
      joined: [
        { fd: 5, types: ['user'] },
        { fd: 6, types: ['network'] },
      ],
      created: ['mount', 'ipc'],
    })
    t.same(
      ops.filter((op) => op.kind === 'setns').map((op) => op.namespaces),
      [CLONE.network, CLONE.user],
    )
    t.match(
      ops.find((op) => op.kind === 'unshare'),
      { namespaces: CLONE.mount | CLONE.ipc },
    )
    t.equal(cloneFlags, 0)
  })
  t.test(
    'of a container can be encoded, and resolve no path through the image before the pivot',
    async (t) => {
      const { spec } = parse()
      const { ops } = buildContainerPlan(spec, {
        preserveFds: 0,
        seccomp: undefined,
        listener: undefined,
        consoleFd: 9,
        keyring: 'k',
        stageDir: '/stage',
        files: new Set(),
        cgroup: { version: 1, directories: [{ controllers: ['memory'], mountName: 'memory', path: '/cg' }] },
        cgroupNamespace: true,
        cgroupTop: '',
        startFd: 8,
        timeFd: undefined,
        idmaps: new Map(),
        state: { creating: '{}', created: '{}' },
      })
      t.ok(
        encodePlan({
          cloneFlags: 0,
          cgroupFd: -1,
          idmapFd: -1,
          netnsFd: -1,
          idBase: 0,
          idCount: 1,
          pipeOwner: 0,
          ops,
        }).length > 1000,
      )
      const kinds = ops.map((op) => op.kind)
      const pivot = kinds.indexOf('pivot')
      t.same(
        ops
          .slice(0, pivot)
          .filter((op) => op.kind === 'attach')
          .map((op) => op.target),
        ['/'],
      )
      t.same(
        ops.slice(pivot).filter((op) => op.kind === 'tree' || op.kind === 'fsmount'),
        [],
      )
      t.ok(
        kinds.indexOf('wait') < kinds.indexOf('capabilities') &&
          kinds.indexOf('checkProgram') < kinds.indexOf('wait'),
      )
      t.ok(kinds.lastIndexOf('seccomp') < kinds.indexOf('exec'))
    },
  )
})

t.test('compiles a seccomp profile to a filter', async (t) => {
  let profile: ReturnType<typeof compileProfile>
  try {
    profile = compileProfile({
      defaultAction: 'SCMP_ACT_ERRNO',
      architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'],
      flags: ['SECCOMP_FILTER_FLAG_LOG'],
      syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW', args: [] }],
    })
  } catch (err) {
    return t.comment(`SKIP ${String(err)}`)
  }
  t.equal(profile.flags, 2)
  t.ok(profile.program.length > 0 && profile.program.length % 8 === 0)
})

t.test('parses a command line like runc', async (t) => {
  const flags: readonly Flag[] = [
    { names: ['bundle', 'b'], value: 'DIR', about: '' },
    { names: ['detach', 'd'], about: '' },
    { names: ['env', 'e'], value: 'X', about: '', many: true },
  ]
  const given = parseFlags(
    ['-b', '/x', '--detach', '-e', 'A=1', '--env=B=2', 'id', 'ls', '-l', '--bundle', 'y'],
    flags,
  )
  t.equal(given.text('bundle'), '/x')
  t.ok(given.on('detach'))
  t.same(given.texts('env'), ['A=1', 'B=2'])
  t.same(given.rest, ['id', 'ls', '-l', '--bundle', 'y'], 'what follows the first argument is left alone')
  t.same(parseFlags(['--', '-b'], flags).rest, ['-b'])
  t.notOk(parseFlags(['--detach=false'], flags).on('detach'))
  t.throws(() => parseFlags(['--none'], flags), /unknown option --none/)
  t.throws(() => parseFlags(['--bundle'], flags), /needs a value/)
  t.same(['TERM', 'SIGTERM', 'sigterm', '15', '0'].map(parseSignal), [15, 15, 15, 15, 0])
  for (const wrong of ['', '65', 'NONE', '-9'])
    t.throws(() => parseSignal(wrong), /is not a signal/, `"${wrong}"`)
})

t.test('lists readable records when others are damaged or disappear', async (t) => {
  const good: ContainerRecord = {
    id: 'good',
    bundle: '/b',
    rootfs: '/b/rootfs',
    createdAt: '2026-01-01',
    annotations: { a: 'b' },
    cgroup: {
      version: 2,
      directories: [{ controllers: [], mountName: 'cgroup', path: '/sys/fs/cgroup/good' }],
    },
    pid: 7,
    pidStartTime: '8',
    ready: true,
    opNames: ['start'],
    mountsBefore: 3,
  }
  const damaged = [
    '{"id":',
    '',
    'null',
    '[1]',
    '{}',
    JSON.stringify(good),
    JSON.stringify({ ...good, id: '6', pid: -1 }),
    JSON.stringify({ ...good, id: '7', cgroup: { version: 2, directories: [] } }),
  ]
  const root = t.testdir({
    good: { 'state.json': JSON.stringify(good) },
    half: {},
    'not an id': { 'state.json': '{}' },
    ...Object.fromEntries(damaged.map((text, i) => [i, { 'state.json': text }])),
    folder: { 'state.json': {} },
  })
  const broken: string[] = []
  const records = createRecords(root, (text, bundle) => parseConfig(text, bundle).spec)
  t.same(
    records.list((id) => broken.push(id)),
    [good],
  )
  t.same(broken, [...damaged.keys(), 'folder'].map(String))
  for (const id of broken)
    t.throws(() => records.load(id), {
      name: 'DamagedRecord',
      message: new RegExp(`^the record of container "${id}" is damaged \\(.*delete --force removes`),
    })
  t.throws(() => records.load('half'), /does not exist/)
})

t.test('the launcher runs the project’s Node', async (t) => {
  t.match(
    readFileSync(new URL('../../services/oci/wherry-oci', import.meta.url), 'utf8'),
    /services\/oci\/main\.ts/,
  )
})
