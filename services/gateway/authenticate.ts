// Who may send a request: asked once per request, before its body is read and before its route runs.

import type { FastifyRequest } from 'fastify'

/** Resolves when REQUEST may go on; throws an AppError with status 401 or 403 otherwise. */
export type Authenticate = (request: FastifyRequest) => Promise<void>

/** There are no credentials yet: the gateway listens on loopback by default and warns elsewhere. */
export const allowAll: Authenticate = async () => {}
