// Finds the disk of a folder as cgroups name disks: "MAJOR:MINOR" of the whole device, never of a partition
// (/sys/dev/block, sysfs(5)).

import { existsSync, readFileSync, statSync } from 'node:fs'

/**
 * The disk under PATH; undefined for a file system without one (tmpfs, a network) or with several (btrfs).
 */
export function diskOf(path: string): string | undefined {
  const { dev } = statSync(path, { bigint: true })
  // makedev(3): 12 and 20 bits of major, 8 and 24 of minor, interleaved.
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n)
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n)
  const device = `/sys/dev/block/${major}:${minor}`
  if (!existsSync(device)) return undefined
  return readFileSync(existsSync(`${device}/partition`) ? `${device}/../dev` : `${device}/dev`, 'utf8').trim()
}
