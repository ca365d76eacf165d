// Events of a running build, in order, as plain values.  The caller displays them.

export type BuildEvent =
  /** A step starts.  TITLE: "[builder 2/5] RUN make". */
  | { readonly kind: 'started'; readonly number: number; readonly title: string }
  | { readonly kind: 'output'; readonly number: number; readonly bytes: Buffer }
  | { readonly kind: 'done'; readonly number: number; readonly isCached: boolean; readonly tookMs: number }
  | { readonly kind: 'failed'; readonly number: number }
  | { readonly kind: 'warning'; readonly text: string }

export type OnBuildEvent = (event: BuildEvent) => void

/** Limits for the last output of a failed step in its error. */
const TAIL_BYTES_MAX = 16 * 1024
const TAIL_LINES_MAX = 20

/** Keeps the end of a step's output. */
export function createTail(): { add: (bytes: Buffer) => void; lines: () => readonly string[] } {
  let kept: Buffer[] = []
  let keptBytes = 0
  return {
    add(bytes) {
      kept.push(bytes)
      keptBytes += bytes.length
      if (keptBytes <= TAIL_BYTES_MAX * 2) return
      const joined = Buffer.concat(kept).subarray(-TAIL_BYTES_MAX)
      kept = [joined]
      keptBytes = joined.length
    },
    lines: () =>
      Buffer.concat(kept)
        .subarray(-TAIL_BYTES_MAX)
        .toString('utf8')
        .trimEnd()
        .split('\n')
        .slice(-TAIL_LINES_MAX),
  }
}

/** Numbers the steps, and reports their start and end. */
export function createProgress(onEvent: OnBuildEvent) {
  let count = 0
  return {
    /** Reports the start, output and end of WORK under TITLE.  Throws what WORK throws. */
    async follow<T extends { readonly isCached: boolean }>(
      title: string,
      work: (onOutput: (bytes: Buffer) => void) => Promise<T>,
    ): Promise<T> {
      const number = ++count
      const startedAt = performance.now()
      onEvent({ kind: 'started', number, title })
      try {
        const result = await work((bytes) => {
          onEvent({ kind: 'output', number, bytes })
        })
        onEvent({ kind: 'done', number, isCached: result.isCached, tookMs: performance.now() - startedAt })
        return result
      } catch (err) {
        onEvent({ kind: 'failed', number })
        throw err
      }
    },
    warn(text: string): void {
      onEvent({ kind: 'warning', text })
    },
  }
}

export type Progress = ReturnType<typeof createProgress>
