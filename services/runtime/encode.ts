// A plan as the bytes that native/include/wherry.h describes: header, operations, text area.
// Knows the layout and nothing of what the operations mean.

import { StartError } from '../contract/errors.ts'
import { ABI, OP, type Op, type Plan } from './ops.ts'

const MAGIC = 0x4e4c5057
export const HEADER_BYTES = 56
export const OP_BYTES = 56
const PLAN_BYTES_MAX = 4 << 20
const ALIGNMENT = 8

/** Grows the text area; equal texts are written once, because plans repeat themselves. */
function createTextArea() {
  const chunks: Uint8Array[] = [new Uint8Array(1)]
  const known = new Map<string, number>([['', 0]])
  let size = 1
  function append(bytes: Uint8Array): number {
    const offset = size
    chunks.push(bytes)
    size += bytes.length
    return offset
  }
  return {
    text(text: string): number {
      let offset = known.get(text)
      if (offset === undefined) {
        if (text.includes('\0'))
          throw new TypeError(`a text of a plan contains NUL: ${JSON.stringify(text.slice(0, 80))}`)
        offset = append(Buffer.from(text + '\0'))
        known.set(text, offset)
      }
      return offset
    },
    list(texts: readonly string[]): number {
      if (texts.some((text) => text.includes('\0'))) throw new TypeError('a list of a plan contains NUL')
      return texts.length === 0 ? 0 : append(Buffer.from(texts.join('\0') + '\0'))
    },
    blob(bytes: Uint8Array): number {
      const padding = -size & (ALIGNMENT - 1)
      if (padding > 0) append(new Uint8Array(padding))
      return append(bytes)
    },
    bytes: (): Buffer => Buffer.concat([...chunks, new Uint8Array(1)]),
  }
}

function encodeOp(view: DataView, at: number, op: Op, area: ReturnType<typeof createTextArea>): void {
  view.setUint32(at, OP[op.kind], true)
  view.setUint32(at + 4, op.flags ?? 0, true)
  view.setUint32(at + 8, op.slot ?? 0, true)
  view.setUint32(at + 12, op.from ?? 0, true)
  view.setUint32(at + 16, op.num ?? 0, true)
  view.setUint32(at + 20, op.num2 ?? 0, true)
  for (const [i, text] of (op.texts ?? []).entries()) {
    const offset =
      typeof text === 'string'
        ? area.text(text)
        : text instanceof Uint8Array
          ? area.blob(text)
          : area.list(text)
    view.setUint32(at + 24 + 4 * i, offset, true)
  }
  view.setBigUint64(at + 40, BigInt.asUintN(64, BigInt(op.wide ?? 0)), true)
  view.setBigUint64(at + 48, BigInt.asUintN(64, BigInt(op.wide2 ?? 0)), true)
}

/** PLAN as one buffer.  Throws TypeError for a NUL in a text, StartError over 4 MiB. */
export function encodePlan(plan: Plan): Buffer {
  const area = createTextArea()
  const opsEnd = HEADER_BYTES + plan.ops.length * OP_BYTES
  const head = new Uint8Array(opsEnd)
  const view = new DataView(head.buffer)
  let slotCount = 0
  for (const [i, op] of plan.ops.entries()) {
    encodeOp(view, HEADER_BYTES + i * OP_BYTES, op, area)
    if (op.slot !== undefined) slotCount = Math.max(slotCount, op.slot + 1)
  }
  const texts = area.bytes()
  const size = opsEnd + texts.length
  if (size > PLAN_BYTES_MAX)
    throw new StartError(
      `arguments and environment are too large: ${size} bytes, at most ${PLAN_BYTES_MAX}`,
      'ERR_START',
    )
  for (const [i, value] of [MAGIC, ABI, size, plan.ops.length, opsEnd, slotCount].entries())
    view.setUint32(4 * i, value, true)
  view.setBigUint64(24, BigInt(plan.cloneFlags >>> 0), true)
  for (const [i, fd] of [plan.cgroupFd, plan.idmapFd, plan.netnsFd].entries())
    view.setInt32(32 + 4 * i, fd, true)
  for (const [i, id] of [plan.idBase, plan.idCount, plan.pipeOwner].entries())
    view.setUint32(44 + 4 * i, id, true)
  return Buffer.concat([head, texts])
}
