// A profile becomes a filter program, once, by libseccomp (seccomp_init(3) and its companions).
// The result is plain bytes, an array of struct sock_filter, and goes into every plan.

import { closeSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomUUID } from 'node:crypto'
import koffi from 'koffi'
import { Unsupported } from '../contract/errors.ts'
import type { ArgumentRule, SyscallRule } from './seccomp-profile.ts'

const SCMP_ACT_ALLOW = 0x7fff0000
const scmpActErrno = (errno: number): number => (0x00050000 | errno) >>> 0
const EPERM = 1
const NR_UNKNOWN = -1
/** enum scmp_compare */
const COMPARE: Readonly<Record<ArgumentRule['op'], number>> = { ne: 1, lt: 2, eq: 4, gt: 6, masked: 7 }
/** A balanced tree over the call's number instead of a list of comparisons (seccomp_attr_set(3)). */
const SCMP_FLTATR_CTL_OPTIMIZE = 8
const OPTIMIZE_TREE = 2

function load () {
  try {
    return koffi.load('libseccomp.so.2')
  } catch (cause) {
    throw new Unsupported('libseccomp.so.2 is not there; run "make setup" (Debian package libseccomp2)', cause)
  }
}

function check (result: number, what: string): void {
  if (result < 0) throw new Unsupported(`libseccomp could not ${what} (error ${-result})`)
}

/** RULES as struct sock_filter[]; names that this machine does not have are left out. */
export function compileSeccomp (rules: readonly SyscallRule[]): Uint8Array {
  const lib = load()
  const argument = koffi.struct({ arg: 'uint32', op: 'int32', a: 'uint64', b: 'uint64' })
  const init = lib.func('void *seccomp_init(uint32_t action)')
  const release = lib.func('void seccomp_release(void *context)')
  const resolve = lib.func('int seccomp_syscall_resolve_name(const char *name)')
  const attribute = lib.func('int seccomp_attr_set(void *context, int attribute, uint32_t value)')
  const add = lib.func('seccomp_rule_add_array', 'int', ['void *', 'uint32', 'int', 'uint', koffi.pointer(argument)])
  const exportBpf = lib.func('int seccomp_export_bpf(void *context, int fd)')
  const context: unknown = init(scmpActErrno(EPERM))
  const path = join(tmpdir(), `wherry-seccomp-${randomUUID()}`)
  try {
    check(attribute(context, SCMP_FLTATR_CTL_OPTIMIZE, OPTIMIZE_TREE), 'optimise the filter')
    for (const rule of rules) {
      const number: number = resolve(rule.name)
      if (number === NR_UNKNOWN || number < 0) continue
      const conditions = (rule.when ?? []).map(c => ({ arg: c.arg, op: COMPARE[c.op], a: c.mask ?? c.value, b: c.mask === undefined ? 0 : c.value }))
      const action = rule.errno === undefined ? SCMP_ACT_ALLOW : scmpActErrno(rule.errno)
      check(add(context, action, number, conditions.length, conditions), `add a rule for ${rule.name}`)
    }
    const fd = openSync(path, 'wx', 0o600)
    try {
      check(exportBpf(context, fd), 'write the filter')
    } finally {
      closeSync(fd)
    }
    return new Uint8Array(readFileSync(path))
  } finally {
    rmSync(path, { force: true })
    release(context)
  }
}
