// Checks what this kernel and host must or should have to run containers, each with a remedy. Where possible
// it tries (creates a namespace, makes an id-mapped mount), because version numbers and configuration files
// lie.

import { closeSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { release } from 'node:os'
import { dirname, join } from 'node:path'
import { diskOf } from './cgroup/block-device.ts'
import { findHostCgroups } from './cgroup/cgroup.ts'
import { isKernelAtLeast } from './kernel.ts'
import { openNative, type Native } from './native.ts'
import { compileSeccomp } from './seccomp.ts'
import { FUNCTION_PROFILE } from './seccomp-profile.ts'
import { ID_COUNT } from './user.ts'

export interface Finding {
  readonly name: string
  /** warn: containers run with restrictions; fail: they do not run. */
  readonly level: 'ok' | 'warn' | 'fail'
  readonly detail: string
  /** What to do; empty when ok. */
  readonly remedy: string
}

const KERNEL_MIN = [5, 19] as const
/**
 * The first with pids.peak, which the root cgroup does not have.
 */
const KERNEL_PIDS_PEAK = [6, 1] as const
const PROBE_ID_BASE = 16_777_216
/** What a data folder without id-mapped mounts means; for the doctor and a worker's log. */
export const UNMAPPED =
  'inside containers files of images belong to the overflow user (65534) and cannot be changed, and volumes cannot be written'

/** Runs ASK, which returns what it found or a warning, or throws. */
function finding(name: string, remedy: string, ask: () => string | { warn: string }): Finding {
  try {
    const answer = ask()
    return typeof answer === 'string'
      ? { name, level: 'ok', detail: answer, remedy: '' }
      : { name, level: 'warn', detail: answer.warn, remedy }
  } catch (err) {
    return { name, level: 'fail', detail: err instanceof Error ? err.message : String(err), remedy }
  }
}

function askKernel(): string {
  if (!isKernelAtLeast(...KERNEL_MIN))
    throw new Error(`Linux ${release()} is older than ${KERNEL_MIN.join('.')}`)
  return `Linux ${release()}`
}

function askOverlay(): string {
  if (!/\toverlay$/m.test(readFileSync('/proc/filesystems', 'utf8')))
    throw new Error('overlay is not in /proc/filesystems')
  return 'overlay'
}

function askRoots(native: Native): string {
  return native.tmpfsKeepsAttributes()
    ? 'mounted by containers'
    : 'mounted by workers: a tmpfs of this kernel keeps no user attributes (Linux 6.6 does); a start takes a little longer'
}

function askCgroups(): string | { warn: string } {
  const host = findHostCgroups({ mayOffer: false })
  if (host.missing.length > 0) throw new Error(`layout ${host.layout}, missing: ${host.missing.join(', ')}`)
  const driver =
    host.driver === 'v2' ? `v2 at ${host.v2!.directory}` : `v1 (${[...host.v1.keys()].join(', ')})`
  const found = `layout ${host.layout}, driver ${driver}`
  return host.lacking.length === 0 ? found : { warn: `${found}, without ${host.lacking.join(', ')}` }
}

/** A memory limit covers swap only where the kernel counts swap. */
function askSwap(): string | { warn: string } {
  const kib = Number(/^SwapTotal:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0)
  if (kib === 0) return 'none'
  const host = findHostCgroups({ mayOffer: false })
  const counted =
    host.driver === 'v2'
      ? existsSync(join(host.v2!.directory, 'memory.swap.max')) ||
        readdirSync(host.v2!.directory, { withFileTypes: true }).some(
          (entry) =>
            entry.isDirectory() && existsSync(join(host.v2!.directory, entry.name, 'memory.swap.max')),
        )
      : existsSync(join(host.v1.get('memory') ?? '', 'memory.memsw.limit_in_bytes'))
  const found = `${Math.round(kib / 1024)} MiB`
  return counted
    ? `${found}; functions get none of it`
    : {
        warn: `${found}, and the kernel does not count it: a function may use more than its memory limit by swapping`,
      }
}

function askNamespace(make: () => number): string {
  closeSync(make())
  return 'can be made'
}

/** The nearest existing folder at or above PATH. */
function nearestFolder(path: string): string {
  return existsSync(path) ? path : nearestFolder(dirname(path))
}

/**
 * The errno with which the file system of the existing FOLDER refuses an id-mapped mount; undefined if it
 * works.
 */
export function refusesIdmap(native: Native, folder: string): string | undefined {
  const directory = join(folder, `.wherry-doctor-${process.pid}`)
  const userns = native.newUserNamespace(PROBE_ID_BASE, ID_COUNT)
  try {
    mkdirSync(directory, { mode: 0o700 })
    return native.probeIdmap(directory, userns)
  } finally {
    closeSync(userns)
    rmSync(directory, { recursive: true, force: true })
  }
}

function askIdmap(native: Native, dataDir: string): string | { warn: string } {
  // The data folder may not exist yet: probe the file system that it will be on, and leave nothing.
  const errno = refusesIdmap(native, nearestFolder(dataDir))
  if (errno === undefined) return `works on the file system of ${dataDir}`
  return { warn: `the file system of ${dataDir} does not support id-mapped mounts (${errno}): ${UNMAPPED}` }
}

/** Which fields of a call's Usage this host provides. */
function askAccount(dataDir: string): string {
  const host = findHostCgroups({ mayOffer: false })
  const disk = diskOf(nearestFolder(dataDir))
  const io =
    host.driver === 'v2'
      ? host.v2!.controllers.includes('io') && 'all disks'
      : host.v1.has('blkio') && disk !== undefined && `disk ${disk}`
  return `CPU, throttling, memory peak, ${isKernelAtLeast(...KERNEL_PIDS_PEAK) ? 'processes peak, ' : ''}OOM kills, ${io === false ? 'no block io' : `block io of ${io}`}`
}

/** All findings about this host, in the order in which to fix them. */
export function probeKernel({ nativeDir, dataDir }: { nativeDir: string; dataDir: string }): Finding[] {
  const findings = [
    finding('kernel', 'use a kernel of 5.19 or later (Debian 12 has 6.1)', askKernel),
    finding('overlayfs', 'run "modprobe overlay"', askOverlay),
    finding(
      'cgroups',
      'mount the missing controllers, or run under a systemd unit with Delegate=yes',
      askCgroups,
    ),
    finding('swap', 'boot with swapaccount=1, or switch swap off', askSwap),
    finding(
      'seccomp',
      'install libseccomp2 ("make setup")',
      () => `filter of ${compileSeccomp(FUNCTION_PROFILE).length / 8} instructions`,
    ),
  ]
  let native: Native | undefined
  findings.push(
    finding('native library', 'run "make native"', () => {
      native = openNative(nativeDir)
      return `libwherry.so, ABI ${native.abi}`
    }),
  )
  const library = native
  if (!library) return findings
  return [
    ...findings,
    finding('user namespaces', 'raise user.max_user_namespaces (sysctl) above 0 and run as root', () =>
      askNamespace(() => library.newUserNamespace(PROBE_ID_BASE, ID_COUNT)),
    ),
    finding('network namespaces', 'raise user.max_net_namespaces (sysctl) above 0 and run as root', () =>
      askNamespace(() => library.newNetworkNamespace()),
    ),
    finding('id-mapped mounts', 'put --data on ext4, xfs or btrfs', () => askIdmap(library, dataDir)),
    finding('roots', 'use a kernel with tmpfs (CONFIG_TMPFS)', () => askRoots(library)),
    finding('account', '', () => askAccount(dataDir)),
  ]
}
