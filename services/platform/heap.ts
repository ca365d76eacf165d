// How much memory V8 takes ahead of need.  Left alone it doubles the space for young objects whenever a few
// survive a collection, up to 48 MiB for a process whose live objects are 12: a worker that has run for a day
// would be half as large again as one that began.  Knows the flag; refuses to know who allocates what.

import { setFlagsFromString } from 'node:v8'

/**
 * Keep the young space at its first size.  To be called before much was allocated; it holds for the process.
 */
export function keepHeapFlat(): void {
  setFlagsFromString('--semi-space-growth-factor=1')
}
