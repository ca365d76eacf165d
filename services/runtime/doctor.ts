// What this kernel and this host must have for containers to run, asked one by one, each with what to
// do when it is missing.  Asks by doing (a namespace is made, an id-mapped mount is tried), because
// version numbers and configuration files lie.

import { closeSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { release } from 'node:os'
import { dirname, join } from 'node:path'
import { findHostCgroups } from './cgroup.ts'
import { openNative, type Native } from './native.ts'
import { compileSeccomp } from './seccomp.ts'
import { FUNCTION_PROFILE } from './seccomp-profile.ts'
import { ID_COUNT } from './user.ts'

export interface Finding {
  readonly name: string
  readonly ok: boolean
  readonly detail: string
  /** What to do about it; empty when ok. */
  readonly remedy: string
}

const KERNEL_MIN = [5, 19] as const
/** The first whose tmpfs keeps the extended attributes by which an overlay remembers that a folder is gone. */
const KERNEL_WHOLE = [6, 6] as const
const PROBE_ID_BASE = 16_777_216

function finding (name: string, remedy: string, ask: () => string): Finding {
  try {
    return { name, ok: true, detail: ask(), remedy: '' }
  } catch (err) {
    return { name, ok: false, detail: err instanceof Error ? err.message : String(err), remedy }
  }
}

function isAtLeast ([major, minor]: readonly [number, number]): boolean {
  const [ourMajor = 0, ourMinor = 0] = release().split('.').map(Number)
  return ourMajor > major || (ourMajor === major && ourMinor >= minor)
}

function askKernel (): string {
  if (!isAtLeast(KERNEL_MIN)) throw new Error(`Linux ${release()} is older than ${KERNEL_MIN.join('.')}`)
  const limit = `; before ${KERNEL_WHOLE.join('.')} a function that removes or replaces a folder of its image gets EIO (docs/isolation.md)`
  return `Linux ${release()}${isAtLeast(KERNEL_WHOLE) ? '' : limit}`
}

function askOverlay (): string {
  if (!/\toverlay$/m.test(readFileSync('/proc/filesystems', 'utf8'))) throw new Error('overlay is not in /proc/filesystems')
  return 'overlay'
}

function askCgroups (): string {
  const host = findHostCgroups({ mayOffer: false })
  if (host.missing.length > 0) throw new Error(`layout ${host.layout}, missing: ${host.missing.join(', ')}`)
  const driver = host.driver === 'v2' ? `v2 at ${host.v2!.directory}` : `v1 (${[...host.v1.keys()].join(', ')})`
  return `layout ${host.layout}, driver ${driver}`
}

function askNamespace (make: () => number): string {
  closeSync(make())
  return 'can be made'
}

/** The lowest folder above PATH that exists. */
function nearestFolder (path: string): string {
  return existsSync(path) ? path : nearestFolder(dirname(path))
}

function askIdmap (native: Native, dataDir: string): string {
  // The data folder itself may not be there yet: ask the file system that it will be on, leave nothing.
  const directory = join(nearestFolder(dataDir), `.wherry-doctor-${process.pid}`)
  const userns = native.newUserNamespace(PROBE_ID_BASE, ID_COUNT)
  try {
    mkdirSync(directory, { mode: 0o700 })
    const errno = native.probeIdmap(directory, userns)
    if (errno !== undefined) throw new Error(`the file system of ${dataDir} cannot be mounted with mapped ids (${errno})`)
    return `works on the file system of ${dataDir}`
  } finally {
    closeSync(userns)
    rmSync(directory, { recursive: true, force: true })
  }
}

/** All findings about this host, in the order in which one would mend them. */
export function probeKernel ({ nativeDir, dataDir }: { nativeDir: string, dataDir: string }): Finding[] {
  const findings = [
    finding('kernel', 'use a kernel of 5.19 or later (Debian 12 has 6.1)', askKernel),
    finding('overlayfs', 'run "modprobe overlay"', askOverlay),
    finding('cgroups', 'mount the missing controllers, or run under a systemd unit with Delegate=yes', askCgroups),
    finding('seccomp', 'install libseccomp2 ("make setup")', () => `filter of ${compileSeccomp(FUNCTION_PROFILE).length / 8} instructions`),
  ]
  let native: Native | undefined
  findings.push(finding('native library', 'run "make native"', () => {
    native = openNative(nativeDir)
    return `libwherry.so, ABI ${native.abi}`
  }))
  const library = native
  if (!library) return findings
  return [
    ...findings,
    finding('user namespaces', 'raise user.max_user_namespaces (sysctl) above 0 and run as root', () => askNamespace(() => library.newUserNamespace(PROBE_ID_BASE, ID_COUNT))),
    finding('network namespaces', 'raise user.max_net_namespaces (sysctl) above 0 and run as root', () => askNamespace(() => library.newNetworkNamespace())),
    finding('id-mapped mounts', 'put --data on ext4, xfs or btrfs', () => askIdmap(library, dataDir)),
  ]
}
