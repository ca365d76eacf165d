// A deployment as its owner writes it: what is accepted, and which field is refused. What is accepted must
// load again.

import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import { describeSpec, parseDeployment } from '../../services/contract/deployment.ts'
import { readRecord, writeRecord } from '../../services/contract/function-spec.ts'

/** The paths of the fields that are wrong in a deployment with FIELDS. */
function faultsOf(fields: Record<string, unknown>): string[] {
  try {
    parseDeployment({ service: 'f', image: 'busybox', ...fields })
    return []
  } catch (err) {
    if (!(err instanceof InvalidRequest)) throw err
    t.same(
      err.faults.filter(({ problem }) => /Invalid|expected|Too/.test(problem)),
      [],
      'no message of the parser library',
    )
    return err.faults.map((fault) => fault.path)
  }
}

t.test(
  'limits.pids is a whole number or a string of one, and nothing that JavaScript coerces to one',
  async (t) => {
    for (const pids of [16, '16'])
      t.equal(parseDeployment({ service: 'f', image: 'busybox', limits: { pids } }).limits.pids, 16)
    for (const pids of [true, null, [], [5], '', ' 5', '5.0', 1.5, '0x10', 0, 32_769, -1, {}]) {
      t.same(faultsOf({ limits: { pids } }), ['limits.pids'], JSON.stringify(pids))
    }
  },
)

t.test('every volume has a separate target', async (t) => {
  const volume = (target: string) => ({ name: 'v', target })
  for (const target of [
    '/.',
    '/',
    '//',
    '/./proc/x',
    '/proc',
    '//proc',
    '/sys/',
    '/dev/shm',
    '/a/../b',
    '/..',
    'a',
    '',
  ]) {
    t.same(faultsOf({ volumes: [volume(target)] }), ['volumes[0].target'], target)
  }
  for (const target of ['/a', '/processes', '/a/.hidden', '/a/..b', '/device'])
    t.same(faultsOf({ volumes: [volume(target)] }), [], target)
  t.same(
    faultsOf({ volumes: [volume(`/${'x'.repeat(256)}`)] }),
    ['volumes[0].target'],
    'a name longer than the kernel allows',
  )
  t.same(faultsOf({ workingDir: `/a/${'ü'.repeat(128)}` }), ['workingDir'], 'the kernel counts bytes')
  for (const twin of ['/a', '/a/', '//a'])
    t.same(faultsOf({ volumes: [volume('/a'), volume(twin)] }), ['volumes[1].target'], twin)
})

t.test('every wrong field is named by its path, all at once', async (t) => {
  const wrong: ReadonlyArray<readonly [path: string, fields: Record<string, unknown>]> = [
    ['service', { service: '../x' }],
    ['service', { service: 'x'.repeat(64) }],
    ['service', { service: 'a\0' }],
    ['service', { service: '' }],
    ['image', { image: '' }],
    ['image', { image: 5 }],
    ['image', { image: 'x'.repeat(1025) }],
    ['limits', { limits: 3 }],
    ['timeout', { timeout: {} }],
    ['volumes', { volumes: {} }],
    ['labels', { labels: [] }],
    ['contract', { contract: 'ftp' }],
    ['command', { command: [] }],
    ['command', { command: 'sh' }],
    ['command[1]', { command: ['a', 'b\0'] }],
    ['args[0]', { args: [1] }],
    ['args', { args: Array.from({ length: 257 }, () => 'x') }],
    ['envVars.A', { envVars: { A: 'x\0' } }],
    ['envVars.A=B', { envVars: { 'A=B': '1' } }],
    ['envVars.', { envVars: { '': '1' } }],
    ['envVars.1A', { envVars: { '1A': '1' } }],
    ['envVars.A', { envVars: { A: 1 } }],
    ['limits.memory', { limits: { memory: '1Ki' } }],
    ['limits.memory', { limits: { memory: '-1' } }],
    ['limits.memory', { limits: { memory: '9Ti' } }],
    ['limits.memory', { limits: { memory: 'lots' } }],
    ['limits.cpu', { limits: { cpu: '0' } }],
    ['limits.cpu', { limits: { cpu: 'NaN' } }],
    ['limits.disk', { limits: { disk: '1Gi' } }],
    ['timeout', { timeout: '1ms' }],
    ['timeout', { timeout: '2 days' }],
    ['timeout', { timeout: '25h' }],
    ['volumes[0].name', { volumes: [{ name: '../v', target: '/v' }] }],
    ['volumes[0].target', { volumes: [{ name: 'v' }] }],
    ['volumes[0].mode', { volumes: [{ name: 'v', target: '/v', mode: 'rw' }] }],
    ['user', { user: 'a:b:c' }],
    ['user', { user: '' }],
    ['user', { user: 'a b' }],
    ['user', { user: ':0' }],
    ['user', { user: '65536' }],
    ['user', { user: '0:4294967296' }],
    ['workingDir', { workingDir: 'tmp' }],
    ['workingDir', { workingDir: '/a/../b' }],
    ['workingDir', { workingDir: '/a\0' }],
    ['workingDir', { workingDir: '/a'.repeat(65) }],
    ['readOnlyRootFilesystem', { readOnlyRootFilesystem: 'yes' }],
    ['labels.a', { labels: { a: 1 } }],
    ['secrets', { secrets: ['s'] }],
    ['memory', { memory: '64Mi' }],
  ]
  for (const [path, fields] of wrong) t.same(faultsOf(fields), [path], JSON.stringify(fields).slice(0, 80))
  t.same(faultsOf({ image: '', limits: { cpu: 'x', pids: 0 }, workingDir: 'x' }).toSorted(), [
    'image',
    'limits.cpu',
    'limits.pids',
    'workingDir',
  ])
})

/** Numbers in [0, 1), the same for the same SEED (mulberry32). */
function createRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Values of each field of the wire, valid ones and a few that are refused. */
const VALUES: Readonly<Record<string, readonly unknown[]>> = {
  service: ['f', 'Resize.Me', 'a-b_c', 'x'.repeat(63), '../x'],
  namespace: ['', 'team-a', 'x y'],
  image: ['busybox', 'localhost:5000/x:1', 'registry.example/a/b@sha256:00', 'ü'],
  contract: ['stdio', 'ftp'],
  command: [['cat'], ['sh', '-c', 'echo "$1"\n'], [''], []],
  args: [[], ['-n', '日本', '\u2028'], ['\ud800']],
  envVars: [
    null,
    {},
    { A: '' },
    { 'a.b-c': '1', _: 'x=y', Z: '2' },
    JSON.parse('{"__proto__":"x"}'),
    { toString: 's' },
  ],
  timeout: ['10ms', '1.5s', '90', 5, '1m30s', '1h0.5s', '0.0104s', '24h', '1h1h'],
  volumes: [
    null,
    [],
    [{ name: 'v', target: '//data//x/' }],
    [
      { name: 'b', target: '/b', readonly: true },
      { readonly: false, target: '/a', name: 'a' },
    ],
  ],
  user: ['1000', 'app:app', '0:65535', '007'],
  workingDir: ['/', '/app/', '//a//b'],
  readOnlyRootFilesystem: [true, false],
  labels: [null, { 'com.example/a b': 'ü' }, JSON.parse('{"__proto__":"x","b":"1","1":"2"}')],
  annotations: [{ topic: 'a' }, { constructor: 'c' }],
  requests: [{ cpu: '1' }, null],
  secrets: [[], null],
  network: ['x'],
}
const LIMIT_VALUES: Readonly<Record<string, readonly unknown[]>> = {
  memory: ['64Mi', '4194305', 4194304, '0.1Gi', '128.5M', '1Ti', '7.123456Mi'],
  cpu: ['333.3333m', '0.1', 0.3, 1 / 3, '1000.000001m', 1024, '10m', '0.010001', '512.3'],
  pids: [1, '32768', 77],
}

function randomDeployment(random: () => number): Record<string, unknown> {
  const pick = (values: readonly unknown[]): unknown => values[Math.floor(random() * values.length)]
  const chosen = (all: Readonly<Record<string, readonly unknown[]>>): Record<string, unknown> =>
    Object.fromEntries(
      Object.entries(all)
        .filter(() => random() < 0.4)
        .map(([field, values]) => [field, pick(values)] as const)
        .sort(() => random() - 0.5),
    )
  const limits = random() < 0.8 ? { limits: chosen(LIMIT_VALUES) } : {}
  return { ...chosen(VALUES), service: pick(VALUES['service']!), image: 'busybox', ...limits }
}

t.test('whatever a deployment accepts, a restart loads again, byte for byte', async (t) => {
  const random = createRandom(1)
  let accepted = 0
  const unlike: unknown[] = []
  for (let round = 0; round < 20_000; round++) {
    const deployment = randomDeployment(random)
    let spec
    try {
      spec = parseDeployment(deployment)
    } catch (err) {
      if (!(err instanceof InvalidRequest)) throw err
      continue
    }
    accepted++
    const text = writeRecord({ spec, imageDigest: 'sha256:00', createdAtMs: 1, updatedAtMs: 2 })
    const read = readRecord(spec.name, text)
    const again = 'record' in read ? writeRecord(read.record) : read.problem
    const redeployed = writeRecord({
      spec: parseDeployment({ service: spec.name, ...describeSpec(spec) }),
      imageDigest: 'sha256:00',
      createdAtMs: 1,
      updatedAtMs: 2,
    })
    if (again !== text || redeployed !== text) unlike.push({ deployment, text, again, redeployed })
  }
  t.ok(accepted > 5_000, `${accepted} deployments were accepted`)
  t.same(unlike.slice(0, 3), [])
})

t.test('a fraction of a CPU is kept exactly', async (t) => {
  const spec = parseDeployment({ service: 'f', image: 'busybox', limits: { cpu: '333.3333m' } })
  t.equal(spec.limits.cpus, 333.3333 / 1000)
  t.match(describeSpec(spec), { limits: { cpu: String(333.3333 / 1000) } })
})

t.test('the key __proto__ is refused, not dropped', async (t) => {
  for (const field of ['envVars', 'labels', 'annotations'])
    t.same(faultsOf({ [field]: JSON.parse('{"__proto__":"x"}') }), [`${field}.__proto__`])
})

t.test('a stored definition must satisfy the same rules, and the reason is reported', async (t) => {
  const record = {
    spec: parseDeployment({ service: 'f', image: 'busybox' }),
    imageDigest: 'sha256:00',
    createdAtMs: 1,
    updatedAtMs: 2,
  }
  const problemOf = (change: object, name = 'f'): unknown => {
    const read = readRecord(name, JSON.stringify({ ...record, ...change }))
    return 'problem' in read ? read.problem : undefined
  }
  t.equal(problemOf({}), undefined)
  t.equal(problemOf({ later: 1 }), undefined, 'a newer version may have added a field')
  t.match(problemOf({}, 'g'), /spec\.name/)
  t.match(problemOf({ imageDigest: 1 }), /imageDigest: must be a string/)
  t.match(
    problemOf({ spec: { ...record.spec, limits: { memoryBytes: 1, cpus: 1, pids: 1 } } }),
    /at least 4Mi/,
  )
  t.match(
    problemOf({ spec: { ...record.spec, volumes: [{ name: 'v', target: '/proc' }] } }),
    /volumes\.0\.target/,
  )
  t.match(readRecord('f', '{'), { problem: 'is not JSON' })
})
