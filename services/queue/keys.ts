// The names of our own keys in Redis, and how long what is under them lives.  "@" is not allowed in
// function names, so none of these can meet a key of BullMQ (`<prefix>:<function>:<suffix>`).
// The hash tag in the default prefix keeps all of them in one slot of a cluster.

/** A call that is waiting or running, and its stored body: as long as a queue may lag behind. */
export const WAITING_TTL_MS = 7 * 24 * 3_600_000
/** A finished call's record and its stored result. */
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
  /** BullMQ's own key of a function's queue: "wait", "active", a job's id … */
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
