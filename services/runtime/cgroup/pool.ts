// Cgroups off the hot path: created ahead with their limits written, removed later. A call takes one that
// fits its limits, so no start waits for mkdir or rmdir. A cgroup that a container has left is reused where
// the driver can reset it (Cgroup.renew), after a delay, because the kernel releases the memory of dead
// processes a moment later.

import type { Resources } from '../../contract/runtime-spec.ts'
import type { Cgroup, CgroupDriver } from './driver.ts'

/** Kept ready for one set of limits … */
const AHEAD_PER_SHAPE = 4
/** … and for this many sets; the least recently used one is dropped first. */
const SHAPES_MAX = 16
const REST_MS = 20
/** Of all shapes together; more are removed. */
const RESTING_MAX = 64
const REMOVE_RETRY_MS = 20
const REMOVE_TRIES_MAX = 250

export interface CgroupPool {
  take(resources: Resources): Cgroup
  /** Its container has ended (or never started): removes it or prepares it for the next. */
  giveBack(cgroup: Cgroup): void
  /** Resolves when all that can be removed are. */
  close(): Promise<void>
}

interface Shape {
  readonly key: string
  readonly resources: Resources
  readonly ready: Cgroup[]
  /** Oldest first. */
  readonly resting: Array<{ readonly cgroup: Cgroup; readonly since: number }>
}

export function createCgroupPool({
  driver,
  onLeak,
}: {
  driver: CgroupDriver
  onLeak: (what: string) => void
}): CgroupPool {
  const shapes = new Map<string, Shape>()
  const inUse = new Map<Cgroup, Shape>()
  const removals = new Set<Promise<void>>()
  let resting = 0
  let serial = 0
  let closed = false

  const make = (resources: Resources): Cgroup => driver.create(String(serial++), resources)

  /** The kernel releases a cgroup a moment after its last process: retry, bounded. */
  async function remove(cgroup: Cgroup): Promise<void> {
    for (let tries = 0; tries < REMOVE_TRIES_MAX; tries++) {
      await new Promise((resolve) => {
        setTimeout(resolve, tries === 0 ? 0 : REMOVE_RETRY_MS)
      })
      if (cgroup.remove()) return
    }
    onLeak(`cgroup ${cgroup.name} is still in use`)
  }

  function discard(cgroup: Cgroup): void {
    const removal = remove(cgroup)
    removals.add(removal)
    void removal.finally(() => removals.delete(removal))
  }

  const isKept = (shape: Shape): boolean => shapes.get(shape.key) === shape

  function empty(shape: Shape): void {
    resting -= shape.resting.length
    for (const { cgroup } of shape.resting.splice(0)) discard(cgroup)
    for (const cgroup of shape.ready.splice(0)) discard(cgroup)
  }

  function shapeOf(resources: Resources): Shape {
    const key = JSON.stringify(resources)
    const shape = shapes.get(key) ?? { key, resources, ready: [], resting: [] }
    shapes.delete(key) // to the end of the map: most recently used
    shapes.set(key, shape)
    if (shapes.size > SHAPES_MAX) {
      const [oldest, unused] = shapes.entries().next().value!
      shapes.delete(oldest)
      empty(unused)
    }
    return shape
  }

  /** A reset one after its delay; undefined if there is none. */
  function renewed(shape: Shape): Cgroup | undefined {
    const restedBefore = performance.now() - REST_MS
    while (shape.resting.length > 0 && shape.resting[0]!.since <= restedBefore) {
      const { cgroup } = shape.resting.shift()!
      resting--
      try {
        if (cgroup.renew!()) return cgroup
      } catch (err) {
        onLeak(`cgroup ${cgroup.name} could not be used again: ${String(err)}`)
      }
      discard(cgroup)
    }
    return undefined
  }

  /** One at a time, between other work. */
  function refill(shape: Shape): void {
    setImmediate(() => {
      if (closed || !isKept(shape) || shape.ready.length >= AHEAD_PER_SHAPE) return
      try {
        shape.ready.push(renewed(shape) ?? make(shape.resources))
      } catch (err) {
        onLeak(`no cgroup could be created ahead: ${String(err)}`) // the next take retries and reports why
      }
    })
  }

  return {
    take(resources) {
      const shape = shapeOf(resources)
      const cgroup = shape.ready.shift() ?? renewed(shape) ?? make(resources)
      inUse.set(cgroup, shape)
      refill(shape)
      return cgroup
    },
    giveBack(cgroup) {
      const shape = inUse.get(cgroup)!
      inUse.delete(cgroup)
      if (closed || cgroup.renew === undefined || !isKept(shape) || resting >= RESTING_MAX)
        return discard(cgroup)
      shape.resting.push({ cgroup, since: performance.now() })
      resting++
    },
    async close() {
      closed = true
      for (const shape of shapes.values()) empty(shape)
      while (removals.size > 0) await Promise.allSettled(removals)
      driver.close()
    },
  }
}
