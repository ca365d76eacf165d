// A bound on the bytes of request bodies that this gateway holds at once. Each body has a limit, but ten
// thousand callers at that limit would still need too much memory, so past the budget a call is refused
// before its body is read. An announced length counts as announced; a chunked body counts as the largest
// possible one until it has arrived.

import { Overloaded } from '../contract/errors.ts'

const BODIES_MAX_BYTES = 512 * 1024 ** 2

export interface BodyShare {
  /** The body has arrived and has this size. */
  settle(sizeBytes: number): void
  release(): void
}

export interface BodyBudget {
  /** Throws Overloaded if SIZEBYTES more would exceed the budget; a single body always fits. */
  take(sizeBytes: number): BodyShare
}

export function createBodyBudget(maxBytes: number = BODIES_MAX_BYTES): BodyBudget {
  let heldBytes = 0
  return {
    take(sizeBytes) {
      if (heldBytes > 0 && heldBytes + sizeBytes > maxBytes) {
        throw new Overloaded('the gateway holds too many request bodies; try again later', 'ERR_NO_SLOT')
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
