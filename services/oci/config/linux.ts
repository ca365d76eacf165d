// The `linux` part of config.json (OCI runtime spec, config-linux.md): namespaces, ids, devices, paths and
// kernel settings.  resources.ts reads the cgroup limits, seccomp.ts the profile.

import { isAbsolute, normalize } from 'node:path'
import type {
  BundleLinux,
  BundleNamespaceType,
  Device,
  IdMapping,
  Namespace,
  Propagation,
} from '../../contract/bundle-spec.ts'
import type { Cursor } from '../../contract/cursor.ts'
import { defined } from '../../contract/defined.ts'
import { DEVICE_NUMBER_MAX, readResources } from './resources.ts'
import { readSeccomp } from './seccomp.ts'

const NAMESPACES: readonly BundleNamespaceType[] = [
  'mount',
  'pid',
  'ipc',
  'uts',
  'network',
  'user',
  'cgroup',
  'time',
]
const PROPAGATIONS: readonly Propagation[] = [
  'shared',
  'slave',
  'private',
  'unbindable',
  'rshared',
  'rslave',
  'rprivate',
  'runbindable',
]
const ID_MAX = 4_294_967_295
/** Lines of an id map (user_namespaces(7)). */
const MAPPINGS_MAX = 340
/** Mounts, masked paths and devices must fit in one plan (WY_SLOTS_MAX). */
const DEVICES_MAX = 256
const PATHS_MAX = 128
/** Thirty years, safely below the kernel's KTIME_SEC_MAX. */
const SECONDS_MAX = 946_080_000
/**
 * Settings that belong to a namespace, so that writing them does not affect the host: pattern → namespace.
 */
const SYSCTL_NAMESPACES: ReadonlyArray<readonly [RegExp, BundleNamespaceType]> = [
  [/^net\./, 'network'],
  [/^fs\.mqueue\./, 'ipc'],
  [
    /^kernel\.(?:msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced|msg_next_id|sem_next_id|shm_next_id)$/,
    'ipc',
  ],
  [/^kernel\.(?:domainname|hostname)$/, 'uts'],
]

function absolute(field: Cursor): string {
  const path = field.text()
  if (path !== '' && !isAbsolute(path)) field.fault(`"${path}" is not an absolute path`)
  return path
}

/** The root cannot be covered from inside; root.readonly makes it read-only. */
function belowRoot(field: Cursor): string {
  const path = absolute(field)
  if (path !== '' && normalize(path) === '/') field.fault('is the root itself; use root.readonly')
  return path
}

function readNamespaces(list: Cursor): Namespace[] {
  const seen = new Set<string>()
  const namespaces = list.list((c): Namespace => {
    const type = c.get('type').oneOf(NAMESPACES, 'a namespace')
    if (seen.has(type)) c.get('type').fault(`"${type}" is given twice`)
    seen.add(type)
    const path = c.get('path').maybe(absolute) || undefined
    return path === undefined ? { type } : { type, path }
  })
  const joined = (type: BundleNamespaceType): boolean =>
    namespaces.some((namespace) => namespace.type === type && namespace.path !== undefined)
  if (
    joined('user') &&
    namespaces.some((namespace) => namespace.type === 'pid' && namespace.path === undefined)
  ) {
    list.fault(
      'a new pid namespace in a user namespace joined by path is not supported; join its pid namespace, too',
    )
  }
  return namespaces
}

/** Lines of an id map. */
export function readMappings(list: Cursor): IdMapping[] {
  const mappings: IdMapping[] = []
  list.list((c) => {
    const mapping = {
      containerID: c.get('containerID').whole(0, ID_MAX),
      hostID: c.get('hostID').whole(0, ID_MAX),
      size: c.get('size').whole(1, ID_MAX),
    }
    const overlaps = (side: 'containerID' | 'hostID'): boolean =>
      mappings.some(
        (other) => other[side] < mapping[side] + mapping.size && mapping[side] < other[side] + other.size,
      )
    for (const side of ['containerID', 'hostID'] as const)
      if (overlaps(side)) c.get(side).fault(`${mapping[side]} overlaps with an earlier entry`)
    if (Math.max(mapping.containerID, mapping.hostID) + mapping.size > ID_MAX)
      c.get('size').fault(`${mapping.size} exceeds the last id`)
    mappings.push(mapping)
  }, MAPPINGS_MAX)
  return mappings
}

/** Lines of timens_offsets, in seconds and nanoseconds (time_namespaces(7)). */
function readTimeOffsets(offsets: Cursor, namespaces: readonly Namespace[]): string | undefined {
  const known = ['monotonic', 'boottime']
  for (const clock of offsets.keys())
    if (!known.includes(clock)) offsets.get(clock).fault(`is not a clock (${known.join(', ')})`)
  const lines = known.flatMap(
    (clock) =>
      offsets
        .get(clock)
        .maybe(
          (c) =>
            `${clock} ${c.get('secs').maybe((s) => s.whole(-SECONDS_MAX, SECONDS_MAX)) ?? 0} ${c.get('nanosecs').maybe((n) => n.whole(0, 999_999_999)) ?? 0}\n`,
        ) ?? [],
  )
  if (lines.length > 0 && !namespaces.some(({ type, path }) => type === 'time' && path === undefined))
    offsets.fault('needs a new time namespace')
  return lines.join('') || undefined
}

function readDevices(list: Cursor): Device[] {
  const seen = new Set<string>()
  return list.list((c) => {
    const device = readDevice(c)
    if (seen.has(device.path)) c.get('path').fault(`"${device.path}" is given twice`)
    seen.add(device.path)
    return device
  }, DEVICES_MAX)
}

function readDevice(device: Cursor): Device {
  const type = device.get('type').oneOf(['c', 'b', 'u', 'p'], 'a device type')
  const number = (name: string): number => (type === 'p' ? 0 : device.get(name).whole(0, DEVICE_NUMBER_MAX))
  return {
    path: absolute(device.get('path')),
    type,
    major: number('major'),
    minor: number('minor'),
    fileMode: (device.get('fileMode').maybe((c) => c.whole(0, 0o177777)) ?? 0o666) & 0o7777,
    uid: device.get('uid').maybe((c) => c.whole(0, ID_MAX)) ?? 0,
    gid: device.get('gid').maybe((c) => c.whole(0, ID_MAX)) ?? 0,
  }
}

function readSysctl(settings: Cursor, namespaces: readonly Namespace[]): Record<string, string> {
  const values = settings.texts()
  for (const key of Object.keys(values)) {
    // Both forms are valid: "net.ipv4.x" and "net/ipv4/x" (sysctl.d(5)).
    const name = key.includes('/') && !/^[^/]*\./.test(key) ? key.replaceAll('/', '.') : key
    const owner = SYSCTL_NAMESPACES.find(([pattern]) => pattern.test(name))?.[1]
    if (/(?:^|[./])\.*(?:$|[./])/.test(key)) settings.get(key).fault('is not the name of a kernel setting')
    else if (owner === undefined)
      settings.get(key).fault('belongs to no namespace, so it would change the host')
    else if (!namespaces.some((namespace) => namespace.type === owner))
      settings.get(key).fault(`needs a ${owner} namespace`)
  }
  return values
}

/** `linux` of config.json. */
export function readLinux(linux: Cursor, warnings: string[]): BundleLinux {
  const namespaces = readNamespaces(linux.get('namespaces'))
  const mappings = {
    uid: readMappings(linux.get('uidMappings')),
    gid: readMappings(linux.get('gidMappings')),
  }
  const newUser = namespaces.some((namespace) => namespace.type === 'user' && namespace.path === undefined)
  for (const name of ['uid', 'gid'] as const) {
    const field = linux.get(`${name}Mappings`)
    if (newUser && mappings[name].length === 0) field.fault('is empty; a new user namespace needs mappings')
    if (newUser && mappings[name].length > 0 && !mappings[name].some((mapping) => mapping.containerID === 0))
      field.fault('does not map id 0, which is needed to set up the container')
  }
  for (const name of ['intelRdt', 'netDevices', 'memoryPolicy'])
    linux.get(name).refused('is not supported by this runtime')
  if (linux.get('mountLabel').maybe((c) => c.text()))
    linux.get('mountLabel').fault('is not supported by this runtime')
  const timeOffsets = readTimeOffsets(linux.get('timeOffsets'), namespaces)
  const cgroupsPath = linux.get('cgroupsPath').maybe((c) => c.text()) || undefined
  if (cgroupsPath !== undefined && /^[/.]+$/.test(cgroupsPath))
    linux.get('cgroupsPath').fault('is the root of the cgroup hierarchy; a container needs its own cgroup')
  if (cgroupsPath?.split('/').includes('..')) linux.get('cgroupsPath').fault('contains ".."')
  const seccomp = linux.get('seccomp').maybe(readSeccomp)
  const rootfsPropagation = linux.get('rootfsPropagation').maybe((c) => c.text())
    ? linux.get('rootfsPropagation').oneOf(PROPAGATIONS, 'a propagation')
    : undefined
  const personality = linux.get('personality').maybe((c) => {
    if (c.get('flags').list((flag) => flag).length > 0)
      c.get('flags').fault('is not supported by this runtime')
    return c.get('domain').oneOf(['LINUX', 'LINUX32'] as const, 'a personality')
  })
  return {
    namespaces,
    uidMappings: mappings.uid,
    gidMappings: mappings.gid,
    devices: readDevices(linux.get('devices')),
    resources: readResources(linux.get('resources'), warnings),
    sysctl: readSysctl(linux.get('sysctl'), namespaces),
    maskedPaths: linux.get('maskedPaths').list(belowRoot, PATHS_MAX),
    readonlyPaths: linux.get('readonlyPaths').list(belowRoot, PATHS_MAX),
    ...defined({ timeOffsets, cgroupsPath, seccomp, rootfsPropagation, personality }),
  }
}
