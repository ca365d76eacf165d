// The calls that this worker is running, for its heartbeat.

import type { Invocation } from '../contract/invocation.ts'
import type { RunningCall } from '../queue/heartbeat.ts'

export interface RunningCalls {
  entered(invocation: Invocation): void
  /** PID is the first process of the call's container. */
  started(callId: string, pid: number): void
  left(callId: string): void
  list(): readonly RunningCall[]
}

export function createRunningCalls(): RunningCalls {
  const calls = new Map<string, RunningCall>()
  return {
    entered({ callId, function: name }) {
      calls.set(callId, { callId, function: name, pid: 0, startedAtMs: Date.now() })
    },
    started(callId, pid) {
      const call = calls.get(callId)
      if (call) calls.set(callId, { ...call, pid })
    },
    left(callId) {
      calls.delete(callId)
    },
    list: () => [...calls.values()].filter((call) => call.pid > 0),
  }
}
