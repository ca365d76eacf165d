// A bundle's process: its limits, ids, filter and program, as operations. wherry-init performs them, with a
// pause in the middle for a container that waits for "start".

import type { BundleProcess, BundleSpec, Scheduler } from '../../contract/bundle-spec.ts'
import { ATTR, RLIMIT } from '../linux.ts'
import { FLAG, type Handle, type Op } from '../ops.ts'
import { capabilitySets, programPaths } from '../plan-process.ts'
import type { CompiledSeccomp } from './seccomp.ts'

/** Where the spec leaves it open; the caller's umask is unrelated to the container. */
const UMASK = 0o022
/** personality(2) */
const PERSONALITY = { LINUX: 0, LINUX32: 8 } as const
/** SCHED_ATTR_SIZE_VER0 */
const SCHED_ATTR_BYTES = 48

export interface ProcessFacts {
  readonly preserveFds: number
  readonly seccomp: CompiledSeccomp | undefined
  /** Socket that receives the terminal's master; -1 without a terminal. */
  readonly consoleFd: number
  /** Name of a new session keyring; undefined keeps the caller's. */
  readonly keyring: string | undefined
  /**
   * A time namespace to join. A process that shares memory with another may not (setns(2)), so wherry-init
   * does it.
   */
  readonly timeFd: number | undefined
  /** A filter's agent: a connection to its socket PATH, and the container's state to send there, as JSON. */
  readonly listener: { readonly fd: number; readonly path: string; readonly state: string } | undefined
}

/** Handles that operations of a process use. */
export interface ProcessHandles {
  /** A proc file system; see `procOp`. */
  readonly proc: Handle
  readonly listener: Handle
}

function seccompOps({ seccomp, listener }: ProcessFacts, socket: Handle): readonly Op[] {
  if (!seccomp) return []
  const filter = { program: seccomp.program, filterFlags: seccomp.flags }
  return listener
    ? [{ kind: 'seccompListen', socket, path: listener.path, state: listener.state, ...filter }]
    : [{ kind: 'seccomp', ...filter }]
}

/** struct sched_attr of sched_setattr(2). */
function schedulerBytes({ policy, flags, nice, priority, runtime, deadline, period }: Scheduler): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(SCHED_ATTR_BYTES))
  bytes.setUint32(0, bytes.byteLength, true)
  bytes.setUint32(4, policy, true)
  bytes.setBigUint64(8, BigInt(flags), true)
  bytes.setInt32(16, nice, true)
  bytes.setUint32(20, priority, true)
  for (const [i, time] of [runtime, deadline, period].entries())
    bytes.setBigUint64(24 + 8 * i, BigInt(time), true)
  return new Uint8Array(bytes.buffer)
}

export const fdOps = (handle: Handle, fd: number | undefined): readonly Op[] =>
  fd === undefined ? [] : [{ kind: 'fd', handle, fd }]

/**
 * A proc file system of our own that is mounted nowhere: settings reach the kernel whatever an image has at
 * /proc.
 */
export const procOp = (handle: Handle): Op => ({
  kind: 'fsmount',
  handle,
  type: 'proc',
  options: [],
  set: ATTR.nosuid | ATTR.nodev | ATTR.noexec,
})

const rlimitOps = ({ rlimits }: BundleProcess, flags: number): readonly Op[] =>
  rlimits.map(({ type, soft, hard }): Op => {
    const resource = RLIMIT[type as keyof typeof RLIMIT]
    return { kind: 'rlimit', name: type, resource, soft, hard, flags }
  })

/** Up to the pause: what needs privileges or may fail, so that it fails before "start". */
function preparationOps(
  wanted: BundleProcess,
  facts: ProcessFacts,
  { proc }: ProcessHandles,
  personality: BundleSpec['linux']['personality'],
): readonly Op[] {
  const { args, env, cwd, scheduler, ioPriority, apparmorProfile, user } = wanted
  const hasHome = env.some((entry) => /^HOME=./.test(entry))
  return [
    ...(facts.keyring === undefined ? [] : [{ kind: 'keyring', name: facts.keyring } as const]),
    // Limits are only raised here: a lowered one would also hold for wherry-init.
    ...rlimitOps(wanted, FLAG.raiseOnly),
    ...(ioPriority === undefined ? [] : [{ kind: 'ioPriority', priority: ioPriority } as const]),
    ...(scheduler === undefined
      ? []
      : [{ kind: 'scheduler', attributes: schedulerBytes(scheduler) } as const]),
    ...(personality === undefined
      ? []
      : [{ kind: 'personality', persona: PERSONALITY[personality] } as const]),
    { kind: 'chdir', path: cwd, flags: FLAG.makeDir },
    { kind: 'checkProgram', programs: programPaths(args[0]!, env) },
    ...(apparmorProfile === undefined
      ? []
      : [
          {
            kind: 'write',
            below: proc,
            path: 'self/attr/apparmor/exec',
            content: `exec ${apparmorProfile}`,
          } as const,
        ]),
    ...(hasHome ? [] : [{ kind: 'home', uid: user.uid } as const]),
    ...(wanted.terminal ? [] : [{ kind: 'stdioOwner', uid: user.uid } as const]),
  ]
}

/** After the pause: limits, ids, capabilities, filter, exec. */
function executionOps(
  wanted: BundleProcess,
  facts: ProcessFacts,
  { listener }: ProcessHandles,
  beforeExec: readonly Op[],
): readonly Op[] {
  const { args, env, noNewPrivileges, user } = wanted
  const hasHome = env.some((entry) => /^HOME=./.test(entry))
  return [
    ...rlimitOps(wanted, 0),
    { kind: 'closeFds', keep: facts.preserveFds, flags: FLAG.keepUntilExec },
    // Without no_new_privs only CAP_SYS_ADMIN may install a filter (seccomp(2)), so it comes before the
    // capabilities are dropped.
    ...(noNewPrivileges ? [] : seccompOps(facts, listener)),
    { kind: 'ids', uid: user.uid, gid: user.gid, groups: Uint32Array.from(user.additionalGids) },
    { kind: 'capabilities', sets: capabilitySets(wanted.capabilities) },
    { kind: 'umask', mask: wanted.umask ?? UMASK },
    ...(noNewPrivileges ? [{ kind: 'noNewPrivs' } as const, ...seccompOps(facts, listener)] : []),
    ...beforeExec,
    {
      kind: 'exec',
      flags: FLAG.checked,
      programs: programPaths(args[0]!, env),
      args,
      env: hasHome ? env : env.filter((entry) => entry !== 'HOME='),
    },
  ]
}

/**
 * The process of a bundle. PAUSE is between everything that may fail and the program; BEFOREEXEC runs with
 * the process's ids, capabilities, limits and filter.
 */
export function processOps(
  wanted: BundleProcess,
  facts: ProcessFacts,
  handles: ProcessHandles,
  {
    personality,
    pause = [],
    beforeExec = [],
  }: {
    personality?: BundleSpec['linux']['personality']
    pause?: readonly Op[]
    beforeExec?: readonly Op[]
  } = {},
): readonly Op[] {
  return [
    ...preparationOps(wanted, facts, handles, personality),
    ...pause,
    ...executionOps(wanted, facts, handles, beforeExec),
  ]
}
