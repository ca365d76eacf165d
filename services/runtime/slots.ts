// Slots: how many containers may live at once, and what each place keeps from one container to the
// next because making it is slow: a range of ids with the user namespace that maps layers to it, a
// folder with device nodes (one for all would let them watch and lock each other's, inotify(7), flock(2)),
// and a network namespace with nothing but `lo`.  A container has no capability over its network
// namespace, so it cannot change it, and every socket in it is gone with the container's processes.
// What can stay is what went over `lo` (connections in TIME_WAIT, counters): then the next gets a new one.
//
// The namespaces are held by descriptors only: when this process dies, however it dies, the kernel frees them.

import { chmodSync, closeSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { SyscallError } from '../contract/errors.ts'
import type { Native } from './native.ts'
import { ID_COUNT } from './user.ts'

/** Ranges start here: above the ids that a host and its /etc/subuid usually give out … */
const FIRST_BASE = 16_777_216
/** … and end below 2³¹, because some tools still read ids as signed numbers. */
const BLOCKS = 30
const SLOTS_PER_BLOCK = 1024
const DEV_MODE = 0o755
export const SLOTS_MAX = SLOTS_PER_BLOCK

export interface Slot {
  readonly number: number
  readonly idBase: number
  readonly idmapFd: number
  /** A file system's folder with the standard device nodes, attached read-only as /dev. */
  readonly devDir: string
  /** -1: a new one at each start. */
  readonly netnsFd: number
}

export interface Slots {
  /** A free slot; undefined when all are taken. */
  take (): Slot | undefined
  release (slot: Slot): void
  close (): void
}

/** Up to COUNT slots, made when first needed, with device nodes below DEVROOT.  BLOCK (any number) chooses the range of ids, so that workers differ. */
export function createSlots ({ native, count, block, devRoot }: { native: Native, count: number, block: number, devRoot: string }): Slots {
  if (count < 1 || count > SLOTS_MAX) throw new RangeError(`${count} slots; 1 to ${SLOTS_MAX} are possible`)
  const base = FIRST_BASE + (block % BLOCKS) * SLOTS_PER_BLOCK * ID_COUNT
  const all: Slot[] = []
  const free: Slot[] = []
  let closed = false

  function make (): Slot {
    const number = all.length
    const idBase = base + number * ID_COUNT
    const devDir = join(devRoot, String(number))
    mkdirSync(devDir, { recursive: true })
    chmodSync(devDir, DEV_MODE) // whatever the umask says: users inside list it
    native.makeDevices(devDir)
    const idmapFd = native.newUserNamespace(idBase, ID_COUNT)
    try {
      const slot = { number, idBase, idmapFd, devDir, netnsFd: native.newNetworkNamespace() }
      all.push(slot)
      return slot
    } catch (err) {
      closeSync(idmapFd)
      throw err
    }
  }

  /** -1 lets the next container make its own at its start, and say why it cannot. */
  function replacement (): number {
    try {
      return native.newNetworkNamespace()
    } catch (err) {
      if (err instanceof SyscallError) return -1
      throw err
    }
  }

  function discard (slot: Slot): void {
    closeSync(slot.idmapFd)
    if (slot.netnsFd >= 0) closeSync(slot.netnsFd)
  }

  return {
    take: () => free.pop() ?? (all.length < count ? make() : undefined),
    release (slot) {
      if (closed) return discard(slot)
      if (slot.netnsFd >= 0 && !native.networkNamespaceUsed(slot.netnsFd)) return void free.push(slot)
      if (slot.netnsFd >= 0) closeSync(slot.netnsFd)
      free.push({ ...slot, netnsFd: replacement() })
    },
    close () {
      if (closed) return
      closed = true
      for (const slot of free.splice(0)) discard(slot)
    },
  }
}
