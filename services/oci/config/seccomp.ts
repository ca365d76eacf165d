// `linux.seccomp` of config.json (config-linux.md, Seccomp).

import { isAbsolute } from 'node:path'
import {
  SECCOMP_ACTIONS,
  SECCOMP_OPERATORS,
  type Seccomp,
  type SeccompRule,
} from '../../contract/bundle-spec.ts'
import type { Cursor } from '../../contract/cursor.ts'
import { defined } from '../../contract/defined.ts'
import {
  SECCOMP_ARCHITECTURES,
  SECCOMP_FLAGS,
  usesListener,
  WAIT_KILLABLE,
} from '../../runtime/bundle/seccomp.ts'

const ERRNO_MAX = 4095
const ARGUMENT_MAX = 5

function readRule(rule: Cursor): SeccompRule {
  const names = rule
    .get('names')
    .needed()
    .list((c) => c.text())
  if (rule.get('names').exists && names.length === 0) rule.get('names').fault('is empty')
  const action = rule.get('action').oneOf(SECCOMP_ACTIONS, 'an action')
  const errnoRet = rule.get('errnoRet').maybe((c) => c.whole(0, ERRNO_MAX))
  if (errnoRet !== undefined && action !== 'SCMP_ACT_ERRNO' && action !== 'SCMP_ACT_TRACE')
    rule.get('errnoRet').fault(`has no meaning for ${action}`)
  const args = rule.get('args').list((c) => ({
    index: c.get('index').whole(0, ARGUMENT_MAX),
    value: c.get('value').whole64(),
    valueTwo: c.get('valueTwo').maybe((two) => two.whole64()) ?? 0,
    op: c.get('op').oneOf(SECCOMP_OPERATORS, 'a comparison'),
  }))
  return { names, action, args, ...defined({ errnoRet }) }
}

function readListener(seccomp: Cursor): Seccomp['listener'] {
  const path = seccomp.get('listenerPath').maybe((c) => c.text()) || undefined
  const metadata = seccomp.get('listenerMetadata').maybe((c) => c.text()) || undefined
  if (path !== undefined && !isAbsolute(path))
    seccomp.get('listenerPath').fault(`"${path}" is not an absolute path`)
  if (path === undefined && metadata !== undefined)
    seccomp.get('listenerMetadata').fault('has no meaning without listenerPath')
  return path === undefined ? undefined : { path, ...defined({ metadata }) }
}

/** `linux.seccomp` of config.json. */
export function readSeccomp(seccomp: Cursor): Seccomp {
  const defaultErrno = seccomp.get('defaultErrnoRet').maybe((c) => c.whole(0, ERRNO_MAX))
  const listener = readListener(seccomp)
  const profile: Seccomp = {
    defaultAction: seccomp.get('defaultAction').oneOf(SECCOMP_ACTIONS, 'an action'),
    architectures: seccomp
      .get('architectures')
      .list((c) => c.oneOf(SECCOMP_ARCHITECTURES, 'an architecture')),
    flags: seccomp.get('flags').list((c) => c.oneOf(SECCOMP_FLAGS, 'a flag')),
    syscalls: seccomp.get('syscalls').list(readRule),
    ...defined({ defaultErrno, listener }),
  }
  const listens = usesListener(profile)
  if (listens && !listener) seccomp.get('listenerPath').fault('is missing; SCMP_ACT_NOTIFY needs a listener')
  if (!listens && profile.flags.includes(WAIT_KILLABLE))
    seccomp.get('flags').fault(`${WAIT_KILLABLE} has no meaning without SCMP_ACT_NOTIFY`)
  return profile
}
