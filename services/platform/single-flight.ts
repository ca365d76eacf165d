// Two forms of bounded concurrency: one run per key at a time, and at most N runs at a time.

/** A function that runs WORK for KEY, or joins the run of that KEY that is under way. */
export function createSingleFlight<T>(): (key: string, work: () => Promise<T>) => Promise<T> {
  const flying = new Map<string, Promise<T>>()
  return (key, work) => {
    const under = flying.get(key)
    if (under) return under
    const started = work().finally(() => flying.delete(key))
    flying.set(key, started)
    return started
  }
}

/** A function that runs WORK once fewer than MAX are running, first come first served. */
export function createSlots(max: number): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: Array<() => void> = []
  let running = 0
  return async (work) => {
    if (running >= max)
      await new Promise<void>((resolve) => {
        waiting.push(resolve)
      })
    else running++
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next)
        next() // hands the slot over; `running` stays
      else running--
    }
  }
}
