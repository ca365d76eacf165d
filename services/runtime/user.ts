// "user" and "user:group" as image configs and function specs write them, resolved against the image's own
// /etc/passwd and /etc/group. Strict on purpose: a number is never looked up as a name, a name is never
// parsed as a number, and anything unresolved is an error, because fallbacks have granted root
// (CVE-2026-30892, CVE-2026-46680, CVE-2024-40635).

import { StartError } from '../contract/errors.ts'
import type { User } from '../contract/runtime-spec.ts'

/** How many ids a container's user namespace maps: 0 … 65535. */
export const ID_COUNT = 65_536
const LINES_MAX = 65_536
const GROUPS_MAX = 256

export interface UserFiles {
  readonly passwd: string | undefined
  readonly group: string | undefined
}

function refuse(written: string, why: string): never {
  throw new StartError(`user "${written}": ${why}`, 'ERR_UNKNOWN_USER')
}

/** Colon-separated lines with at least FIELDS fields. */
function rows(text: string | undefined, fields: number): string[][] {
  return (text ?? '')
    .split('\n', LINES_MAX)
    .map((line) => line.split(':'))
    .filter((row) => row.length >= fields)
}

/** Decimal digits only; out of the container's range is an error, not a wrap. */
function parseId(text: string, written: string): number | undefined {
  if (!/^\d+$/.test(text)) return undefined
  const id = /^\d{1,10}$/.test(text) ? Number(text) : Infinity
  if (id >= ID_COUNT) refuse(written, `${text} is not an id inside a container (0 to ${ID_COUNT - 1})`)
  return id
}

function idField(text: string | undefined, written: string, file: string): number {
  const id = parseId(text ?? '', written)
  return id ?? refuse(written, `${file} has no number where the id should be`)
}

/** WRITTEN ("", "app", "1000", "app:www", "1000:0" …) as ids. An empty string is root. */
export function resolveUser(written: string, files: UserFiles): User {
  const [userText = '', groupText, ...rest] = written.split(':')
  if (rest.length > 0) refuse(written, 'write "user" or "user:group"')
  if (userText === '' && groupText === undefined) return { uid: 0, gid: 0, additionalGids: [] }
  const passwd = rows(files.passwd, 4)
  const asNumber = parseId(userText, written)
  const row =
    asNumber === undefined
      ? (passwd.find((fields) => fields[0] === userText) ??
        refuse(written, `the image's /etc/passwd has no user "${userText}"`))
      : passwd.find((fields) => fields[2] === userText)
  const uid = asNumber ?? idField(row?.[2], written, '/etc/passwd')
  if (groupText !== undefined)
    return { uid, gid: resolveGroup(groupText, written, files), additionalGids: [] }
  const gid = row ? idField(row[3], written, '/etc/passwd') : 0
  return { uid, gid, additionalGids: row ? memberships(row[0]!, gid, written, files) : [] }
}

function resolveGroup(text: string, written: string, files: UserFiles): number {
  const asNumber = parseId(text, written)
  if (asNumber !== undefined) return asNumber
  const row = rows(files.group, 3).find((fields) => fields[0] === text)
  return row
    ? idField(row[2], written, '/etc/group')
    : refuse(written, `the image's /etc/group has no group "${text}"`)
}

function memberships(name: string, gid: number, written: string, files: UserFiles): number[] {
  return rows(files.group, 4)
    .filter((fields) => fields[3]!.split(',').includes(name))
    .slice(0, GROUPS_MAX)
    .map((fields) => idField(fields[2], written, '/etc/group'))
    .filter((id) => id !== gid)
}
