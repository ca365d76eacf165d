// What is known about a call: the reply of GET /system/calls/:id, what a waiting gateway receives, and the
// source of every metric. Durations are milliseconds, instants Unix milliseconds.

import type { Outcome } from './outcome.ts'

/** Where the time of an attempt went, in milliseconds (fractions allowed). */
export interface Phases {
  /** Accepted → taken by a worker. */
  readonly queue: number
  /** Pulling the image; 0 if it was present. */
  readonly pull: number
  /** Cgroup, plan and clone, until the function's program runs. */
  readonly create: number
  /** Container running → ready for the body; 0 for `stdio`. */
  readonly init: number
  /** The function's own time. */
  readonly run: number
  /** Exit → result passed to the queue. */
  readonly settle: number
}

export const PHASES = ['queue', 'pull', 'create', 'init', 'run', 'settle'] as const satisfies ReadonlyArray<
  keyof Phases
>

/**
 * Read from the container's cgroup after its end. Optional fields are missing where the kernel does not count
 * them.
 */
export interface Usage {
  readonly cpuMs: number
  /** Periods of the CPU limit in which it ran, those in which it was throttled, and for how long. */
  readonly cpuPeriods: number
  readonly cpuThrottledPeriods: number
  readonly cpuThrottledMs: number
  /** The kernel charges up to 256 KiB per CPU in advance. */
  readonly memoryPeakBytes: number
  readonly oomKills: number
  /** Highest number of processes and threads at once. */
  readonly pidsPeak?: number
  /** Bytes read from and written to block devices; the page cache does not count. */
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
  /** From here on: set once `state` is "finished", or an attempt failed and another follows. */
  readonly outcome?: Outcome
  /** HTTP status that the call has in our own dialect. */
  readonly status?: number
  /** One sentence for people if the outcome is not `ok`. */
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

/** How an attempt ended; without a container only `outcome` is set. */
export interface Completion {
  readonly outcome: Outcome
  /** One sentence for people; defaults to the outcome's. */
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
  /** performance.now() when the function's program ended; `settle` counts from here. */
  readonly endedAt?: number
}

/** The message on a gateway's reply channel: only what the caller of a finished call gets. */
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
