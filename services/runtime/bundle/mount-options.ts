// Parses mount options as runc does (the words of mount(8), with a prefix "r" for "and all mounts below")
// into attributes of the mount, propagation, and options of the file system. Pure.

import { ATTR, MS } from '../linux.ts'

export interface MountOptions {
  /** MOUNT_ATTR_* of this mount to set and to clear … */
  readonly set: number
  readonly clear: number
  /** … and of this one and all below. */
  readonly recursiveSet: number
  readonly recursiveClear: number
  /** MS_SHARED and the like; several are applied one after the other. */
  readonly propagations: readonly number[]
  /** A bind mount; recursive: with all mounts below. */
  readonly bind?: { readonly recursive: boolean }
  /** Options of the file system: "size=64k", "newinstance". */
  readonly data: readonly string[]
  readonly copyUp: boolean
}

/** Word → attributes to set and to clear. */
const ATTRIBUTES: Readonly<Record<string, readonly [set: number, clear: number]>> = {
  ro: [ATTR.ro, 0],
  rw: [0, ATTR.ro],
  nosuid: [ATTR.nosuid, 0],
  suid: [0, ATTR.nosuid],
  nodev: [ATTR.nodev, 0],
  dev: [0, ATTR.nodev],
  noexec: [ATTR.noexec, 0],
  exec: [0, ATTR.noexec],
  nodiratime: [ATTR.nodiratime, 0],
  diratime: [0, ATTR.nodiratime],
  noatime: [ATTR.noatime, ATTR.atime],
  atime: [0, ATTR.atime],
  relatime: [ATTR.relatime, ATTR.atime],
  norelatime: [0, ATTR.atime],
  strictatime: [ATTR.strictatime, ATTR.atime],
  nostrictatime: [0, ATTR.atime],
  nosymfollow: [ATTR.nosymfollow, 0],
  symfollow: [0, ATTR.nosymfollow],
}

const PROPAGATIONS: Readonly<Record<string, number>> = {
  shared: MS.shared,
  slave: MS.slave,
  private: MS.private,
  unbindable: MS.unbindable,
  rshared: MS.shared | MS.rec,
  rslave: MS.slave | MS.rec,
  rprivate: MS.private | MS.rec,
  runbindable: MS.unbindable | MS.rec,
}

/** Words for mount(8) itself, and defaults. */
const IGNORED = new Set([
  'defaults',
  'async',
  'nomand',
  'noiversion',
  'nolazytime',
  'loud',
  'notmpcopyup',
  'remount',
])

/** Request id-mapping; the map is another field of the mount. */
export const IDMAP_OPTIONS: readonly string[] = ['idmap', 'ridmap']

export function propagationFlags(word: string): number | undefined {
  return Object.hasOwn(PROPAGATIONS, word) ? PROPAGATIONS[word] : undefined
}

/** All words that are not passed to the file system, for `features`. */
export const MOUNT_OPTIONS: readonly string[] = [
  'bind',
  'rbind',
  'tmpcopyup',
  ...IDMAP_OPTIONS,
  ...IGNORED,
  ...Object.keys(ATTRIBUTES),
  ...Object.keys(ATTRIBUTES).map((word) => `r${word}`),
  ...Object.keys(PROPAGATIONS),
]
  .filter((word, i, all) => all.indexOf(word) === i)
  .sort()

/** Parses WORDS in order: of two that contradict each other the later one applies. */
export function parseMountOptions(words: readonly string[]): MountOptions {
  const own = { set: 0, clear: 0 }
  const below = { set: 0, clear: 0 }
  const propagations: number[] = []
  const data: string[] = []
  let bind: MountOptions['bind']
  let copyUp = false
  const change = (to: { set: number; clear: number }, [set, clear]: readonly [number, number]): void => {
    to.set = (to.set & ~clear) | set
    to.clear |= clear | (set & ATTR.atime ? ATTR.atime : 0)
  }
  for (const word of words) {
    const inner = word.startsWith('r') ? word.slice(1) : ''
    if (word === 'bind') bind ??= { recursive: false }
    else if (word === 'rbind') bind = { recursive: true }
    else if (word === 'tmpcopyup') copyUp = true
    else if (Object.hasOwn(PROPAGATIONS, word)) propagations.push(PROPAGATIONS[word]!)
    else if (Object.hasOwn(ATTRIBUTES, word)) change(own, ATTRIBUTES[word]!)
    else if (Object.hasOwn(ATTRIBUTES, inner)) change(below, ATTRIBUTES[inner]!)
    else if (!IGNORED.has(word) && !IDMAP_OPTIONS.includes(word)) data.push(word)
  }
  return {
    // mount_setattr(2) refuses to set and clear the same attribute (EINVAL); the time field is cleared as a
    // whole.
    set: own.set,
    clear: own.clear & (~own.set | ATTR.atime),
    recursiveSet: below.set,
    recursiveClear: below.clear & (~below.set | ATTR.atime),
    propagations,
    data,
    copyUp,
    ...(bind && { bind }),
  }
}
