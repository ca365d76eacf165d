// Faults of an invalid config.json name the field.  The first test generates cases: each field of a full
// config with each kind of wrong value.  The others are values that are invalid only in their place.

import t from 'tap'
import type { InvalidRequest } from '../../services/contract/errors.ts'
import { parseConfig } from '../../services/oci/config/config.ts'
import { specTemplate } from '../../services/oci/config/template.ts'
import type { Config } from '../helpers/bundle.ts'

/** The faults of CONFIG as "path: problem". */
function faultsIn(config: Config): string[] {
  try {
    parseConfig(JSON.stringify(config), '/bundle')
  } catch (err) {
    if (!Array.isArray((err as InvalidRequest).faults)) throw err
    return (err as InvalidRequest).faults.map(({ path, problem }) => `${path}: ${problem}`)
  }
  return []
}

function faultsOf(change: (config: Config) => void): string[] {
  const config: Config = structuredClone(specTemplate())
  change(config)
  return faultsIn(config)
}

/** A config with every field that the runtime reads. */
function fullConfig(): Config {
  const device = { major: 8, minor: 0 }
  const config: Config = structuredClone(specTemplate())
  Object.assign(config, {
    ociVersion: '1.2.0',
    domainname: 'd',
    annotations: { key: 'value' },
    hooks: Object.fromEntries(
      ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'].map(
        (name) => [name, [{ path: '/bin/true', args: ['true', 'x'], env: ['A=b'], timeout: 3 }]],
      ),
    ),
  })
  Object.assign(config.process, {
    consoleSize: { height: 3, width: 4 },
    oomScoreAdj: 5,
    apparmorProfile: 'p',
    selinuxLabel: '',
    user: { uid: 1, gid: 2, umask: 18, additionalGids: [3] },
    capabilities: {
      bounding: ['CAP_KILL'],
      permitted: ['CAP_KILL'],
      inheritable: ['CAP_KILL'],
      effective: ['CAP_KILL'],
      ambient: ['CAP_KILL'],
    },
    ioPriority: { class: 'IOPRIO_CLASS_BE', priority: 4 },
    scheduler: {
      policy: 'SCHED_DEADLINE',
      nice: 0,
      priority: 0,
      flags: ['SCHED_FLAG_RESET_ON_FORK'],
      runtime: 1,
      deadline: 2,
      period: 3,
    },
  })
  const maps = [{ containerID: 0, hostID: 1000, size: 10 }]
  config.mounts.push({
    destination: '/data',
    type: 'none',
    source: '/srv',
    options: ['rbind', 'ridmap'],
    uidMappings: structuredClone(maps),
    gidMappings: structuredClone(maps),
  })
  config.linux.namespaces.push({ type: 'user', path: '' }, { type: 'time' })
  Object.assign(config.linux, {
    uidMappings: structuredClone(maps),
    gidMappings: structuredClone(maps),
    timeOffsets: { monotonic: { secs: 1, nanosecs: 2 }, boottime: { secs: -1, nanosecs: 2 } },
    devices: [{ path: '/dev/x', type: 'c', ...device, fileMode: 438, uid: 0, gid: 0 }],
    cgroupsPath: '/a/b',
    rootfsPropagation: 'slave',
    personality: { domain: 'LINUX' },
    mountLabel: '',
    sysctl: { 'net.ipv4.ip_forward': '1' },
    seccomp: {
      listenerPath: '/agent.sock',
      listenerMetadata: 'm',
      defaultAction: 'SCMP_ACT_ERRNO',
      defaultErrnoRet: 1,
      architectures: ['SCMP_ARCH_X86_64'],
      flags: ['SECCOMP_FILTER_FLAG_LOG'],
      syscalls: [
        {
          names: ['read'],
          action: 'SCMP_ACT_ERRNO',
          errnoRet: 2,
          args: [{ index: 0, value: 1, valueTwo: 2, op: 'SCMP_CMP_EQ' }],
        },
      ],
    },
    resources: {
      devices: [{ allow: true, type: 'c', ...device, access: 'rw' }],
      memory: {
        limit: 1000,
        reservation: 500,
        swap: 2000,
        kernel: 5,
        kernelTCP: 6,
        swappiness: 7,
        disableOOMKiller: true,
        useHierarchy: true,
        checkBeforeUpdate: true,
      },
      cpu: {
        shares: 100,
        quota: 5,
        period: 6,
        burst: 1,
        realtimeRuntime: 7,
        realtimePeriod: 8,
        cpus: '0',
        mems: '0',
        idle: 1,
      },
      pids: { limit: 3 },
      blockIO: {
        weight: 10,
        leafWeight: 11,
        weightDevice: [{ ...device, weight: 12, leafWeight: 13 }],
        ...Object.fromEntries(
          [
            'throttleReadBpsDevice',
            'throttleWriteBpsDevice',
            'throttleReadIOPSDevice',
            'throttleWriteIOPSDevice',
          ].map((name) => [name, [{ ...device, rate: 5 }]]),
        ),
      },
      network: { classID: 5, priorities: [{ name: 'eth0', priority: 3 }] },
      rdma: { mlx5_1: { hcaHandles: 3, hcaObjects: 4 } },
      hugepageLimits: [{ pageSize: '2MB', limit: 5 }],
      unified: { 'memory.high': '9' },
    },
  })
  return config
}

type Path = ReadonlyArray<string | number>

/** All fields below VALUE, including objects and lists. */
function fieldsOf(value: unknown, path: Path = []): Array<{ path: Path; value: unknown }> {
  const inner = Array.isArray(value)
    ? [...value.entries()]
    : typeof value === 'object' && value !== null
      ? Object.entries(value)
      : []
  return [
    ...(path.length > 0 ? [{ path, value }] : []),
    ...inner.flatMap(([key, item]) => fieldsOf(item, [...path, key])),
  ]
}

/** PATH as in messages: process.rlimits[1].type */
const written = (path: Path): string =>
  path
    .map((key, i) =>
      typeof key === 'number'
        ? `[${key}]`
        : /^\w+$/.test(key)
          ? `${i > 0 ? '.' : ''}${key}`
          : `[${JSON.stringify(key)}]`,
    )
    .join('')

/** Invalid values for the field of VALUE. */
function wrongValues(value: unknown): unknown[] {
  if (typeof value === 'string') return [7, true, {}, ['x'], 'a\0b', 'x'.repeat((1 << 20) + 1)]
  if (typeof value === 'number') return ['x', true, {}, [1], 1.5, 2 ** 70, -(2 ** 40) - 0.5]
  if (typeof value === 'boolean') return ['true', 1, {}, []]
  return Array.isArray(value) ? ['x', 3, { a: 1 }, Array(9000).fill(null)] : ['x', 3, true, ['x']]
}

function withValue(config: Config, path: Path, value: unknown): Config {
  const copy = structuredClone(config)
  const last = path.at(-1)!
  let at: Config = copy
  for (const key of path.slice(0, -1)) at = at[key]
  at[last] = value
  return copy
}

t.test('accepts a config with every field', async (t) => {
  t.same(faultsIn(fullConfig()), [])
})

t.test('names each field with a wrong value', async (t) => {
  const full = fullConfig()
  const fields = fieldsOf(full)
  t.ok(fields.length > 250, `${fields.length} fields`)
  const silent: string[] = []
  for (const { path, value } of fields) {
    for (const wrong of wrongValues(value)) {
      const name = written(path)
      // A fault of a mount option has the mount as its path and the option's index in the message.
      const names = name.includes('.options[') ? [name.slice(0, name.indexOf('.options')), name] : [name]
      if (
        !faultsIn(withValue(full, path, wrong)).some((fault) =>
          names.some((prefix) => fault.startsWith(prefix)),
        )
      )
        silent.push(`${name} = ${JSON.stringify(wrong)?.slice(0, 40)}`)
    }
  }
  t.same(silent, [])
})

function newUsers(config: Config): Config {
  const maps = [{ containerID: 0, hostID: 1000, size: 65_536 }]
  config.linux.namespaces.push({ type: 'user' })
  Object.assign(config.linux, { uidMappings: maps, gidMappings: maps })
  return config
}

t.test('names fields that are invalid in their place', async (t) => {
  const cases: ReadonlyArray<[(config: Config) => void, string | RegExp]> = [
    [
      (c) => {
        c.ociVersion = '2.0.0'
      },
      /^ociVersion: "2\.0\.0"/,
    ],
    [
      (c) => {
        c.ociVersion = '1.0'
      },
      /^ociVersion: "1\.0"/,
    ],
    [
      (c) => {
        c.windows = {}
      },
      'windows: is not for Linux containers',
    ],
    [
      (c) => {
        delete c.process
      },
      /^process\.args: is missing/,
    ],
    [
      (c) => {
        c.process.args = []
      },
      'process.args: is empty; there is nothing to run',
    ],
    [
      (c) => {
        c.process.args = Array(5000).fill('a')
      },
      'process.args: has 5000 entries; at most 4096 are taken',
    ],
    [
      (c) => {
        c.process.cwd = 'tmp'
      },
      'process.cwd: "tmp" is not an absolute path',
    ],
    [
      (c) => {
        c.process.env = ['A']
      },
      'process.env[0]: "A" is not NAME=value',
    ],
    [
      (c) => {
        c.process.rlimits.push({ type: 'X', soft: 1, hard: 1 })
      },
      'process.rlimits[1].type: "X" is not a resource limit',
    ],
    [
      (c) => {
        c.process.rlimits[0].soft = -1
      },
      /^process\.rlimits\[0\]\.soft: -1 is not/,
    ],
    [
      (c) => {
        c.process.rlimits[0].soft = 2000
      },
      'process.rlimits[0].soft: 2000 is above the hard limit 1024',
    ],
    [
      (c) => {
        c.process.rlimits.push(c.process.rlimits[0])
      },
      /rlimits\[1\]\.type: "RLIMIT_NOFILE" is given twice/,
    ],
    [
      (c) => {
        c.process.user.uid = 4294967295
      },
      /^process\.user\.uid: 4294967295 is not a whole number from 0 to 4294967294/,
    ],
    [
      (c) => {
        c.linux.seccomp = { defaultAction: 'SCMP_ACT_NOTIFY' }
      },
      'linux.seccomp.listenerPath: is missing; SCMP_ACT_NOTIFY needs a listener',
    ],
    [
      (c) => {
        c.linux.seccomp = { defaultAction: 'SCMP_ACT_ALLOW', listenerPath: 'x' }
      },
      'linux.seccomp.listenerPath: "x" is not an absolute path',
    ],
    [
      (c) => {
        c.linux.seccomp = { defaultAction: 'SCMP_ACT_ALLOW', listenerMetadata: 'x' }
      },
      'linux.seccomp.listenerMetadata: has no meaning without listenerPath',
    ],
    [
      (c) => {
        c.linux.seccomp = {
          defaultAction: 'SCMP_ACT_ALLOW',
          flags: ['SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV'],
        }
      },
      /^linux\.seccomp\.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV has no meaning/,
    ],
    [
      (c) => {
        newUsers(c).process.user.uid = 70_000
      },
      'process.user.uid: 70000 is in none of linux.uidMappings',
    ],
    [
      (c) => {
        newUsers(c).process.user.gid = 70_001
      },
      'process.user.gid: 70001 is in none of linux.gidMappings',
    ],
    [
      (c) => {
        newUsers(c).process.user.additionalGids = [5, 70_002]
      },
      'process.user.additionalGids: 70002 is in none of linux.gidMappings',
    ],
    [
      (c) => {
        c.linux.readonlyPaths = ['/./']
      },
      /^linux\.readonlyPaths\[0\]: is the root itself/,
    ],
    [
      (c) => {
        c.linux.maskedPaths = ['//']
      },
      /^linux\.maskedPaths\[0\]: is the root itself/,
    ],
    [
      (c) => {
        c.process.user.umask = 0o1000
      },
      /^process\.user\.umask: 512/,
    ],
    [
      (c) => {
        c.process.user.username = 'root'
      },
      'process.user.username: is for Windows',
    ],
    [
      (c) => {
        c.process.oomScoreAdj = 2000
      },
      /^process\.oomScoreAdj: 2000/,
    ],
    [
      (c) => {
        c.process.selinuxLabel = 'x'
      },
      /^process\.selinuxLabel: is not supported/,
    ],
    [
      (c) => {
        c.process.execCPUAffinity = {}
      },
      /^process\.execCPUAffinity: is not supported/,
    ],
    [
      (c) => {
        c.process.consoleSize = { height: -1, width: 3 }
      },
      /^process\.consoleSize\.height: -1/,
    ],
    [
      (c) => {
        c.process.scheduler = { policy: 'SCHED_MINE' }
      },
      /^process\.scheduler\.policy: "SCHED_MINE" is not a policy/,
    ],
    [
      (c) => {
        c.process.scheduler = { policy: 'SCHED_FIFO' }
      },
      'process.scheduler.priority: must be 1 to 99 for SCHED_FIFO',
    ],
    [
      (c) => {
        c.process.scheduler = { policy: 'SCHED_OTHER', runtime: 5 }
      },
      /^process\.scheduler: runtime, deadline and period/,
    ],
    [
      (c) => {
        c.process.ioPriority = { class: 'IOPRIO_CLASS_BE', priority: 8 }
      },
      /^process\.ioPriority\.priority: 8/,
    ],
    [
      (c) => {
        delete c.root
      },
      /^root\.path: is missing/,
    ],
    [
      (c) => {
        c.mounts[0].destination = '/a/../..'
      },
      'mounts[0].destination: is the root itself',
    ],
    [
      (c) => {
        c.mounts.push({ destination: '/proc/../proc/sys', type: 'bind', source: '/x' })
      },
      /^mounts\[7\]\.destination: .* is in \/proc/,
    ],
    [
      (c) => {
        c.mounts.push({ destination: '/proc', type: 'bind', source: '/x' })
      },
      /^mounts\[7\]\.destination: "bind" may not be mounted over \/proc/,
    ],
    [
      (c) => {
        c.mounts.push({ destination: '/x', options: ['bind'] })
      },
      /^mounts\[7\]\.source: is missing/,
    ],
    [
      (c) => {
        c.mounts.push({ destination: '/x' })
      },
      /^mounts\[7\]\.type: is missing/,
    ],
    [
      (c) => {
        c.mounts = Array(600).fill(c.mounts[3])
      },
      'mounts: has 600 entries; at most 512 are taken',
    ],
    [
      (c) => {
        c.mounts[0].options = ['size=1,mode=2']
      },
      /^mounts\[0\]: options\[0\]: .*comma/,
    ],
    [
      (c) => {
        c.mounts[0].options = ['idmap']
      },
      'mounts[0]: only bind mounts can map ids',
    ],
    [
      (c) => {
        c.mounts.push({ destination: '/x', source: '/x', options: ['bind', 'idmap'] })
      },
      /^mounts\[7\]: has no uidMappings, and there is no new user namespace/,
    ],
    [
      (c) => {
        c.mounts.push({
          destination: '/x',
          source: '/x',
          options: ['bind'],
          uidMappings: [{ containerID: 0, hostID: 0, size: 1 }],
        })
      },
      /^mounts\[7\]\.gidMappings: is missing/,
    ],
    [
      (c) => {
        c.hooks = { prestart: [{ path: 'x' }] }
      },
      'hooks.prestart[0].path: "x" is not an absolute path',
    ],
    [
      (c) => {
        c.hooks = { poststop: [{ path: '/x', timeout: 0 }] }
      },
      /^hooks\.poststop\[0\]\.timeout: 0/,
    ],
    [
      (c) => {
        c.linux.namespaces.push({ type: 'pid' })
      },
      /^linux\.namespaces\[6\]\.type: "pid" is given twice/,
    ],
    [
      (c) => {
        c.linux.namespaces.push({ type: 'other' })
      },
      /^linux\.namespaces\[6\]\.type: "other" is not a namespace/,
    ],
    [
      (c) => {
        c.linux.namespaces[0].path = 'ns/pid'
      },
      'linux.namespaces[0].path: "ns/pid" is not an absolute path',
    ],
    [
      (c) => {
        c.linux.namespaces.push({ type: 'user' })
      },
      /^linux\.uidMappings: is empty/,
    ],
    [
      (c) => {
        c.linux.namespaces.push({ type: 'user' })
        c.linux.uidMappings = [{ containerID: 1, hostID: 0, size: 5 }]
      },
      /^linux\.uidMappings: does not map id 0/,
    ],
    [
      (c) => {
        c.linux.uidMappings = [
          { containerID: 0, hostID: 0, size: 5 },
          { containerID: 4, hostID: 9, size: 1 },
        ]
      },
      'linux.uidMappings[1].containerID: 4 overlaps with an earlier entry',
    ],
    [
      (c) => {
        c.linux.gidMappings = [{ containerID: 0, hostID: 4294967290, size: 10 }]
      },
      'linux.gidMappings[0].size: 10 exceeds the last id',
    ],
    [
      (c) => {
        c.linux.gidMappings = Array.from({ length: 341 }, (_, i) => ({ containerID: i, hostID: i, size: 1 }))
      },
      'linux.gidMappings: has 341 entries; at most 340 are taken',
    ],
    [
      (c) => {
        c.linux.namespaces = c.linux.namespaces.filter((n: { type: string }) => n.type !== 'uts')
      },
      /^hostname: needs a uts namespace/,
    ],
    [
      (c) => {
        c.linux.namespaces = [{ type: 'uts' }, { type: 'user' }]
        c.linux.uidMappings = c.linux.gidMappings = [{ containerID: 0, hostID: 5, size: 5 }]
      },
      /^linux\.namespaces: has a user namespace but no mount namespace/,
    ],
    [
      (c) => {
        c.linux.namespaces = [{ type: 'uts' }]
        c.mounts.push({ destination: '/x', type: 'overlay', source: 'o' })
      },
      'mounts[7].type: "overlay" needs a new mount namespace',
    ],
    [
      (c) => {
        c.linux.timeOffsets = { monotonic: { secs: 1 } }
      },
      'linux.timeOffsets: needs a new time namespace',
    ],
    [
      (c) => {
        c.linux.namespaces.push({ type: 'time' })
        c.linux.timeOffsets = { realtime: { secs: 1 } }
      },
      /^linux\.timeOffsets\.realtime: is not a clock/,
    ],
    [
      (c) => {
        c.linux.devices = [{ path: 'x', type: 'c', major: 1, minor: 1 }]
      },
      /^linux\.devices\[0\]\.path: "x"/,
    ],
    [
      (c) => {
        c.linux.devices = [{ path: '/x', type: 'z', major: 1, minor: 1 }]
      },
      /^linux\.devices\[0\]\.type: "z"/,
    ],
    [
      (c) => {
        c.linux.devices = [1, 2].map((minor) => ({ path: '/x', type: 'c', major: 1, minor }))
      },
      'linux.devices[1].path: "/x" is given twice',
    ],
    [
      (c) => {
        c.linux.maskedPaths = ['proc']
      },
      'linux.maskedPaths[0]: "proc" is not an absolute path',
    ],
    [
      (c) => {
        c.linux.cgroupsPath = '/'
      },
      /^linux\.cgroupsPath: is the root of/,
    ],
    [
      (c) => {
        c.linux.cgroupsPath = '/a/../../b'
      },
      /^linux\.cgroupsPath: contains/,
    ],
    [
      (c) => {
        c.linux.sysctl = { 'kernel.panic': '1' }
      },
      /^linux\.sysctl\["kernel\.panic"\]: belongs to no namespace/,
    ],
    [
      (c) => {
        c.linux.sysctl = { 'net.ipv4/../../kernel/panic': '1' }
      },
      /is not the name of a kernel setting/,
    ],
    [
      (c) => {
        c.linux.resources.memory = { limit: 200, swap: 100 }
      },
      /^linux\.resources\.memory\.swap: 100 is below memory\.limit 200/,
    ],
    [
      (c) => {
        c.linux.resources.memory = { swap: 100 }
      },
      /^linux\.resources\.memory\.swap: needs a memory\.limit/,
    ],
    [
      (c) => {
        c.linux.resources.memory = { limit: -2 }
      },
      /^linux\.resources\.memory\.limit: -2/,
    ],
    [
      (c) => {
        c.linux.resources.cpu = { cpus: 'all' }
      },
      /^linux\.resources\.cpu\.cpus: "all"/,
    ],
    [
      (c) => {
        c.linux.resources.blockIO = { weight: 5 }
      },
      'linux.resources.blockIO.weight: 5 must be at least 10',
    ],
    [
      (c) => {
        c.linux.resources.network = { priorities: [{ name: 'a b', priority: 1 }] }
      },
      /^linux\.resources\.network\.priorities\[0\]\.name: "a b"/,
    ],
    [
      (c) => {
        c.linux.resources.rdma = { 'a b': {} }
      },
      /^linux\.resources\.rdma\["a b"\]: is not a device name/,
    ],
    [
      (c) => {
        c.linux.resources.hugepageLimits = [{ pageSize: '2', limit: 1 }]
      },
      /^linux\.resources\.hugepageLimits\[0\]\.pageSize: "2"/,
    ],
    [
      (c) => {
        c.linux.resources.hugepageLimits = [1, 2].map((limit) => ({ pageSize: '2MB', limit }))
      },
      /hugepageLimits\[1\]\.pageSize: "2MB" is given twice/,
    ],
    [
      (c) => {
        c.linux.resources.devices.push({ allow: true, access: 'rwx' })
      },
      /^linux\.resources\.devices\[1\]\.access: "rwx"/,
    ],
    [
      (c) => {
        c.linux.resources.unified = { '../x.y': '1' }
      },
      /is not a cgroup file name/,
    ],
    [
      (c) => {
        c.linux.seccomp = {
          defaultAction: 'SCMP_ACT_ALLOW',
          syscalls: [{ names: [], action: 'SCMP_ACT_LOG' }],
        }
      },
      'linux.seccomp.syscalls[0].names: is empty',
    ],
    [
      (c) => {
        c.linux.rootfsPropagation = 'x'
      },
      /^linux\.rootfsPropagation: "x"/,
    ],
    [
      (c) => {
        c.linux.personality = { domain: 'LINUX', flags: ['X'] }
      },
      /^linux\.personality\.flags: is not supported/,
    ],
    [
      (c) => {
        c.linux.intelRdt = {}
      },
      /^linux\.intelRdt: is not supported/,
    ],
    [
      (c) => {
        c.linux.netDevices = { eth0: {} }
      },
      /^linux\.netDevices: is not supported/,
    ],
    [
      (c) => {
        c.linux.memoryPolicy = { mode: 'MPOL_BIND' }
      },
      /^linux\.memoryPolicy: is not supported/,
    ],
    [
      (c) => {
        c.linux.mountLabel = 'x'
      },
      /^linux\.mountLabel: is not supported/,
    ],
  ]
  for (const [change, expected] of cases) {
    const faults = faultsOf(change)
    t.ok(
      faults.some((fault) => (typeof expected === 'string' ? fault === expected : expected.test(fault))),
      `${String(expected)} in ${JSON.stringify(faults.slice(0, 3))}`,
    )
  }
})

t.test('reports all faults at once, up to a bound', async (t) => {
  t.equal(
    faultsOf((config) => {
      config.process.cwd = 'x'
      config.root = { path: '', readonly: 3 }
      config.linux.cgroupsPath = '/'
    }).length,
    3,
  )
  t.equal(
    faultsOf((config) => {
      config.process.env = Array(4000).fill('x')
    }).length,
    100,
  )
  t.throws(() => parseConfig('nothing', '/b'), {
    code: 'ERR_INVALID_REQUEST',
    message: /config\.json: is not JSON/,
  })
  for (const text of ['[]', '3', 'null', '""'])
    t.throws(() => parseConfig(text, '/b'), { code: 'ERR_INVALID_REQUEST' }, text)
})
