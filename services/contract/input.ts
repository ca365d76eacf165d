// zod options for input that people write: default messages in their words, and zod's issues as faults.

import type { z } from 'zod'
import type { Fault } from './errors.ts'

const KINDS: Readonly<Record<string, string>> = {
  string: 'a string',
  number: 'a number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
}

/** Pass to `safeParse`; a message of the schema itself takes precedence. */
export const INPUT = {
  reportInput: true,
  error(issue: z.core.$ZodRawIssue): string | undefined {
    if (issue.code === 'invalid_type') return `must be ${KINDS[issue.expected] ?? issue.expected}`
    if (issue.code === 'invalid_union') return 'must be a string or a number'
    if (issue.code === 'too_big') return `is longer than ${issue.maximum}`
    return issue.code === 'too_small' ? 'is empty' : undefined
  },
} as const

/** The faults that a zod ISSUE stands for; an unknown key is one fault per key. */
export function faultOf(issue: z.core.$ZodIssue): Fault[] {
  const path = issue.path
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : i === 0 ? String(key) : `.${String(key)}`))
    .join('')
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      path: path === '' ? key : `${path}.${key}`,
      problem: 'is not a known field',
    }))
  }
  if (issue.code === 'invalid_key') return [{ path, problem: issue.issues[0]?.message ?? issue.message }]
  if (issue.code === 'invalid_type' && issue.input === undefined) return [{ path, problem: 'is missing' }]
  return [{ path, problem: issue.message }]
}
