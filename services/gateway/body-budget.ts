// How many bytes of request bodies this gateway holds at once, over all callers.  Each body has its own
// limit, but ten thousand callers at that limit would still be too much memory; past the budget a call is
// refused before its body is read.  An announced length counts as announced; a chunked body counts as the
// largest possible one until it is here.

import { Overloaded } from '../contract/errors.ts'

const BODIES_MAX_BYTES = 512 * 1024 ** 2

export interface BodyShare {
  /** The body is here and this long. */
  settle(sizeBytes: number): void
  release(): void
}

export interface BodyBudget {
  /** Throws Overloaded when SIZEBYTES more would be over the budget; one body always fits. */
  take(sizeBytes: number): BodyShare
}

export function createBodyBudget(maxBytes: number = BODIES_MAX_BYTES): BodyBudget {
  let heldBytes = 0
  return {
    take(sizeBytes) {
      if (heldBytes > 0 && heldBytes + sizeBytes > maxBytes) {
        throw new Overloaded(
          'the gateway holds as many request bodies as it may; try again later',
          'ERR_NO_SLOT',
        )
      }
      let share = sizeBytes
      heldBytes += share
      return {
        settle(actualBytes) {
          heldBytes += actualBytes - share
          share = actualBytes
        },
        release() {
          heldBytes -= share
          share = 0
        },
      }
    },
  }
}
