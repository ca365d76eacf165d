// Reading /proc/self/cgroup and /proc/self/mountinfo (proc(5), cgroups(7)).  Pure: text in, values out.

/** v2: the leaf for a worker and the other processes of its cgroup, beside its containers. */
export const LEAF = 'wherry.leaf'

export interface HierarchyMount {
  readonly controllers: readonly string[]
  /** The directory of the cgroup PATH, relative to the root of the mount. */
  directoryOf(path: string): string
}

/** v1: controller → path; v2: path of the "0::" line. */
export function parseOwnCgroups(text: string): { v1: Map<string, string>; v2: string | undefined } {
  const v1 = new Map<string, string>()
  let v2: string | undefined
  for (const line of text.split('\n')) {
    const match = /^(\d+):([^:]*):(.*)$/.exec(line)
    if (!match) continue
    if (match[1] === '0' && match[2] === '') v2 = match[3]
    else for (const controller of match[2]!.split(',')) v1.set(controller, match[3]!)
  }
  return { v1, v2 }
}

/** mountinfo encodes blanks in paths as \040. */
function unescape(path: string): string {
  return path.replaceAll(/\\(\d{3})/g, (_, octal: string) => String.fromCodePoint(parseInt(octal, 8)))
}

function hierarchy(root: string, mountPoint: string, controllers: readonly string[]): HierarchyMount {
  return {
    controllers,
    directoryOf(path) {
      const below =
        root === '/' ? path : path === root || path.startsWith(`${root}/`) ? path.slice(root.length) : '/'
      return below === '/' || below === '' ? mountPoint : mountPoint + below
    },
  }
}

/**
 * The cgroup hierarchies of a mountinfo TEXT. Of several mounts of one hierarchy the first counts, which is
 * the host's: containers without a mount namespace mount their own part of it again, visibly from here.
 */
export function parseMounts(text: string): { v1: HierarchyMount[]; v2: HierarchyMount | undefined } {
  const v1: HierarchyMount[] = []
  let v2: HierarchyMount | undefined
  for (const line of text.split('\n')) {
    const [before, behind] = line.split(' - ')
    const [, , , root, mountPoint] = before!.split(' ')
    const [type, , options] = behind?.split(' ') ?? []
    if (root === undefined || mountPoint === undefined) continue
    if (type === 'cgroup2') v2 ??= hierarchy(unescape(root), unescape(mountPoint), [])
    const controllers = (options ?? '').split(',')
    const isKnown = v1.some((known) => known.controllers.join() === controllers.join())
    if (type === 'cgroup' && !isKnown) v1.push(hierarchy(unescape(root), unescape(mountPoint), controllers))
  }
  return { v1, v2 }
}
