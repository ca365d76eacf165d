// Which kernel this is, for the few things that cannot be asked by trying them.

import { release } from 'node:os'

/** Is it Linux MAJOR.MINOR or later? */
export function isKernelAtLeast(major: number, minor: number): boolean {
  const [ourMajor = 0, ourMinor = 0] = release().split('.').map(Number)
  return ourMajor > major || (ourMajor === major && ourMinor >= minor)
}
