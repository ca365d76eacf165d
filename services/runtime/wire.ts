// One table: which field of an operation goes where in its record (struct wy_op in native/include/wherry.h).
// encode.ts knows no other source. A new operation needs its fields in ops.ts, a line here, and its half in
// C.

import type { Op, OpKind, OpOf } from './ops.ts'

/** WY_ABI; the library's is compared when it is loaded (native.ts). */
export const ABI = 6

type Blob = Uint8Array | Uint32Array | BigUint64Array
export type Value = string | number | bigint | boolean | readonly string[] | Blob | undefined

/** The names of the fields of kind K that hold a V. */
type Names<K extends OpKind, V> = {
  [F in keyof OpOf<K>]-?: NonNullable<OpOf<K>[F]> extends V ? F : never
}[Exclude<keyof OpOf<K>, 'kind' | 'flags'>]

/** A field that becomes a number; of a list or a blob, its length. A number stands for itself. */
type Word<K extends OpKind> = number | Names<K, number | bigint | boolean | readonly string[] | Blob>

/** Where the fields of an operation of kind K go. */
export interface WireRecord<K extends OpKind> {
  /** enum wy_op_kind */
  readonly code: number
  readonly handle?: Names<K, number>
  readonly from?: Word<K>
  readonly num?: Word<K>
  readonly num2?: Word<K>
  readonly wide?: Word<K>
  readonly wide2?: Word<K>
  /** t0, t1 … in this order. */
  readonly texts?: ReadonlyArray<Names<K, string | readonly string[] | Blob>>
}

const EXEC = { num: 'programs', num2: 'args', wide: 'env', texts: ['programs', 'args', 'env'] } as const
const ADJUST = { wide: 'set', wide2: 'clear', num: 'propagation' } as const

export const WIRE: { readonly [K in OpKind]: WireRecord<K> } = {
  fd: { code: 1, handle: 'handle', num: 'fd' },
  tree: { code: 2, handle: 'handle', from: 'users', texts: ['path'], ...ADJUST },
  cgroupJoin: { code: 3, texts: ['path'] },
  userMaps: { code: 4, texts: ['uidMap', 'gidMap'] },
  unshare: { code: 5, wide: 'namespaces' },
  propagation: { code: 6, wide: 'propagation' },
  setupIds: { code: 7 },
  fsmount: { code: 8, handle: 'handle', num: 'options', wide: 'set', texts: ['type', 'options'] },
  mkdir: { code: 9, handle: 'below', num: 'mode', num2: 'owner', texts: ['path'] },
  fchdir: { code: 10, handle: 'handle' },
  attach: { code: 11, handle: 'handle', texts: ['target'] },
  mount: { code: 12, wide: 'mountFlags', texts: ['source', 'target', 'type', 'data'] },
  bind: { code: 13, from: 'below', wide: 'set', texts: ['source', 'target'] },
  subtree: { code: 14, handle: 'handle', from: 'below', texts: ['path'], ...ADJUST },
  attributes: { code: 15, wide: 'set', wide2: 'clear', texts: ['target'] },
  pivot: { code: 16, texts: ['root'] },
  hostname: { code: 17, texts: ['name'] },
  loopbackUp: { code: 18 },
  rlimit: { code: 19, num: 'resource', wide: 'soft', wide2: 'hard', texts: ['name'] },
  ids: { code: 20, num: 'uid', num2: 'gid', from: 'groups', texts: ['groups'] },
  capabilities: { code: 21, texts: ['sets'] },
  noNewPrivs: { code: 22 },
  parentDeath: { code: 23, num: 'signal' },
  stdio: { code: 24, handle: 'handle', num: 'fd' },
  closeFds: { code: 25, num: 'keep' },
  chdir: { code: 26, texts: ['path'] },
  seccomp: { code: 27, num: 'program', num2: 'filterFlags', texts: ['program'] },
  exec: { code: 28, ...EXEC },
  pidNamespace: { code: 29, handle: 'handle' },
  setns: { code: 30, handle: 'handle', wide: 'namespaces' },
  inherit: { code: 31, handle: 'handle' },
  execFd: { code: 32, handle: 'handle', ...EXEC },
  domainname: { code: 33, texts: ['name'] },
  umask: { code: 34, num: 'mask' },
  personality: { code: 35, num: 'persona' },
  keyring: { code: 36, texts: ['name'] },
  stdioOwner: { code: 37, num: 'uid' },
  write: { code: 38, handle: 'below', texts: ['path', 'content'] },
  mknod: { code: 39, num: 'mode', wide: 'device', num2: 'uid', from: 'gid', texts: ['path'] },
  symlink: { code: 40, texts: ['target', 'path'] },
  mask: { code: 41, handle: 'handle', texts: ['path'] },
  console: { code: 42, handle: 'socket', num: 'rows', num2: 'columns', wide: 'owner' },
  checkProgram: { code: 43, num: 'programs', texts: ['programs'] },
  wait: { code: 44, handle: 'socket' },
  hook: {
    code: 45,
    num: 1,
    num2: 'args',
    wide: 'env',
    from: 'timeoutMs',
    texts: ['path', 'args', 'env', 'stdin'],
  },
  setattr: { code: 46, handle: 'handle', ...ADJUST },
  keepFds: { code: 47, num: 'count' },
  copyUp: { code: 48, handle: 'handle', num: 'withOwner', texts: ['path'] },
  chroot: { code: 49 },
  scheduler: { code: 50, num: 'attributes', texts: ['attributes'] },
  ioPriority: { code: 51, num: 'priority' },
  home: { code: 52, num: 'uid' },
  seccompListen: {
    code: 53,
    handle: 'socket',
    num: 'program',
    num2: 'filterFlags',
    texts: ['program', 'path', 'state'],
  },
  aside: { code: 54, num: 'count' },
}

/** The fields of OP by name, as the table names them. */
export const fieldsOf = (op: Op): { readonly [name: string]: Value } => op

/** What OP does, for error messages: "attach /proc". */
export function describeOp(op: Op | undefined): string {
  if (!op) return 'start'
  const fields = fieldsOf(op)
  const texts: readonly string[] = WIRE[op.kind].texts ?? []
  const text = texts.map((name) => fields[name]).find((value) => typeof value === 'string' && value !== '')
  return text === undefined ? op.kind : `${op.kind} ${String(text)}`
}
