// config.json as wherry-oci reads it: what is taken, what is wrong and how that is said; and the pure steps
// behind it: mount options, cgroup files, device rules, the command line.

import { readFileSync } from 'node:fs'
import t from 'tap'
import type { InvalidRequest } from '../../services/contract/errors.ts'
import { parseFlags, type Flag } from '../../services/oci/command-line.ts'
import { parseConfig, parseProcess } from '../../services/oci/config.ts'
import { parseSignal } from '../../services/oci/manage.ts'
import { specTemplate } from '../../services/oci/template.ts'
import { buildContainerPlan, buildEntryPlan } from '../../services/runtime/bundle-plan.ts'
import { limitsV1, limitsV2 } from '../../services/runtime/cgroup-limits.ts'
import { deviceLine, deviceProgram, effectiveRules } from '../../services/runtime/device-filter.ts'
import { encodePlan } from '../../services/runtime/encode.ts'
import { parseMountOptions } from '../../services/runtime/mount-options.ts'
import { ATTR, CLONE, MS } from '../../services/runtime/ops.ts'
import { compileProfile } from '../../services/runtime/seccomp-bundle.ts'

// oxlint-disable-next-line no-explicit-any
type Config = any
const template = (change: (config: Config) => void = () => {}): Config => {
  const config: Config = structuredClone(specTemplate())
  change(config)
  return config
}
const parse = (change?: (config: Config) => void) => parseConfig(JSON.stringify(template(change)), '/bundle')

/** The faults of a changed template, each "path: problem". */
function faultsOf (change: (config: Config) => void): string[] {
  try {
    parse(change)
  } catch (err) {
    return (err as InvalidRequest).faults.map(({ path, problem }) => `${path}: ${problem}`)
  }
  return []
}

t.test('a config.json', async t => {
  t.test('the template is taken, paths begin at the bundle', async t => {
    const { spec, warnings } = parse(config => { config.mounts.push({ destination: 'relative/place/', type: 'none', source: 'data', options: ['rbind'] }) })
    t.match(spec, { root: { path: '/bundle/rootfs', readonly: true }, process: { noNewPrivileges: true, terminal: true }, hooks: { prestart: [] } })
    t.match(spec.mounts.at(-1), { destination: '/relative/place', type: 'bind', source: '/bundle/data' })
    t.same(warnings, [])
  })
  t.test('fields that nobody knows are ignored, null is nothing', async t => {
    t.equal(parse(config => { Object.assign(config, { newField: 1, annotations: null, domainname: null }); config.linux.other = {} }).spec.domainname, undefined)
  })
  t.test('limits of 2⁶⁴ − 1 are kept exactly', async t => {
    const text = JSON.stringify(template(config => { config.process.rlimits = [{ type: 'RLIMIT_CORE', soft: 0, hard: 7 }] })).replace('"hard":7', '"hard":18446744073709551615')
    t.equal(parseConfig(text, '/b').spec.process.rlimits[0]?.hard, 18446744073709551615n)
  })
  t.test('unknown capabilities are left out with a warning', async t => {
    const { spec, warnings } = parse(config => { config.process.capabilities.bounding = ['CAP_KILL', 'CAP_NEVER'] })
    t.same(spec.process.capabilities.bounding, ['CAP_KILL'])
    t.match(warnings, [/process\.capabilities\.bounding: "CAP_NEVER"/])
  })
  t.test('a process of its own is read by the same rules', async t => {
    t.match(parseProcess('{"args":["a"],"cwd":"/"}').process, { args: ['a'], user: { uid: 0 }, rlimits: [] })
    t.throws(() => parseProcess('{"args":[1],"cwd":"/"}'), /process\.args\[0\]: 1 is not a text/)
    t.throws(() => parseProcess('{'), /is not JSON/)
  })
})

t.test('every wrong field names itself', async t => {
  const cases: ReadonlyArray<[(config: Config) => void, string | RegExp]> = [
    [c => { c.ociVersion = '2.0.0' }, /^ociVersion: "2\.0\.0"/],
    [c => { delete c.process }, /^process\.args: is missing/],
    [c => { c.process.args = [] }, 'process.args: is empty; there is nothing to run'],
    [c => { c.process.args = ['a\0b'] }, 'process.args[0]: contains a NUL character'],
    [c => { c.process.cwd = 'tmp' }, 'process.cwd: "tmp" is not an absolute path'],
    [c => { c.process.env = ['A'] }, 'process.env[0]: "A" is not NAME=value'],
    [c => { c.process.rlimits.push({ type: 'X', soft: 1, hard: 1 }) }, 'process.rlimits[1].type: "X" is not a resource limit'],
    [c => { c.process.rlimits[0].soft = -1 }, /^process\.rlimits\[0\]\.soft: -1 is not/],
    [c => { c.process.rlimits.push(c.process.rlimits[0]) }, /rlimits\[1\]\.type: "RLIMIT_NOFILE" is there twice/],
    [c => { c.process.user.uid = 4294967295 }, /^process\.user\.uid: 4294967295 is not a whole number from 0 to 4294967294/],
    [c => { c.process.user.uid = '0' }, /^process\.user\.uid: "0" is not a whole number/],
    [c => { c.process.oomScoreAdj = 2000 }, /^process\.oomScoreAdj: 2000/],
    [c => { c.process.terminal = 'yes' }, 'process.terminal: "yes" is not true or false'],
    [c => { c.process.selinuxLabel = 'x' }, /^process\.selinuxLabel: is not supported/],
    [c => { c.process.consoleSize = { height: -1, width: 3 } }, /^process\.consoleSize\.height: -1/],
    [c => { delete c.root }, /^root\.path: is missing/],
    [c => { c.mounts[0].destination = '/' }, 'mounts[0].destination: is the root itself'],
    [c => { c.mounts[0].destination = '/a/../..' }, 'mounts[0].destination: is the root itself'],
    [c => { c.mounts.push({ destination: '/proc/../proc/sys', type: 'bind', source: '/x' }) }, /^mounts\[7\]\.destination: .* is inside \/proc/],
    [c => { c.mounts.push({ destination: '/proc', type: 'bind', source: '/x' }) }, /^mounts\[7\]\.destination: "bind" may not be mounted over \/proc/],
    [c => { c.mounts.push({ destination: '/x', options: ['bind'] }) }, /^mounts\[7\]\.source: is missing/],
    [c => { c.mounts.push({ destination: '/x' }) }, /^mounts\[7\]\.type: is missing/],
    [c => { c.mounts[0].options = ['size=1,mode=2'] }, /^mounts\[0\]: options\[0\]: .*comma/],
    [c => { c.mounts[0].options = ['idmap'] }, /^mounts\[0\]: options\[0\]: "idmap" is not supported/],
    [c => { c.hooks = { prestart: [{ path: 'x' }] } }, 'hooks.prestart[0].path: "x" is not an absolute path'],
    [c => { c.hooks = { poststop: [{ path: '/x', timeout: 0 }] } }, /^hooks\.poststop\[0\]\.timeout: 0/],
    [c => { c.linux.namespaces = [{ type: 'pid' }] }, /^linux\.namespaces: has no "mount"/],
    [c => { c.linux.namespaces.push({ type: 'pid' }) }, /^linux\.namespaces\[6\]\.type: "pid" is there twice/],
    [c => { c.linux.namespaces.push({ type: 'time' }) }, /^linux\.namespaces\[6\]\.type: "time" is not supported/],
    [c => { c.linux.namespaces.push({ type: 'user' }) }, /^linux\.uidMappings: is empty/],
    [c => { c.linux.namespaces = c.linux.namespaces.filter((n: { type: string }) => n.type !== 'uts') }, /^hostname: needs a uts namespace/],
    [c => { c.linux.devices = [{ path: 'x', type: 'c', major: 1, minor: 1 }] }, /^linux\.devices\[0\]\.path: "x"/],
    [c => { c.linux.devices = [{ path: '/x', type: 'z', major: 1, minor: 1 }] }, /^linux\.devices\[0\]\.type: "z"/],
    [c => { c.linux.cgroupsPath = '/' }, /^linux\.cgroupsPath: is the top/],
    [c => { c.linux.cgroupsPath = '/a/../../b' }, /^linux\.cgroupsPath: contains/],
    [c => { c.linux.sysctl = { 'kernel.panic': '1' } }, /^linux\.sysctl\["kernel\.panic"\]: belongs to no namespace/],
    [c => { c.linux.sysctl = { 'net.ipv4/../../kernel/panic': '1' } }, /is not the name of a kernel setting/],
    [c => { c.linux.resources.memory = { limit: 'x' } }, /^linux\.resources\.memory\.limit: "x"/],
    [c => { c.linux.resources.memory = { limit: 200, swap: 100 } }, /^linux\.resources\.memory\.swap: 100 is below memory\.limit 200/],
    [c => { c.linux.resources.cpu = { cpus: 'all' } }, /^linux\.resources\.cpu\.cpus: "all"/],
    [c => { c.linux.resources.devices.push({ allow: true, access: 'rwx' }) }, /^linux\.resources\.devices\[1\]\.access: "rwx"/],
    [c => { c.linux.resources.unified = { '../x.y': '1' } }, /is not the name of a cgroup file/],
    [c => { c.linux.seccomp = { defaultAction: 'SCMP_ACT_NOTIFY' } }, /^linux\.seccomp\.defaultAction: "SCMP_ACT_NOTIFY" is not an action/],
    [c => { c.linux.seccomp = { defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: ['a'], action: 'SCMP_ACT_ERRNO', args: [{ index: 6, value: 1, op: 'SCMP_CMP_EQ' }] }] } }, /^linux\.seccomp\.syscalls\[0\]\.args\[0\]\.index: 6/],
    [c => { c.linux.rootfsPropagation = 'x' }, /^linux\.rootfsPropagation: "x"/],
    [c => { c.linux.intelRdt = {} }, /^linux\.intelRdt: is not supported/],
  ]
  for (const [change, expected] of cases) {
    const faults = faultsOf(change)
    t.ok(faults.some(fault => typeof expected === 'string' ? fault === expected : expected.test(fault)), `${String(expected)} in ${JSON.stringify(faults)}`)
  }
  t.equal(faultsOf(config => { config.process.cwd = 'x'; config.root = { path: '' , readonly: 3 }; config.linux.cgroupsPath = '/' }).length, 3, 'all at once')
  t.throws(() => parseConfig('nothing', '/b'), { code: 'ERR_INVALID_REQUEST', message: /config\.json: is not JSON/ })
})

t.test('mount options', async t => {
  t.match(parseMountOptions(['nosuid', 'strictatime', 'mode=755', 'size=65536k']), { set: ATTR.nosuid | ATTR.strictatime, clear: ATTR.atime, data: ['mode=755', 'size=65536k'] })
  t.match(parseMountOptions(['rbind', 'ro', 'rprivate']), { bind: { recursive: true }, set: ATTR.ro, recursiveSet: 0, propagations: [MS.private | MS.rec] })
  t.match(parseMountOptions(['bind', 'rro', 'rnoexec']), { bind: { recursive: false }, set: 0, recursiveSet: ATTR.ro | ATTR.noexec })
  t.match(parseMountOptions(['ro', 'rw']), { set: 0, clear: ATTR.ro }, 'the later one holds')
  t.match(parseMountOptions(['rw', 'ro']), { set: ATTR.ro, clear: 0 })
  t.match(parseMountOptions(['relatime', 'tmpcopyup', 'defaults']), { set: 0, clear: ATTR.atime, copyUp: true, data: [] })
})

t.test('limits become files of the cgroup', async t => {
  const { linux: { resources } } = parse(config => {
    Object.assign(config.linux.resources, {
      memory: { limit: 1000, swap: 3000, reservation: -1 }, cpu: { shares: 1024, quota: -1, period: 50_000, cpus: '0-1' }, pids: { limit: -1 },
      blockIO: { weight: 10, throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 5 }] }, hugepageLimits: [{ pageSize: '2MB', limit: 7 }], unified: { 'memory.high': '9' },
    })
  }).spec
  const text = (writes: ReturnType<typeof limitsV1>): string[] => writes.map(({ file, text: value }) => `${file}=${value}`)
  t.same(text(limitsV1(resources)), [
    'memory.limit_in_bytes=1000', 'memory.memsw.limit_in_bytes=3000', 'memory.soft_limit_in_bytes=-1', 'cpu.shares=1024', 'cpu.cfs_period_us=50000', 'cpu.cfs_quota_us=-1',
    'cpuset.cpus=0-1', 'pids.max=max', 'blkio.weight=10', 'blkio.throttle.read_bps_device=8:0 5', 'hugetlb.2MB.limit_in_bytes=7',
  ])
  t.same(text(limitsV2(resources)), [
    'memory.max=1000', 'memory.swap.max=2000', 'memory.low=max', 'cpu.weight=39', 'cpu.max=max 50000', 'cpuset.cpus=0-1', 'pids.max=max', 'io.weight=10', 'io.max=8:0 rbps=5',
    'hugetlb.2MB.max=7', 'memory.high=9',
  ])
})

t.test('device rules', async t => {
  t.equal(deviceLine({ allow: true, type: 'c', major: 1, access: 'rw' }), 'c 1:* rw')
  t.match(effectiveRules([]), [{ allow: false, type: 'a', access: 'rwm' }, { allow: true, type: 'c', access: 'm' }])
  const program = deviceProgram([{ allow: true, type: 'b', major: 3, minor: 4, access: 'r' }, { allow: false, type: 'a', access: 'rwm' }])
  t.equal(program.length / 8, 8, 'what stands behind a rule for everything is left out')
  t.equal(deviceProgram([]).length / 8, 8, 'no rule allows nothing')
})

const entry = { initFd: 10, socketFd: 11, preserveFds: 0, joined: [], created: [], uidMap: '', gidMap: '', cgroupFd: -1, cgroupTasks: [] }

t.test('plans', async t => {
  t.test('the cgroup comes before its namespace, which shows it as the root', async t => {
    const { ops, cloneFlags } = buildEntryPlan({ ...entry, cgroupTasks: ['/c/tasks'], created: ['mount', 'cgroup'] })
    const kinds = ops.map(op => op.kind)
    t.ok(kinds.indexOf('cgroupJoin') < kinds.indexOf('unshare'))
    t.equal(cloneFlags, CLONE.mount)
  })
  t.test('a user namespace is joined last, and what is new is made inside of it', async t => {
    const { ops, cloneFlags } = buildEntryPlan({ ...entry, joined: [{ fd: 5, types: ['user'] }, { fd: 6, types: ['network'] }], created: ['mount', 'ipc'] })
    t.same(ops.filter(op => op.kind === 'setns').map(op => op.wide), [CLONE.network, CLONE.user])
    t.match(ops.find(op => op.kind === 'unshare'), { wide: CLONE.mount | CLONE.ipc })
    t.equal(cloneFlags, 0)
  })
  t.test('a container’s is taken by the encoder, and looks nothing up through the image before the pivot', async t => {
    const { spec } = parse()
    const { ops } = buildContainerPlan(spec, {
      preserveFds: 0, seccomp: undefined, consoleFd: 9, keyring: 'k', stageDir: '/stage', files: new Set(), cgroup: { version: 1, directories: [{ controllers: ['memory'], mountName: 'memory', path: '/cg' }] },
      cgroupNamespace: true, cgroupTop: '', startFd: 8, timeFd: undefined, idmaps: new Map(), state: { creating: '{}', created: '{}' },
    })
    t.ok(encodePlan({ cloneFlags: 0, cgroupFd: -1, idmapFd: -1, netnsFd: -1, idBase: 0, idCount: 1, pipeOwner: 0, ops }).length > 1000)
    const kinds = ops.map(op => op.kind)
    const pivot = kinds.indexOf('pivot')
    t.same(ops.slice(0, pivot).filter(op => op.kind === 'attach').map(op => op.texts), [['/bundle/rootfs']])
    t.same(ops.slice(pivot).filter(op => op.kind === 'tree' || op.kind === 'fsmount'), [])
    t.ok(kinds.indexOf('wait') < kinds.indexOf('capabilities') && kinds.indexOf('checkProgram') < kinds.indexOf('wait'))
    t.ok(kinds.lastIndexOf('seccomp') < kinds.indexOf('exec'))
  })
})

t.test('a seccomp profile becomes a filter', async t => {
  let profile: ReturnType<typeof compileProfile>
  try {
    profile = compileProfile({ defaultAction: 'SCMP_ACT_ERRNO', architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'], flags: ['SECCOMP_FILTER_FLAG_LOG'], syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW', args: [] }] })
  } catch (err) {
    return t.comment(`SKIP ${String(err)}`)
  }
  t.equal(profile.flags, 2)
  t.ok(profile.program.length > 0 && profile.program.length % 8 === 0)
})

t.test('a command line is read as runc reads it', async t => {
  const flags: readonly Flag[] = [{ names: ['bundle', 'b'], value: 'DIR', about: '' }, { names: ['detach', 'd'], about: '' }, { names: ['env', 'e'], value: 'X', about: '', many: true }]
  const given = parseFlags(['-b', '/x', '--detach', '-e', 'A=1', '--env=B=2', 'id', 'ls', '-l', '--bundle', 'y'], flags)
  t.equal(given.text('bundle'), '/x')
  t.ok(given.on('detach'))
  t.same(given.texts('env'), ['A=1', 'B=2'])
  t.same(given.rest, ['id', 'ls', '-l', '--bundle', 'y'], 'what follows the first argument is left alone')
  t.same(parseFlags(['--', '-b'], flags).rest, ['-b'])
  t.notOk(parseFlags(['--detach=false'], flags).on('detach'))
  t.throws(() => parseFlags(['--none'], flags), /unknown option --none/)
  t.throws(() => parseFlags(['--bundle'], flags), /needs a value/)
  t.same(['TERM', 'SIGTERM', 'sigterm', '15'].map(parseSignal), [15, 15, 15, 15])
  for (const wrong of ['', '0', '65', 'NONE', '-9']) t.throws(() => parseSignal(wrong), /is not a signal/, `"${wrong}"`)
})

t.test('the launcher hands over to the project’s Node', async t => {
  t.match(readFileSync(new URL('../../services/oci/wherry-oci', import.meta.url), 'utf8'), /services\/oci\/main\.ts/)
})
