// A deployment as its owner writes it: what is taken, and what is refused by name.

import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import { parseDeployment } from '../../services/contract/function-spec.ts'

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
      'none in the words of the library that looks',
    )
    return err.faults.map((fault) => fault.path)
  }
}

t.test(
  'a limit of processes is a whole number, also as text, and nothing that JavaScript takes for one',
  async (t) => {
    for (const pids of [16, '16'])
      t.equal(parseDeployment({ service: 'f', image: 'busybox', limits: { pids } }).limits.pids, 16)
    for (const pids of [true, null, [], [5], '', ' 5', '5.0', 1.5, '0x10', 0, 32_769, -1, {}]) {
      t.same(faultsOf({ limits: { pids } }), ['limits.pids'], JSON.stringify(pids))
    }
  },
)

t.test('a volume has a place of its own', async (t) => {
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
    'a name longer than the kernel takes',
  )
  t.same(faultsOf({ workingDir: `/a/${'ü'.repeat(128)}` }), ['workingDir'], 'which counts bytes')
  for (const twin of ['/a', '/a/', '//a'])
    t.same(faultsOf({ volumes: [volume('/a'), volume(twin)] }), ['volumes[1].target'], twin)
})

t.test('every wrong field is named by its path, all of them at once', async (t) => {
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
