// How calls look over HTTP.  Everything that a dialect decides is here: which function a request calls, what of
// it the function sees, and how the end of a call or an error is told.  Routes and the server are the same for all.

import type { InvocationRequest } from '../contract/invocation.ts'
import type { FinishedCall } from '../queue/producer.ts'
import { callReply, type HttpReply } from './call-reply.ts'
import { toInvocationRequest, type HttpCall } from './call-request.ts'
import { errorReply, type ErrorReply } from './error-reply.ts'

export interface Dialect {
  /** The name of the function that a request with these route parameters calls. */
  target(params: Readonly<Record<string, string>>): string
  /** What the function sees of a request.  Throws InvalidRequest. */
  toRequest(call: HttpCall): InvocationRequest
  /** The reply to a call that took TOTALMS as the caller sees it. */
  reply(call: FinishedCall, totalMs: number): HttpReply
  /** The reply to a request that ended in ERR; BODYMAXBYTES is the limit of its route. */
  error(err: unknown, bodyMaxBytes: number): ErrorReply
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Of routes that serve calls; all others speak our own. */
    dialect?: Dialect
  }
}

/** Our own dialect: docs/http-api.md. */
export const wherryDialect: Dialect = {
  target: ({ name = '' }) => name,
  toRequest: toInvocationRequest,
  reply: callReply,
  error: errorReply,
}
