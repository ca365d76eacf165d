// A plan as the bytes that native/include/wherry.h describes: header, records, text area. Every start encodes
// one on the event loop, so the table of wire.ts is flattened once into lists of offsets and field names.

import { StartError } from '../contract/errors.ts'
import { type Op, type OpKind, type Plan } from './ops.ts'
import { ABI, fieldsOf, WIRE, type Value } from './wire.ts'

const MAGIC = 0x4e4c5057
export const HEADER_BYTES = 56
export const OP_BYTES = 56
const PLAN_BYTES_MAX = 4 << 20
const ALIGNMENT = 8

/** Offsets in struct wy_op. */
const AT = {
  kind: 0,
  flags: 4,
  handle: 8,
  from: 12,
  num: 16,
  num2: 20,
  texts: 24,
  wide: 40,
  wide2: 48,
} as const
const WORDS = ['handle', 'from', 'num', 'num2', 'wide', 'wide2'] as const

interface Place {
  readonly at: number
  readonly field: string | number
}

interface Layout {
  readonly code: number
  readonly handle: string | undefined
  readonly words: readonly Place[]
  readonly texts: ReadonlyArray<{ readonly at: number; readonly field: string }>
}

function layoutOf(kind: OpKind): Layout {
  const record = WIRE[kind]
  const texts: readonly string[] = record.texts ?? []
  return {
    code: record.code,
    handle: record.handle,
    words: WORDS.flatMap((word) => {
      const field = record[word]
      return field === undefined ? [] : [{ at: AT[word], field }]
    }),
    texts: texts.map((field, i) => ({ at: AT.texts + 4 * i, field })),
  }
}

const LAYOUTS: ReadonlyMap<string, Layout> = new Map(
  (Object.keys(WIRE) as OpKind[]).map((kind) => [kind, layoutOf(kind)]),
)

/** Grows the text area. Equal strings are written once, because plans repeat themselves. */
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
          throw new TypeError(`a string of a plan contains NUL: ${JSON.stringify(text.slice(0, 80))}`)
        offset = append(Buffer.from(text + '\0'))
        known.set(text, offset)
      }
      return offset
    },
    list(texts: readonly string[]): number {
      if (texts.some((text) => text.includes('\0'))) throw new TypeError('a list of a plan contains NUL')
      return texts.length === 0 ? 0 : append(Buffer.from(texts.join('\0') + '\0'))
    },
    blob({ buffer, byteOffset, byteLength }: ArrayBufferView): number {
      const padding = -size & (ALIGNMENT - 1)
      if (padding > 0) append(new Uint8Array(padding))
      return append(new Uint8Array(buffer, byteOffset, byteLength))
    },
    bytes: (): Buffer => Buffer.concat([...chunks, new Uint8Array(1)]),
  }
}

type TextArea = ReturnType<typeof createTextArea>

function writeText(area: TextArea, value: Value): number {
  if (typeof value === 'string') return area.text(value)
  if (ArrayBuffer.isView(value)) return area.blob(value)
  return Array.isArray(value) ? area.list(value) : 0
}

/** VALUE as a number; of a list or a blob, its length. */
function toNumber(value: Value): number | bigint {
  if (typeof value === 'number' || typeof value === 'bigint') return value
  if (typeof value === 'object') return value.length
  return value === true ? 1 : 0
}

function writeWide(view: DataView, at: number, value: number | bigint): void {
  if (typeof value === 'number' && value >= 0 && value <= 0xffffffff && Number.isInteger(value))
    view.setUint32(at, value, true)
  else view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true)
}

/** Writes OP into the zeroed record at START. */
function encodeOp(view: DataView, start: number, op: Op, layout: Layout, area: TextArea): void {
  const fields = fieldsOf(op)
  view.setUint32(start, layout.code, true)
  if (fields['flags'] !== undefined) view.setUint32(start + AT.flags, Number(fields['flags']), true)
  for (const { at, field } of layout.words) {
    const value = toNumber(typeof field === 'number' ? field : fields[field])
    if (at >= AT.wide) writeWide(view, start + at, value)
    else view.setUint32(start + at, Number(value), true)
  }
  for (const { at, field } of layout.texts) view.setUint32(start + at, writeText(area, fields[field]), true)
}

/** PLAN as one buffer.  Throws TypeError for a NUL in a string, StartError over 4 MiB. */
export function encodePlan(plan: Plan): Buffer {
  const area = createTextArea()
  const opsEnd = HEADER_BYTES + plan.ops.length * OP_BYTES
  const head = new Uint8Array(opsEnd)
  const view = new DataView(head.buffer)
  let handleCount = 0
  let at = HEADER_BYTES
  for (const op of plan.ops) {
    const layout = LAYOUTS.get(op.kind)!
    encodeOp(view, at, op, layout, area)
    if (layout.handle !== undefined)
      handleCount = Math.max(handleCount, view.getUint32(at + AT.handle, true) + 1)
    at += OP_BYTES
  }
  const texts = area.bytes()
  const size = opsEnd + texts.length
  if (size > PLAN_BYTES_MAX)
    throw new StartError(
      `arguments and environment are too large: ${size} bytes, at most ${PLAN_BYTES_MAX}`,
      'ERR_START',
    )
  for (const [i, value] of [MAGIC, ABI, size, plan.ops.length, opsEnd, handleCount].entries())
    view.setUint32(4 * i, value, true)
  view.setBigUint64(24, BigInt(plan.cloneFlags >>> 0), true)
  for (const [i, fd] of [plan.cgroupFd, plan.idmapFd, plan.netnsFd].entries())
    view.setInt32(32 + 4 * i, fd, true)
  for (const [i, id] of [plan.idBase, plan.idCount, plan.pipeOwner].entries())
    view.setUint32(44 + 4 * i, id, true)
  return Buffer.concat([head, texts])
}
