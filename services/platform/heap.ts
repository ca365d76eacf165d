// Limits how much memory V8 takes in advance. By default it doubles the young generation whenever a few
// objects survive a collection, up to 48 MiB in a process with 12 MiB of live objects: after a day, a worker
// would be half as large again as at its start.

import { setFlagsFromString } from 'node:v8'

/** Keeps the young generation at its initial size, for the whole process.  Call before much is allocated. */
export function keepHeapFlat(): void {
  setFlagsFromString('--semi-space-growth-factor=1')
}
