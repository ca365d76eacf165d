// The first of a bundle's two plans (see plan.ts): the clone enters namespaces and becomes wherry-init.

import type { BundleNamespaceType } from '../../contract/bundle-spec.ts'
import { CLONE, CLONE_TIME } from '../linux.ts'
import { countHandles, FLAG, type Handle, type Op, type Plan } from '../ops.ts'

const INIT_NAME = 'wherry-init'
/** stdin, stdout and stderr. */
const STDIO = 3

export interface JoinedNamespaces {
  /** A namespace or a pidfd. */
  readonly fd: number
  readonly types: readonly BundleNamespaceType[]
}

export interface EntryFacts {
  /** Descriptors: of wherry-init in sealed memory, and of the child's end of its socket. */
  readonly initFd: number
  readonly socketFd: number
  /** How many descriptors from 3 on the container's program gets. */
  readonly preserveFds: number
  readonly joined: readonly JoinedNamespaces[]
  readonly created: readonly BundleNamespaceType[]
  readonly uidMap: string
  readonly gidMap: string
  readonly cgroupFd: number
  readonly cgroupTasks: readonly string[]
  /**
   * For a new time namespace: the host's /proc, through which the offsets are written while the namespace is
   * still empty.
   */
  readonly clocks?: { readonly procFd: number; readonly offsets: string }
}

const flagsOf = (types: readonly BundleNamespaceType[]): number =>
  types.reduce((flags, type) => flags | (type === 'time' ? CLONE_TIME : CLONE[type]), 0)

/** A plan of OPS for a process without id range or pooled namespaces. */
export function planOf(ops: readonly Op[], { cloneFlags = 0, cgroupFd = -1 } = {}): Plan {
  return { cloneFlags, cgroupFd, idmapFd: -1, netnsFd: -1, idBase: 0, idCount: 1, pipeOwner: 0, ops }
}

interface Join extends JoinedNamespaces {
  readonly handle: Handle
}

/** Joins a user namespace last: inside it the capabilities over the others are gone. */
function joinOps(joins: readonly Join[]): readonly Op[] {
  return joins
    .toSorted((a, b) => Number(a.types.includes('user')) - Number(b.types.includes('user')))
    .map(({ handle, types }) => ({ handle, namespaces: flagsOf(types.filter((type) => type !== 'pid')) }))
    .filter(({ namespaces }) => namespaces !== 0)
    .map((join): Op => ({ kind: 'setns', ...join }))
}

/** Which created namespaces are made by the clone and which by the child later. */
function splitCreated({ joined, created }: EntryFacts) {
  const joinsUser = joined.some(({ types }) => types.includes('user'))
  // Inside a joined user namespace the others can be made only once it is joined. And an ipc namespace
  // belongs to the user namespace of its creator, with its message queues, so it must not be created by root
  // outside.
  const late = (type: BundleNamespaceType): boolean =>
    type === 'cgroup' || joinsUser || (type === 'ipc' && created.includes('user'))
  const others = created.filter((type) => type !== 'time')
  return {
    atClone: others.filter((type) => !late(type)),
    later: others.filter(late),
    inUser: joinsUser || created.includes('user'),
  }
}

/** Enters cgroup and namespaces, becomes wherry-init. */
export function buildEntryPlan(facts: EntryFacts): Plan {
  const { clocks, created, preserveFds } = facts
  const take = countHandles()
  const [init, socket] = [take(), take()]
  const joins = facts.joined.map((join) => ({ ...join, handle: take() }))
  const proc = take()
  const { atClone, later, inUser } = splitCreated(facts)
  const ops: readonly Op[] = [
    { kind: 'fd', handle: init, fd: facts.initFd },
    { kind: 'fd', handle: socket, fd: facts.socketFd },
    ...joins.map(({ fd, handle }): Op => ({ kind: 'fd', handle, fd })),
    ...(clocks ? [{ kind: 'fd', handle: proc, fd: clocks.procFd } as const] : []),
    ...joins
      .filter(({ types }) => types.includes('pid'))
      .map(({ handle }): Op => ({ kind: 'pidNamespace', handle })),
    ...facts.cgroupTasks.map((path): Op => ({ kind: 'cgroupJoin', path })),
    ...(created.includes('user')
      ? [{ kind: 'userMaps', uidMap: facts.uidMap, gidMap: facts.gidMap } as const]
      : []),
    ...joinOps(joins),
    // It is entered at exec. The offsets are written before the ids change: afterwards root owns our file in
    // /proc.
    ...(created.includes('time') ? [{ kind: 'unshare', namespaces: CLONE_TIME } as const] : []),
    ...(clocks
      ? [{ kind: 'write', below: proc, path: 'self/timens_offsets', content: clocks.offsets } as const]
      : []),
    ...(inUser ? [{ kind: 'setupIds' } as const] : []),
    ...(later.length > 0 ? [{ kind: 'unshare', namespaces: flagsOf(later) } as const] : []),
    { kind: 'closeFds', keep: preserveFds, flags: FLAG.keepUntilExec },
    { kind: 'keepFds', count: STDIO + preserveFds },
    { kind: 'inherit', handle: socket },
    {
      kind: 'execFd',
      handle: init,
      programs: [INIT_NAME],
      args: [INIT_NAME, String(facts.socketFd)],
      env: [],
    },
  ]
  return planOf(ops, { cloneFlags: flagsOf(atClone), cgroupFd: facts.cgroupFd })
}
