// The root of a container that stays in the runtime's mount namespace: its mounts are on the host, on top of
// the bundle's root folder, and do not disappear with the container. The creator of such a container counts
// the mounts before, and later detaches those above.

import { readFileSync } from 'node:fs'

/** Mounts on one path are not stacked deeper. */
const STACK_MAX = 16

/** mountinfo encodes blanks and backslashes in octal (proc(5)). */
const unescapePath = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8)))

/** The number of mounts on PATH, which must contain no symbolic links. */
export function countMountsAt(path: string): number {
  return readFileSync('/proc/self/mountinfo', 'latin1')
    .split('\n')
    .filter((line) => unescapePath(line.split(' ')[4] ?? '') === Buffer.from(path).toString('latin1')).length
}

/** Detaches mounts from PATH, with all below them, until KEEP are left. */
export async function detachMountsAt(path: string, keep: number): Promise<void> {
  const { execFile } = process.getBuiltinModule('node:child_process')
  for (let i = Math.min(STACK_MAX, countMountsAt(path)); i > keep; i--)
    await new Promise<void>((resolve, reject) => {
      execFile('umount', ['--lazy', '--no-canonicalize', path], (err) => (err ? reject(err) : resolve()))
    })
}
