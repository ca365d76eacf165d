// How a function is served inside its container.  A contract starts instances; an instance serves calls.  How
// many instances live, and which call goes to which, is not theirs to decide.

import type { Completion } from '../../contract/call-record.ts'
import type { FunctionSpec } from '../../contract/function-spec.ts'
import type { Image } from '../../contract/image.ts'
import type { Invocation } from '../../contract/invocation.ts'
import type { RuntimeSpec } from '../../contract/runtime-spec.ts'

/** What an instance is made of: the function, its image, and the container's spec without any request. */
export interface InstanceSpec {
  readonly function: FunctionSpec
  readonly image: Image
  readonly container: RuntimeSpec
}

export interface Contract {
  /** Throws what Runtime.start throws. */
  start(spec: InstanceSpec): Promise<Instance>
}

export interface Instance {
  /**
   * Serve INVOCATION; aborting SIGNAL ends it.  ONSTARTED gets the host's pid of the process that serves it.
   * Throws what Runtime.start throws; once a program runs, everything is a completion.
   */
  call(invocation: Invocation, signal: AbortSignal, onStarted: (pid: number) => void): Promise<Completion>
  /** May be called twice, and before any call. */
  stop(): Promise<void>
}
