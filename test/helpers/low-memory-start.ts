// A process that starts a container with the largest kernel memory demand that a function spec can cause
// (thousands of folders that stay in memory because each path ends in a mount point), and a memory limit
// below that. It exits with 0 if the OOM killer does not kill it.

import { chmodSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Mount } from '../../services/contract/runtime-spec.ts'
import { openRig } from './container.ts'

const VOLUMES = 32
const DEPTH = 62
const LIMIT_BYTES = 2 << 20

const rig = await openRig(1)
process.send?.({ data: rig.data })
const source = join(rig.data, 'volume')
mkdirSync(source)
chmodSync(source, 0o777)
const deep = Array.from({ length: DEPTH }, () => 'a').join('/')
const mounts = Array.from({ length: VOLUMES }, (_, i): Mount => ({
  destination: i === 0 ? '/v' : `/v/${i}/${deep}`,
  type: 'bind',
  source,
  options: ['nosuid', 'nodev'],
}))
await rig
  .run(['echo'], (spec) => ({
    ...spec,
    mounts: [...spec.mounts, ...mounts],
    linux: { ...spec.linux, resources: { ...spec.linux.resources, memory: { limit: LIMIT_BYTES } } },
  }))
  .catch(() => {})
await rig.close()
process.disconnect?.()
