// Compiles the seccomp profile of a bundle (OCI runtime spec, config-linux.md), like ../seccomp.ts for
// functions, but with every action, flag and architecture.

import { constants } from 'node:os'
import type { Seccomp, SeccompAction, SeccompOperator, SeccompRule } from '../../contract/bundle-spec.ts'
import { buildFilter, scmpActErrno, type Comparison } from '../seccomp.ts'

/** libseccomp's names are the last parts of these, in lower case. */
export const SECCOMP_ARCHITECTURES = [
  'SCMP_ARCH_X86',
  'SCMP_ARCH_X86_64',
  'SCMP_ARCH_X32',
  'SCMP_ARCH_ARM',
  'SCMP_ARCH_AARCH64',
  'SCMP_ARCH_MIPS',
  'SCMP_ARCH_MIPS64',
  'SCMP_ARCH_MIPS64N32',
  'SCMP_ARCH_MIPSEL',
  'SCMP_ARCH_MIPSEL64',
  'SCMP_ARCH_MIPSEL64N32',
  'SCMP_ARCH_PPC',
  'SCMP_ARCH_PPC64',
  'SCMP_ARCH_PPC64LE',
  'SCMP_ARCH_S390',
  'SCMP_ARCH_S390X',
  'SCMP_ARCH_PARISC',
  'SCMP_ARCH_PARISC64',
  'SCMP_ARCH_RISCV64',
  'SCMP_ARCH_LOONGARCH64',
  'SCMP_ARCH_M68K',
  'SCMP_ARCH_SH',
  'SCMP_ARCH_SHEB',
] as const

/** SECCOMP_FILTER_FLAG_* of seccomp(2). */
const FLAGS = {
  SECCOMP_FILTER_FLAG_TSYNC: 1,
  SECCOMP_FILTER_FLAG_LOG: 2,
  SECCOMP_FILTER_FLAG_SPEC_ALLOW: 4,
  SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: 32,
} as const
export const WAIT_KILLABLE = 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV'
export const SECCOMP_FLAGS = Object.keys(FLAGS) as Array<keyof typeof FLAGS>

/** enum scmp_compare */
const COMPARE: Readonly<Record<SeccompOperator, number>> = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
}

/** SCMP_ACT_* of <seccomp.h>; an action's errno is in the lower half. */
function actionNumber(action: SeccompAction, errno: number): number {
  switch (action) {
    case 'SCMP_ACT_KILL':
    case 'SCMP_ACT_KILL_THREAD':
      return 0
    case 'SCMP_ACT_KILL_PROCESS':
      return 0x80000000
    case 'SCMP_ACT_TRAP':
      return 0x00030000
    case 'SCMP_ACT_ERRNO':
      return scmpActErrno(errno)
    case 'SCMP_ACT_TRACE':
      return (0x7ff00000 | errno) >>> 0
    case 'SCMP_ACT_LOG':
      return 0x7ffc0000
    case 'SCMP_ACT_NOTIFY':
      return 0x7fc00000
    case 'SCMP_ACT_ALLOW':
      return 0x7fff0000
  }
}

/**
 * All conditions of a rule must hold, but libseccomp takes one per argument; as in runc, several for one
 * argument are alternatives.
 */
function alternatives(rule: SeccompRule): Comparison[][] {
  const conditions = rule.args.map(({ index, op, value, valueTwo }): Comparison => ({
    arg: index,
    op: COMPARE[op],
    a: value,
    b: valueTwo,
  }))
  const unique = new Set(conditions.map((condition) => condition.arg)).size === conditions.length
  return unique ? [conditions] : conditions.map((condition) => [condition])
}

export interface CompiledSeccomp {
  readonly program: Uint8Array
  readonly flags: number
}

/** Whether an agent outside decides on some calls of PROFILE. */
export const usesListener = ({ defaultAction, syscalls }: Seccomp): boolean =>
  defaultAction === 'SCMP_ACT_NOTIFY' || syscalls.some(({ action }) => action === 'SCMP_ACT_NOTIFY')

/** PROFILE as a filter. Throws Unsupported if libseccomp cannot compile it. */
export function compileProfile(profile: Seccomp): CompiledSeccomp {
  const defaultAction = actionNumber(profile.defaultAction, profile.defaultErrno ?? constants.errno.EPERM)
  const program = buildFilter(defaultAction, (filter) => {
    for (const name of profile.architectures)
      filter.addArchitecture(name.slice('SCMP_ARCH_'.length).toLowerCase())
    for (const rule of profile.syscalls) {
      const action = actionNumber(rule.action, rule.errnoRet ?? constants.errno.EPERM)
      // libseccomp refuses a rule with the default action.
      if (action === defaultAction) continue
      for (const name of rule.names)
        for (const conditions of alternatives(rule)) filter.addRule(name, action, conditions)
    }
  })
  // The installing process has one thread that lives on, and the kernel refuses TSYNC with a listener.
  const names = usesListener(profile)
    ? profile.flags.filter((name) => name !== 'SECCOMP_FILTER_FLAG_TSYNC')
    : profile.flags
  return {
    program,
    flags: names.reduce((bits, name) => bits | (FLAGS as Readonly<Record<string, number>>)[name]!, 0),
  }
}
