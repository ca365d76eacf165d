// A dialect is one way in which HTTP clients call functions. It decides which requests are calls, and of
// which function; what the function sees of a request; and what a result or an error looks like. Everything
// else about a call (readiness, lookup, budgets, queue, metrics) is the same in all dialects and is in
// call-routes.ts. A dialect is pure: its functions map values to values.

import type { InvocationRequest } from '../contract/invocation.ts'
import type { FinishedCall } from '../queue/producer.ts'
import type { HttpCall } from './call-request.ts'
import type { Failure } from './failure.ts'

export interface Dialect {
  readonly routes: readonly CallRoute[]
  /** What the head of a request asks for.  Called before the body is read. */
  target(head: RequestHead): Target
  /** What the function sees.  Throws InvalidRequest. */
  toRequest(call: HttpCall): InvocationRequest
  /** The reply to CALL once it has ENDED, or, if its caller does not wait, once it is queued. */
  reply(call: CallFacts, ended?: FinishedCall): HttpReply
  /** The reply to a request that failed; CALL is undefined if it failed before its call had an id. */
  error(failure: Failure, call?: CallFacts): HttpReply
}

export interface CallRoute {
  readonly methods: 'any' | readonly string[]
  /** Pattern of fastify's router with the parameter `name`, the function. */
  readonly url: string
}

export interface RequestHead {
  /** The pattern of the route. */
  readonly route: string
  readonly name: string
  readonly headers: HttpCall['headers']
}

export interface Target {
  readonly function: string
  readonly callId: string
  /** Whether the caller waits for the result. */
  readonly waits: boolean
}

export interface CallFacts {
  readonly callId: string
  readonly startedAtMs: number
  /** From the first byte of the request until now. */
  readonly totalMs: number
}

export interface HttpReply {
  readonly statusCode: number
  readonly headers: Readonly<Record<string, string>>
  readonly body?: Uint8Array | string
}
