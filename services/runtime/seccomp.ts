// Compiles a seccomp profile once, with libseccomp (seccomp_init(3) and its companions). The result is an
// array of struct sock_filter, which goes into every plan.

import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import koffi from 'koffi'
import { Unsupported } from '../contract/errors.ts'
import type { ArgumentRule, SyscallRule } from './seccomp-profile.ts'

const SCMP_ACT_ALLOW = 0x7fff0000
export const scmpActErrno = (errno: number): number => (0x00050000 | errno) >>> 0
const EPERM = 1
const EEXIST = 17
const NR_UNKNOWN = -1
/** enum scmp_compare */
const COMPARE: Readonly<Record<ArgumentRule['op'], number>> = { ne: 1, lt: 2, eq: 4, gt: 6, masked: 7 }
/** Errors of libseccomp for calls that this machine does not have. */
const EDOM = 33
/** A binary tree over call numbers instead of a list of comparisons (seccomp_attr_set(3)). */
const SCMP_FLTATR_CTL_OPTIMIZE = 8
const OPTIMIZE_TREE = 2

function load() {
  try {
    return koffi.load('libseccomp.so.2')
  } catch (cause) {
    throw new Unsupported(
      'libseccomp.so.2 was not found; run "make setup" (Debian package libseccomp2)',
      cause,
    )
  }
}

function check(result: number, what: string): void {
  if (result < 0) throw new Unsupported(`libseccomp could not ${what} (error ${-result})`)
}

/** A condition on argument `arg`; `op` is libseccomp's number for it. */
export interface Comparison {
  readonly arg: number
  readonly op: number
  readonly a: number | bigint
  readonly b: number | bigint
}

export interface FilterBuilder {
  /** Also filter calls of the architecture NAME ("x86"); false if this libseccomp does not know it. */
  addArchitecture(name: string): boolean
  /**
   * Applies ACTION to the system call NAME when all conditions hold; skips a name that no architecture has.
   */
  addRule(name: string, action: number, conditions: readonly Comparison[]): void
}

/** The filter that BUILD describes, DEFAULT_ACTION for everything else, as struct sock_filter[]. */
export function buildFilter(defaultAction: number, build: (filter: FilterBuilder) => void): Uint8Array {
  const lib = load()
  const argument = koffi.struct({ arg: 'uint32', op: 'int32', a: 'uint64', b: 'uint64' })
  const init = lib.func('void *seccomp_init(uint32_t action)')
  const release = lib.func('void seccomp_release(void *context)')
  const resolve = lib.func('int seccomp_syscall_resolve_name(const char *name)')
  const resolveArchitecture = lib.func('uint32_t seccomp_arch_resolve_name(const char *name)')
  const addArchitecture = lib.func('int seccomp_arch_add(void *context, uint32_t token)')
  const attribute = lib.func('int seccomp_attr_set(void *context, int attribute, uint32_t value)')
  const add = lib.func('seccomp_rule_add_array', 'int', [
    'void *',
    'uint32',
    'int',
    'uint',
    koffi.pointer(argument),
  ])
  const exportBpf = lib.func('int seccomp_export_bpf(void *context, int fd)')
  const context: unknown = init(defaultAction)
  const directory = mkdtempSync(join(tmpdir(), 'wherry-seccomp-'))
  const path = join(directory, 'filter')
  try {
    check(attribute(context, SCMP_FLTATR_CTL_OPTIMIZE, OPTIMIZE_TREE), 'optimise the filter')
    build({
      addArchitecture(name) {
        const token: number = resolveArchitecture(name)
        if (token === 0) return false
        const result: number = addArchitecture(context, token)
        if (result !== -EEXIST) check(result, `filter the architecture ${name}`)
        return true
      },
      addRule(name, action, conditions) {
        const number: number = resolve(name)
        // libseccomp numbers calls that only another architecture has below -1.
        if (number === NR_UNKNOWN) return
        const result: number = add(context, action, number, conditions.length, conditions)
        if (number >= 0 || result !== -EDOM) check(result, `add a rule for ${name}`)
      },
    })
    const fd = openSync(path, 'wx', 0o600)
    try {
      check(exportBpf(context, fd), 'write the filter')
    } finally {
      closeSync(fd)
    }
    return new Uint8Array(readFileSync(path))
  } finally {
    rmSync(directory, { recursive: true, force: true })
    release(context)
  }
}

/**
 * RULES as struct sock_filter[]; everything else fails with EPERM. Skips names that this machine does not
 * have.
 */
export function compileSeccomp(rules: readonly SyscallRule[]): Uint8Array {
  return buildFilter(scmpActErrno(EPERM), (filter) => {
    for (const rule of rules) {
      const conditions = (rule.when ?? []).map((c) => ({
        arg: c.arg,
        op: COMPARE[c.op],
        a: c.mask ?? c.value,
        b: c.mask === undefined ? 0 : c.value,
      }))
      filter.addRule(
        rule.name,
        rule.errno === undefined ? SCMP_ACT_ALLOW : scmpActErrno(rule.errno),
        conditions,
      )
    }
  })
}
