// The one place where a request's credentials are checked: before its body is read and before a route sees
// it. There are no credentials yet, so everyone who can connect is allowed everything.

import type { FastifyRequest } from 'fastify'

/** Throws an AppError if REQUEST must go no further. */
export type Authenticate = (request: FastifyRequest) => Promise<void>

export const allowEveryone: Authenticate = async () => undefined
