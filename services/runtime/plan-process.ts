// From root of the namespaces to the program of the image: limits, ids, capabilities, filter, exec.

import type { Capabilities, RuntimeSpec } from '../contract/runtime-spec.ts'
import { capabilityMask } from './capability.ts'
import { RLIMIT } from './linux.ts'
import { FLAG, type Op } from './ops.ts'

const SIGKILL = 9
/** execvp(3) with a longer PATH tries this many directories. */
const PATH_DIRECTORIES_MAX = 64

export function capabilitySets(capabilities: Capabilities): BigUint64Array {
  const { bounding, permitted, inheritable, effective, ambient } = capabilities
  return BigUint64Array.from([bounding, permitted, inheritable, effective, ambient].map(capabilityMask))
}

/** As execvp(3): a name with a slash is a path, any other is looked up in the container's PATH. */
export function programPaths(name: string, env: readonly string[]): readonly string[] {
  if (name === '' || name.includes('/')) return [name]
  const path = env.find((variable) => variable.startsWith('PATH='))?.slice('PATH='.length) ?? ''
  return path
    .split(':', PATH_DIRECTORIES_MAX)
    .map((directory) => `${directory === '' ? '.' : directory}/${name}`)
}

export function processOps(spec: RuntimeSpec, program: Uint8Array): Op[] {
  const { args, env, cwd, user, rlimits, capabilities, noNewPrivileges } = spec.process
  const filter: Op = { kind: 'seccomp', program }
  return [
    ...rlimits.map(({ type, soft, hard }): Op => {
      return { kind: 'rlimit', resource: RLIMIT[type as keyof typeof RLIMIT], soft, hard }
    }),
    { kind: 'closeFds' },
    { kind: 'chdir', path: cwd, flags: FLAG.makeDir },
    // Without no_new_privs only CAP_SYS_ADMIN may install a filter (seccomp(2)), so it comes before the
    // capabilities are dropped.
    ...(noNewPrivileges ? [] : [filter]),
    { kind: 'ids', uid: user.uid, gid: user.gid, groups: Uint32Array.from(user.additionalGids) },
    { kind: 'capabilities', sets: capabilitySets(capabilities) },
    ...(noNewPrivileges ? [{ kind: 'noNewPrivs' } as const] : []),
    // After the ids: a change of credentials clears the parent death signal (prctl(2)).
    { kind: 'parentDeath', signal: SIGKILL },
    ...(noNewPrivileges ? [filter] : []),
    { kind: 'exec', programs: programPaths(args[0]!, env), args, env },
  ]
}
