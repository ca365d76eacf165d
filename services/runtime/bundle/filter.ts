// A process's seccomp filter, and the connection to the agent that decides on some of its system calls.

import { closeSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import type { Seccomp } from '../../contract/bundle-spec.ts'
import { InvalidRequest, SyscallError } from '../../contract/errors.ts'
import type { Native } from '../native.ts'
import type { ProcessFacts } from './process-ops.ts'
import { compileProfile, usesListener } from './seccomp.ts'

export interface Filter extends Pick<ProcessFacts, 'seccomp' | 'listener'> {
  close(): void
}

/** Compiles PROFILE and connects to its agent, if any. Throws InvalidRequest when no agent listens. */
export function openFilter(native: Native, profile: Seccomp | undefined, agentState: string): Filter {
  const seccomp = profile && compileProfile(profile)
  const path = profile && usesListener(profile) ? profile.listener?.path : undefined
  if (path === undefined) return { seccomp, listener: undefined, close() {} }
  try {
    const fd = native.connect(dirname(path), basename(path))
    return {
      seccomp,
      listener: { fd, path, state: agentState },
      close() {
        closeSync(fd)
      },
    }
  } catch (err) {
    throw new InvalidRequest([
      {
        path: 'linux.seccomp.listenerPath',
        problem: `no agent listens at "${path}" (${err instanceof SyscallError ? err.errno : String(err)})`,
      },
    ])
  }
}
