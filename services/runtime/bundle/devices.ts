// The devices and the terminal of a bundle's container (OCI runtime spec, config-linux.md, Default Devices).
// They are made as nodes; inside a user namespace, where nobody may, the host's are bound instead.

import type { BundleProcess, BundleSpec, Device } from '../../contract/bundle-spec.ts'
import { FLAG, S_IF, type Op } from '../ops.ts'

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

export interface HostDevices {
  readonly host: readonly Op[]
  readonly slots: ReadonlyMap<string, number> | undefined
}

/** A /dev that is bound from the host has all it shall have. */
export function needsDevices(spec: BundleSpec): boolean {
  return !spec.mounts.some((mount) => mount.destination === '/dev' && mount.type === 'bind')
}

/** What the spec says of a device holds against the default of the same path. */
function all(devices: readonly Device[]): readonly Device[] {
  return [...DEFAULTS.filter((device) => !devices.some((own) => own.path === device.path)), ...devices]
}

/** The host's own nodes, for a container in a USER namespace. */
export function hostDevices(devices: readonly Device[], user: boolean, take: () => number): HostDevices {
  if (!user) return { host: [], slots: undefined }
  const slots = new Map(all(devices).map((device) => [device.path, take()]))
  return { host: [...slots].map(([path, slot]): Op => ({ kind: 'tree', slot, texts: [path] })), slots }
}

/**
 * makedev(3) as the kernel has it in system calls: 12 bits of major between the 8 low and the 12 high bits of
 * minor.
 */
function deviceNumber(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << MINOR_LOW_BITS) | ((minor & ~0xff) << 12)) >>> 0
}

/** Nodes and links, behind the mounts. */
export function deviceOps(devices: readonly Device[], { slots }: HostDevices): Op[] {
  return [
    ...all(devices).map((device): Op => {
      const slot = slots?.get(device.path)
      if (slot !== undefined) return { kind: 'attach', slot, texts: [device.path], flags: FLAG.makeFile }
      return {
        kind: 'mknod',
        texts: [device.path],
        num: TYPES[device.type] | device.fileMode,
        wide: deviceNumber(device.major, device.minor),
        num2: device.uid,
        from: device.gid,
      }
    }),
    ...LINKS.map(([target, path]): Op => ({ kind: 'symlink', texts: [target, path] })),
  ]
}

/** A terminal; the first process of a container also has it as /dev/console. */
export function consoleOps(process: BundleProcess, slot: number, first: boolean): Op[] {
  const { height = 0, width = 0 } = process.consoleSize ?? {}
  return [
    {
      kind: 'console',
      slot,
      num: height,
      num2: width,
      wide: process.user.uid,
      flags: first ? FLAG.makeFile : 0,
    },
  ]
}
