// The device rules of a container: its effective list, the list's lines for a v1 devices cgroup, and the
// equivalent BPF program for v2 (BPF_PROG_TYPE_CGROUP_DEVICE). Pure.

import type { DeviceRule } from '../../contract/bundle-spec.ts'

/**
 * Allowed to every container (config-linux.md, Default Devices). mknod is harmless; opening is what matters.
 */
const DEFAULT_RULES: readonly DeviceRule[] = [
  { allow: true, type: 'c', access: 'm' },
  { allow: true, type: 'b', access: 'm' },
  ...[
    [1, 3],
    [1, 8],
    [1, 7],
    [5, 0],
    [1, 5],
    [1, 9],
    [5, 2],
  ].map(([major, minor]): DeviceRule => ({
    allow: true,
    type: 'c',
    major: major!,
    minor: minor!,
    access: 'rwm',
  })),
  // The container's own terminals.
  { allow: true, type: 'c', major: 136, access: 'rwm' },
]

/** RULES between "deny all" and what every container may use; later rules override earlier ones. */
export function effectiveRules(rules: readonly DeviceRule[]): readonly DeviceRule[] {
  return [{ allow: false, type: 'a', access: 'rwm' }, ...rules, ...DEFAULT_RULES]
}

/** RULE as a line of devices.allow and devices.deny (devices.rst). */
export function deviceLine(rule: DeviceRule): string {
  return `${rule.type} ${rule.major ?? '*'}:${rule.minor ?? '*'} ${rule.access}`
}

/** enum bpf_devcg of <linux/bpf.h> */
const TYPE = { b: 1, c: 2 } as const
const ACCESS: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 }
const ACCESS_ALL = 7
const INSTRUCTION_BYTES = 8
/** Opcodes of <linux/bpf.h>: class | operation | source. */
const BPF = {
  loadWord: 0x61,
  and: 0x54,
  andReg: 0x5c,
  shiftRight: 0x74,
  move: 0xb4,
  moveReg: 0xbc,
  jumpIfNot: 0x55,
  jumpIfNotReg: 0x5d,
  exit: 0x95,
} as const
/** Registers, by their contents. */
const R = { answer: 0, context: 1, type: 2, access: 3, major: 4, minor: 5, scratch: 6 } as const

interface Instruction {
  readonly code: number
  readonly to?: number
  readonly from?: number
  readonly offset?: number
  readonly value?: number
}

function encode(instructions: readonly Instruction[]): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(instructions.length * INSTRUCTION_BYTES))
  for (const [i, { code, to = 0, from = 0, offset = 0, value = 0 }] of instructions.entries()) {
    bytes.setUint8(i * INSTRUCTION_BYTES, code)
    bytes.setUint8(i * INSTRUCTION_BYTES + 1, to | (from << 4))
    bytes.setInt16(i * INSTRUCTION_BYTES + 2, offset, true)
    bytes.setInt32(i * INSTRUCTION_BYTES + 4, value, true)
  }
  return new Uint8Array(bytes.buffer)
}

/** The instructions of one rule: every failing test jumps past its end. */
function ruleInstructions(rule: DeviceRule): Instruction[] {
  const tests: Instruction[] = []
  if (rule.type !== 'a') tests.push({ code: BPF.jumpIfNot, to: R.type, value: TYPE[rule.type] })
  const access = [...rule.access].reduce((bits, letter) => bits | ACCESS[letter]!, 0)
  if (access !== ACCESS_ALL) {
    tests.push(
      { code: BPF.moveReg, to: R.scratch, from: R.access },
      { code: BPF.and, to: R.scratch, value: access },
      { code: BPF.jumpIfNotReg, to: R.scratch, from: R.access },
    )
  }
  if (rule.major !== undefined) tests.push({ code: BPF.jumpIfNot, to: R.major, value: rule.major })
  if (rule.minor !== undefined) tests.push({ code: BPF.jumpIfNot, to: R.minor, value: rule.minor })
  const all = [...tests, { code: BPF.move, to: R.answer, value: rule.allow ? 1 : 0 }, { code: BPF.exit }]
  return all.map((instruction, i): Instruction =>
    instruction.code === BPF.jumpIfNot || instruction.code === BPF.jumpIfNotReg
      ? { ...instruction, offset: all.length - 1 - i }
      : instruction,
  )
}

/**
 * RULES as a program: the last matching rule decides, so it comes first; without a match access is refused.
 */
export function deviceProgram(rules: readonly DeviceRule[]): Uint8Array {
  // struct bpf_cgroup_dev_ctx: access in the upper and type in the lower half of the first word, then major
  // and minor.
  const load: Instruction[] = [
    { code: BPF.loadWord, to: R.type, from: R.context },
    { code: BPF.moveReg, to: R.access, from: R.type },
    { code: BPF.and, to: R.type, value: 0xffff },
    { code: BPF.shiftRight, to: R.access, value: 16 },
    { code: BPF.loadWord, to: R.major, from: R.context, offset: 4 },
    { code: BPF.loadWord, to: R.minor, from: R.context, offset: 8 },
  ]
  const reversed = rules.toReversed()
  // Code after a rule for everything is never reached, and the kernel refuses programs with dead code.
  const last = reversed.findIndex(
    (rule) =>
      rule.type === 'a' && rule.major === undefined && rule.minor === undefined && rule.access.length === 3,
  )
  const reachable = last < 0 ? reversed : reversed.slice(0, last + 1)
  return encode([
    ...load,
    ...reachable.flatMap(ruleInstructions),
    ...(last < 0 ? [{ code: BPF.move, to: R.answer, value: 0 }, { code: BPF.exit }] : []),
  ])
}
