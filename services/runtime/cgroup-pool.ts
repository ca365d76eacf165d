// Cgroups off the hot path: made ahead with their limits already written, cleaned up behind.  A call
// takes one that fits its limits; while the container runs nobody waits for mkdir or rmdir.  Never used
// twice: peaks and counters of a cgroup belong to one container.

import type { Resources } from '../contract/runtime-spec.ts'
import type { Cgroup, CgroupDriver } from './cgroup-driver.ts'

/** Kept ready for one set of limits … */
const AHEAD_PER_SHAPE = 4
/** … and for this many sets, the least recently used one goes first. */
const SHAPES_MAX = 16
const REMOVE_RETRY_MS = 20
const REMOVE_TRIES_MAX = 250

export interface CgroupPool {
  take (resources: Resources): Cgroup
  /** Its container has ended (or never started): remove it, and make the next one ready. */
  giveBack (cgroup: Cgroup): void
  /** Resolves when all are removed that can be. */
  close (): Promise<void>
}

export function createCgroupPool ({ driver, onLeak }: { driver: CgroupDriver, onLeak: (what: string) => void }): CgroupPool {
  const ready = new Map<string, { resources: Resources, cgroups: Cgroup[] }>()
  const removals = new Set<Promise<void>>()
  let serial = 0
  let closed = false

  const make = (resources: Resources): Cgroup => driver.create(String(serial++), resources)

  /** The kernel lets go of a cgroup a moment after its last process: try again, bounded. */
  async function remove (cgroup: Cgroup): Promise<void> {
    for (let tries = 0; tries < REMOVE_TRIES_MAX; tries++) {
      await new Promise(resolve => { setTimeout(resolve, tries === 0 ? 0 : REMOVE_RETRY_MS) })
      if (cgroup.remove()) return
    }
    onLeak(`cgroup ${cgroup.name} is still in use`)
  }

  function discard (cgroup: Cgroup): void {
    const removal = remove(cgroup)
    removals.add(removal)
    void removal.finally(() => removals.delete(removal))
  }

  function shapeOf (resources: Resources): { resources: Resources, cgroups: Cgroup[] } {
    const key = JSON.stringify(resources)
    const shape = ready.get(key) ?? { resources, cgroups: [] }
    ready.delete(key) // to the end of the map: most recently used
    ready.set(key, shape)
    if (ready.size > SHAPES_MAX) {
      const [oldest, { cgroups }] = ready.entries().next().value!
      ready.delete(oldest)
      cgroups.forEach(discard)
    }
    return shape
  }

  /** One at a time, between other work. */
  function refill (shape: { resources: Resources, cgroups: Cgroup[] }): void {
    setImmediate(() => {
      if (closed || shape.cgroups.length >= AHEAD_PER_SHAPE) return
      try {
        shape.cgroups.push(make(shape.resources))
      } catch (err) {
        onLeak(`no cgroup could be made ahead: ${String(err)}`) // the next take tries again and says why
      }
    })
  }

  return {
    take (resources) {
      const shape = shapeOf(resources)
      const cgroup = shape.cgroups.pop() ?? make(resources)
      refill(shape)
      return cgroup
    },
    giveBack: discard,
    async close () {
      closed = true
      for (const { cgroups } of ready.values()) cgroups.splice(0).forEach(discard)
      while (removals.size > 0) await Promise.allSettled(removals)
      driver.close()
    },
  }
}
