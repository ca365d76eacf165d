// The names and lifetimes of our own keys in Redis. Function names cannot contain "@", so no key here
// collides with one of BullMQ (`<prefix>:<function>:<suffix>`). The hash tag in the default prefix keeps all
// keys in one slot of a cluster.

/**
 * The record of a waiting or running call, and its stored body: the longest backlog that a queue may have.
 */
export const WAITING_TTL_MS = 7 * 24 * 3_600_000
/** The record of a finished call, and its stored result. */
export const FINISHED_TTL_MS = 3_600_000

export interface Keys {
  readonly call: (callId: string) => string
  readonly body: (callId: string) => string
  readonly result: (callId: string) => string
  readonly reply: (gatewayId: string) => string
  readonly logs: (name: string) => string
  readonly worker: (workerName: string) => string
  readonly workers: string
  readonly counts: string
  /** A key of BullMQ for a function's queue: "wait", "active", a job id … */
  readonly queue: (name: string, suffix: string) => string
}

export function keysOf(prefix: string): Keys {
  return {
    call: (callId) => `${prefix}:@call:${callId}`,
    body: (callId) => `${prefix}:@body:${callId}`,
    result: (callId) => `${prefix}:@result:${callId}`,
    reply: (gatewayId) => `${prefix}:@reply:${gatewayId}`,
    logs: (name) => `${prefix}:@logs:${name}`,
    worker: (workerName) => `${prefix}:@worker:${workerName}`,
    workers: `${prefix}:@workers`,
    counts: `${prefix}:@counts`,
    queue: (name, suffix) => `${prefix}:${name}:${suffix}`,
  }
}
