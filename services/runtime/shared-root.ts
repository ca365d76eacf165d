// The root of a container that stays in the runtime's own mount namespace: its mounts are on the host, on
// top of the bundle's root folder, and do not go away with the container.  Who makes such a container counts
// what was there before, and takes back what is there on top.

import { readFileSync } from 'node:fs'

/** Deeper than this nobody stacks mounts. */
const STACK_MAX = 16

/** mountinfo writes blanks and backslashes in octal (proc(5)). */
const unescapePath = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8)))

/** How many mounts are on PATH, which has no symbolic links. */
export function countMountsAt(path: string): number {
  return readFileSync('/proc/self/mountinfo', 'latin1')
    .split('\n')
    .filter((line) => unescapePath(line.split(' ')[4] ?? '') === Buffer.from(path).toString('latin1')).length
}

/** Detach mounts from PATH, with all below them, until KEEP are left. */
export async function detachMountsAt(path: string, keep: number): Promise<void> {
  const { execFile } = process.getBuiltinModule('node:child_process')
  for (let i = Math.min(STACK_MAX, countMountsAt(path)); i > keep; i--)
    await new Promise<void>((resolve, reject) => {
      execFile('umount', ['--lazy', '--no-canonicalize', path], (err) => (err ? reject(err) : resolve()))
    })
}
