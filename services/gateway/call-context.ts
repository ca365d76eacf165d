// What the gateway remembers of a request that is a call, from its head to its reply.

import type { FastifyReply } from 'fastify'
import type { FunctionRecord } from '../contract/function-spec.ts'
import type { Outcome } from '../contract/outcome.ts'
import type { BodyShare } from './body-budget.ts'
import type { CallFacts, Dialect, HttpReply, Target } from './dialect.ts'

export interface CallContext {
  readonly target: Target
  readonly startedAtMs: number
  /** performance.now() */
  readonly startedAt: number
  /** Set once the function is known and there is room for the body. */
  accepted?: { readonly function: FunctionRecord; readonly bodyShare: BodyShare }
  /** How the call ended, set with the reply. */
  outcome?: Outcome
}

declare module 'fastify' {
  interface FastifyRequest {
    call: CallContext | null
  }
  interface FastifyContextConfig {
    /** The dialect of a route that calls functions. */
    dialect?: Dialect
  }
}

export function factsOf({ target, startedAtMs, startedAt }: CallContext): CallFacts {
  return { callId: target.callId, startedAtMs, totalMs: performance.now() - startedAt }
}

export function send(reply: FastifyReply, { statusCode, headers, body }: HttpReply): FastifyReply {
  return reply
    .code(statusCode)
    .headers(headers)
    .send(body instanceof Uint8Array ? Buffer.from(body.buffer, body.byteOffset, body.byteLength) : body)
}
