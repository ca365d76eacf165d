// What is known of a call: the answer of GET /system/calls/:id, the reply a waiting gateway gets,
// and the source of every metric.  Times are milliseconds; instants are Unix milliseconds.

import type { Outcome } from './outcome.ts'

/** Where the time of an attempt went, in milliseconds (fractions allowed). */
export interface Phases {
  /** Accepted → taken by a worker. */
  readonly queue: number
  /** Getting the image; 0 when it was there. */
  readonly pull: number
  /** Cgroup, plan, clone, until the function's own program runs. */
  readonly create: number
  /** Container running → ready for the body; 0 for `stdio`. */
  readonly init: number
  /** The function's own time. */
  readonly run: number
  /** Exit → result handed to the queue. */
  readonly settle: number
}

export const PHASES = ['queue', 'pull', 'create', 'init', 'run', 'settle'] as const satisfies ReadonlyArray<
  keyof Phases
>

/**
 * Read from the container's cgroup after its end. What is optional is missing where the kernel does not count
 * it.
 */
export interface Usage {
  readonly cpuMs: number
  /**
   * Periods of the CPU limit in which it ran, those in which it was stopped for the rest, and how long it
   * stood still.
   */
  readonly cpuPeriods: number
  readonly cpuThrottledPeriods: number
  readonly cpuThrottledMs: number
  /** The kernel charges up to 256 KiB per CPU ahead. */
  readonly memoryPeakBytes: number
  readonly oomKills: number
  /** Most processes and threads at once. */
  readonly pidsPeak?: number
  /** Read from and written to block devices; what was in memory already is not read. */
  readonly ioReadBytes?: number
  readonly ioWriteBytes?: number
}

export interface CallResult {
  readonly contentType: string
  /** Text, or base64 where `encoding` says so. */
  readonly body: string
  readonly encoding: 'utf8' | 'base64'
}

export interface CallRecord {
  readonly callId: string
  readonly function: string
  readonly state: 'queued' | 'active' | 'finished'
  readonly attempt: number
  readonly enqueuedAtMs: number
  readonly startedAtMs?: number
  readonly finishedAtMs?: number
  /** These are there once `state` is "finished" (or an attempt failed and another will come). */
  readonly outcome?: Outcome
  /** HTTP status that the call has in our own dialect. */
  readonly status?: number
  /** One sentence for people when the outcome is not `ok`. */
  readonly message?: string
  readonly exitCode?: number
  /** "SIGKILL" … */
  readonly signal?: string
  readonly imageDigest?: string
  readonly worker?: string
  readonly start?: 'cold' | 'warm'
  readonly phases?: Phases
  readonly usage?: Usage
  readonly result?: CallResult
  /** The end of the function's stderr, bounded. */
  readonly log?: string
  readonly logTruncated?: boolean
}

/** How an attempt ended; only `outcome` is there when it never had a container. */
export interface Completion {
  readonly outcome: Outcome
  /** One sentence for people; without it the outcome's own. */
  readonly message?: string
  /** Another attempt cannot end differently, whatever the outcome's rule says. */
  readonly final?: boolean
  readonly exitCode?: number
  readonly signal?: string
  readonly imageDigest?: string
  readonly start?: 'cold' | 'warm'
  readonly phases?: Omit<Phases, 'queue' | 'settle'>
  readonly usage?: Usage
  readonly contentType?: string
  readonly body?: Uint8Array
  readonly log?: string
  readonly logTruncated?: boolean
  /** When the function's program ended (performance.now() milliseconds); `settle` counts from here. */
  readonly endedAt?: number
}

/** The message on a gateway's reply channel: what the caller of a finished call gets, and no more. */
export interface CallReply {
  readonly callId: string
  readonly outcome: Outcome
  readonly status?: number
  readonly message?: string
  readonly exitCode?: number
  readonly signal?: string
  readonly phases?: Phases
  readonly result?: CallResult
  /** The result's bytes are in a key of their own. */
  readonly resultStored?: true
  /** The end of stderr, when the outcome is not `ok`. */
  readonly log?: string
}
