// Two small shapes of concurrency: the same work at most once at a time, and at most N works at a time.

/** A function that runs WORK for KEY, or waits for the run of that KEY that is under way and gets its end. */
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

/** A function that runs WORK when fewer than MAX are running, first come first served. */
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
        next() // the slot goes over, `running` stays
      else running--
    }
  }
}
