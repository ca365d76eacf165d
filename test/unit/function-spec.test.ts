// A deployment as its owner writes it: what is taken, and what is refused by name.

import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import { parseDeployment } from '../../services/contract/function-spec.ts'

/** The paths of the fields that are wrong in a deployment with FIELDS. */
function faultsOf (fields: Record<string, unknown>): string[] {
  try {
    parseDeployment({ service: 'f', image: 'busybox', ...fields })
    return []
  } catch (err) {
    if (!(err instanceof InvalidRequest)) throw err
    return err.faults.map(fault => fault.path)
  }
}

t.test('a limit of processes is a whole number, also as text, and nothing that JavaScript takes for one', async t => {
  for (const pids of [16, '16']) t.equal(parseDeployment({ service: 'f', image: 'busybox', limits: { pids } }).limits.pids, 16)
  for (const pids of [true, null, [], [5], '', ' 5', '5.0', 1.5, '0x10', 0, 32_769, -1, {}]) {
    t.same(faultsOf({ limits: { pids } }), ['limits.pids'], JSON.stringify(pids))
  }
})

t.test('a volume has a place of its own', async t => {
  const volume = (target: string) => ({ name: 'v', target })
  for (const target of ['/.', '/', '//', '/./proc/x', '/proc', '//proc', '/sys/', '/dev/shm', '/a/../b', '/..', 'a', '']) {
    t.same(faultsOf({ volumes: [volume(target)] }), ['volumes[0].target'], target)
  }
  for (const target of ['/a', '/processes', '/a/.hidden', '/a/..b', '/device']) t.same(faultsOf({ volumes: [volume(target)] }), [], target)
  for (const twin of ['/a', '/a/', '//a']) t.same(faultsOf({ volumes: [volume('/a'), volume(twin)] }), ['volumes[1].target'], twin)
})
