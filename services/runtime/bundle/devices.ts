// The devices and the terminal of a bundle's container (OCI runtime spec, config-linux.md, Default Devices).
// Devices are created as nodes. Inside a user namespace mknod(2) is not permitted, so the host's nodes are
// bound instead.

import type { BundleProcess, BundleSpec, Device } from '../../contract/bundle-spec.ts'
import { S_IF } from '../linux.ts'
import { FLAG, type Handle, type Op } from '../ops.ts'

const DEFAULTS: readonly Device[] = (
  [
    ['null', 1, 3],
    ['zero', 1, 5],
    ['full', 1, 7],
    ['random', 1, 8],
    ['urandom', 1, 9],
    ['tty', 5, 0],
  ] as const
).map(([name, major, minor]) => ({
  path: `/dev/${name}`,
  type: 'c',
  major,
  minor,
  fileMode: 0o666,
  uid: 0,
  gid: 0,
}))
const LINKS = [
  ['/proc/self/fd', '/dev/fd'],
  ['/proc/self/fd/0', '/dev/stdin'],
  ['/proc/self/fd/1', '/dev/stdout'],
  ['/proc/self/fd/2', '/dev/stderr'],
  ['pts/ptmx', '/dev/ptmx'],
] as const
const TYPES = { c: S_IF.char, u: S_IF.char, b: S_IF.block, p: S_IF.fifo } as const
const MINOR_LOW_BITS = 8

/** Nodes of the host to bind, by path; empty where the container creates its own. */
export interface HostDevices {
  readonly host: readonly Op[]
  readonly handles: ReadonlyMap<string, Handle>
}

/** A /dev that is bound from the host needs no nodes. */
export function needsDevices(spec: BundleSpec): boolean {
  return !spec.mounts.some((mount) => mount.destination === '/dev' && mount.type === 'bind')
}

/** The default devices and DEVICES, which replace defaults of the same path. */
function withDefaults(devices: readonly Device[]): readonly Device[] {
  return [...DEFAULTS.filter((device) => !devices.some((own) => own.path === device.path)), ...devices]
}

/** The host's own nodes, for a container in a USER namespace. */
export function hostDevices(devices: readonly Device[], user: boolean, take: () => Handle): HostDevices {
  const handles = new Map(user ? withDefaults(devices).map(({ path }) => [path, take()]) : [])
  return { host: [...handles].map(([path, handle]): Op => ({ kind: 'tree', handle, path })), handles }
}

/** makedev(3) as system calls encode it: 8 low bits of minor, 12 bits of major, the other bits of minor. */
function deviceNumber(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << MINOR_LOW_BITS) | ((minor & ~0xff) << 12)) >>> 0
}

/** Nodes and links; they come after the mounts. */
export function deviceOps(devices: readonly Device[], { handles }: HostDevices): Op[] {
  return [
    ...withDefaults(devices).map(({ path, type, fileMode, major, minor, uid, gid }): Op => {
      const handle = handles.get(path)
      if (handle !== undefined) return { kind: 'attach', handle, target: path, flags: FLAG.makeFile }
      const mode = TYPES[type] | fileMode
      return { kind: 'mknod', path, mode, device: deviceNumber(major, minor), uid, gid }
    }),
    ...LINKS.map(([target, path]): Op => ({ kind: 'symlink', target, path })),
  ]
}

/** A terminal as descriptors 0..2; the container's first process also gets it as /dev/console. */
export function consoleOp(process: BundleProcess, socket: Handle, first: boolean): Op {
  const { height = 0, width = 0 } = process.consoleSize ?? {}
  return {
    kind: 'console',
    socket,
    rows: height,
    columns: width,
    owner: process.user.uid,
    flags: first ? FLAG.makeFile : 0,
  }
}
