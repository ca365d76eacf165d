// Capabilities that a process shall have and its runtime cannot give, because it has not got them itself (a
// runtime in a container or a restricted virtual machine).  The spec: leave them out, with a warning.

import { readFileSync } from 'node:fs'
import type { BundleProcess } from '../contract/bundle-spec.ts'
import { withinMask } from '../runtime/capability.ts'

/** PROCESS with what can be granted.  In a user namespace of its own (OWN_USERS) that is everything. */
export function grantable(
  process: BundleProcess,
  ownUsers: boolean,
  warn: (message: string) => void,
): BundleProcess {
  if (ownUsers) return process
  const mask = BigInt(
    `0x${/^CapPrm:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`,
  )
  const sets = Object.entries(process.capabilities) as Array<
    [keyof BundleProcess['capabilities'], readonly string[]]
  >
  const missing = new Set(
    sets.flatMap(([, names]) => names.filter((name) => withinMask([name], mask).length === 0)),
  )
  if (missing.size === 0) return process
  warn(
    `process.capabilities: ${[...missing].join(', ')} cannot be granted, the runtime has not got it; left out`,
  )
  const kept = Object.fromEntries(
    sets.map(([name, names]) => [name, withinMask(names, mask)]),
  ) as unknown as BundleProcess['capabilities']
  return { ...process, capabilities: kept }
}
