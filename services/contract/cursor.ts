// Reads an untrusted JSON document field by field. A cursor points to one value, knows its path in the
// document, and collects what is wrong with it. Reading does not stop at the first fault: after a fault a
// cursor returns a value of the right type, and the reader checks the faults at the end.

import type { Fault } from './errors.ts'
import { isPlainObject } from './plain-object.ts'

/** Elements of a list. The plan has a lower bound. */
const LIST_MAX = 8192
const TEXT_MAX = 1 << 20
/** More faults than this are not reported. */
const FAULTS_MAX = 100
/** Longer values are quoted only in part. */
const QUOTE_MAX = 60

export interface Cursor {
  readonly path: string
  /** False for a field that is missing or null. */
  readonly exists: boolean
  get(key: string): Cursor
  fault(problem: string): void
  /** A string without NUL. */
  text(): string
  boolean(fallback: boolean): boolean
  /** A whole number from MIN to MAX. */
  whole(min: number, max: number): number
  /** An unsigned 64-bit number. */
  whole64(): number | bigint
  oneOf<T extends string>(words: readonly T[], what: string): T
  /** [] when missing; at most MAX. */
  list<T>(read: (item: Cursor) => T, max?: number): T[]
  /** {} when missing. */
  texts(): Record<string, string>
  keys(): string[]
  /** The result of READ; undefined if the field is missing. */
  maybe<T>(read: (field: Cursor) => T): T | undefined
  /** Report the fault WHY if the field exists. */
  refused(why: string): void
  /** Report a fault if the field is missing. */
  needed(): Cursor
}

/** Parse TEXT; integers that a number cannot hold become bigints. Throws SyntaxError. */
export function parseDocument(text: string): unknown {
  return JSON.parse(text, (_key, value: unknown, context?: { source?: string }) => {
    const source = context?.source
    return typeof value === 'number' &&
      !Number.isSafeInteger(value) &&
      source !== undefined &&
      /^-?\d+$/.test(source)
      ? BigInt(source)
      : value
  })
}

function quote(value: unknown): string {
  const text = typeof value === 'bigint' ? String(value) : (JSON.stringify(value) ?? String(value))
  return text.length <= QUOTE_MAX ? text : `${text.slice(0, QUOTE_MAX)}…`
}

/** A cursor on VALUE, the whole document or the part at PATH. Faults go to FAULTS. */
export function createCursor(value: unknown, path: string, faults: Fault[]): Cursor {
  const exists = value !== undefined && value !== null
  const fault = (problem: string): void => {
    if (
      faults.length < FAULTS_MAX &&
      !faults.some((known) => known.path === path && known.problem === problem)
    )
      faults.push({ path, problem })
  }
  const wanted = (what: string): void => {
    fault(exists ? `${quote(value)} is not ${what}` : `is missing; it must be ${what}`)
  }
  let complained = false
  const notAnObject = (): void => {
    if (!complained) wanted('an object')
    complained = true
  }
  const child = (key: string): Cursor => {
    const inner = isPlainObject(value) && Object.hasOwn(value, key) ? value[key] : undefined
    if (exists && !isPlainObject(value)) notAnObject()
    return createCursor(
      inner,
      path === '' ? key : /^\w+$/.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`,
      faults,
    )
  }
  const self: Cursor = {
    path,
    exists,
    fault,
    get: child,
    text() {
      if (typeof value === 'string' && value.length <= TEXT_MAX && !value.includes('\0')) return value
      if (typeof value === 'string')
        fault(value.includes('\0') ? 'contains a NUL character' : `is longer than ${TEXT_MAX} characters`)
      else wanted('a string')
      return ''
    },
    boolean(fallback) {
      if (!exists) return fallback
      if (typeof value !== 'boolean') wanted('true or false')
      return value === true
    },
    whole(min, max) {
      if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
      wanted(`a whole number from ${min} to ${max}`)
      return min
    },
    whole64() {
      if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
      if (typeof value === 'bigint' && value >= 0n && value < 1n << 64n) return value
      wanted('a whole number from 0 to 2⁶⁴ − 1')
      return 0
    },
    oneOf<T extends string>(words: readonly T[], what: string) {
      const found = words.find((word) => word === value)
      if (found === undefined) wanted(`${what} (${words.join(', ')})`)
      return found ?? words[0]!
    },
    list(read, max = LIST_MAX) {
      if (!exists) return []
      if (!Array.isArray(value)) {
        wanted(`a list of at most ${max}`)
        return []
      }
      if (value.length > max) {
        fault(`has ${value.length} entries; at most ${max} are taken`)
        return []
      }
      return value.map((item, i) => read(createCursor(item, `${path}[${i}]`, faults)))
    },
    texts() {
      return Object.fromEntries(self.keys().map((key) => [key, child(key).text()]))
    },
    keys() {
      if (!exists) return []
      if (!isPlainObject(value)) {
        wanted('an object')
        return []
      }
      const keys = Object.keys(value)
      if (keys.length > LIST_MAX) fault(`has ${keys.length} entries; at most ${LIST_MAX} are taken`)
      else if (keys.some((key) => key.includes('\0'))) fault('has a name with a NUL character')
      else return keys
      return []
    },
    maybe: (read) => (exists ? read(self) : undefined),
    refused(why) {
      if (exists) fault(why)
    },
    needed() {
      if (!exists) fault('is missing')
      return self
    },
  }
  return self
}
