// Capabilities that a process requests and the runtime cannot grant, because it runs without them itself (in
// a container or a restricted virtual machine). The spec: leave them out and warn (config.md, Process).

import { readFileSync } from 'node:fs'
import type { BundleProcess } from '../contract/bundle-spec.ts'
import { withinMask } from '../runtime/capability.ts'

/** PROCESS with the capabilities that can be granted: all of them in a new user namespace (OWN_USERS). */
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
    `process.capabilities: ${[...missing].join(', ')} cannot be granted, because the runtime does not have it; left out`,
  )
  const kept = Object.fromEntries(
    sets.map(([name, names]) => [name, withinMask(names, mask)]),
  ) as unknown as BundleProcess['capabilities']
  return { ...process, capabilities: kept }
}
