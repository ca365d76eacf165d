// Slots: how many containers may run at once, and what each slot keeps from one container to the next because
// creating it is slow: a range of ids with the user namespace that maps layers to it, a folder with device
// nodes (with a shared one containers could watch and lock each other's nodes, inotify(7), flock(2)), and a
// network namespace with `lo` only. A container has no capability over its network namespace, so it cannot
// change it, and its sockets disappear with its processes. Only traffic over `lo` can leave traces
// (connections in TIME_WAIT, counters): then the next container gets a new namespace.
//
// The namespaces are held by descriptors only: when this process dies for any reason, the kernel frees them.

import { chmodSync, closeSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { SyscallError } from '../contract/errors.ts'
import type { Native } from './native.ts'
import type { IdRanges } from './id-ranges.ts'
import { ID_COUNT } from './user.ts'

const DEV_MODE = 0o755

export interface Slot {
  readonly number: number
  readonly idBase: number
  /** -1: the data folder's file system does not support id-mapped mounts. */
  readonly idmapFd: number
  /** A folder with the standard device nodes, attached read-only as /dev. */
  readonly devDir: string
  /** -1: a new one at each start. */
  readonly netnsFd: number
}

export interface Slots {
  /** Takes a free slot; undefined if there is none. */
  take(): Slot | undefined
  release(slot: Slot): void
  close(): void
}

export interface SlotsDeps {
  readonly native: Native
  /** One per slot; released on close. */
  readonly ranges: IdRanges
  /** Whether layers are mounted with mapped ids. */
  readonly idmap: boolean
  /** Folder for device nodes. */
  readonly devRoot: string
}

/** One slot per range, created when first needed. */
export function createSlots({ native, ranges, idmap, devRoot }: SlotsDeps): Slots {
  const all: Slot[] = []
  const free: Slot[] = []
  let closed = false

  function make(): Slot {
    const number = all.length
    const idBase = ranges.bases[number]!
    // No other worker uses this number, even with the same data folder.
    const devDir = join(devRoot, String(idBase))
    mkdirSync(devDir, { recursive: true })
    chmodSync(devDir, DEV_MODE) // regardless of the umask: users inside list it
    native.makeDevices(devDir)
    const idmapFd = idmap ? native.newUserNamespace(idBase, ID_COUNT) : -1
    try {
      const slot = { number, idBase, idmapFd, devDir, netnsFd: native.newNetworkNamespace() }
      all.push(slot)
      return slot
    } catch (err) {
      if (idmapFd >= 0) closeSync(idmapFd)
      throw err
    }
  }

  /** -1: the next container creates its own at its start, and reports why it cannot. */
  function replacement(): number {
    try {
      return native.newNetworkNamespace()
    } catch (err) {
      if (err instanceof SyscallError) return -1
      throw err
    }
  }

  function discard(slot: Slot): void {
    if (slot.idmapFd >= 0) closeSync(slot.idmapFd)
    if (slot.netnsFd >= 0) closeSync(slot.netnsFd)
  }

  return {
    take: () => free.pop() ?? (all.length < ranges.bases.length ? make() : undefined),
    release(slot) {
      if (closed) return discard(slot)
      if (slot.netnsFd >= 0 && !native.networkNamespaceUsed(slot.netnsFd)) return void free.push(slot)
      if (slot.netnsFd >= 0) closeSync(slot.netnsFd)
      free.push({ ...slot, netnsFd: replacement() })
    },
    close() {
      if (closed) return
      closed = true
      for (const slot of free.splice(0)) discard(slot)
      ranges.release()
    },
  }
}
