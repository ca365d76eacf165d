// The kernel's version, for the few features that cannot be probed.

import { release } from 'node:os'

/** Whether this is Linux MAJOR.MINOR or later. */
export function isKernelAtLeast(major: number, minor: number): boolean {
  const [ourMajor = 0, ourMinor = 0] = release().split('.').map(Number)
  return ourMajor > major || (ourMajor === major && ourMinor >= minor)
}
