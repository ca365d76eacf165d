// Errors of containers. Callers distinguish them by `kind`; `message` is a plain sentence. The words that
// engines search for in runc's messages are added by oci/failure.ts.

import type { Status } from './status.ts'

export type ContainerErrorKind =
  /** No container has this id. */
  | 'not-found'
  /** A container with this id exists. */
  | 'exists'
  /** The operation is not allowed in the container's status (runtime.md, Operations). */
  | 'wrong-status'
  /** state.json cannot be read as a record. */
  | 'damaged'
  /** A hook failed. */
  | 'hook'
  /** The host lacks what the request needs. */
  | 'host'
  /** A process of the container did not exit after SIGKILL. */
  | 'stuck'

/** An operation on a container failed in an expected way. */
export class ContainerError extends Error {
  readonly kind: ContainerErrorKind

  constructor(kind: ContainerErrorKind, message: string) {
    super(message)
    this.name = new.target.name
    this.kind = kind
  }
}

export const notFound = (id: string): ContainerError =>
  new ContainerError('not-found', `container "${id}" does not exist`)

/** The record of a container was changed by another program or lost by the disk. */
export class DamagedRecord extends ContainerError {
  constructor(id: string, why: string) {
    super(
      'damaged',
      `the record of container "${id}" is damaged (${why}); delete --force removes the container`,
    )
  }
}

/** What a caller wanted to do, for messages. */
export type Operation = 'start' | 'exec' | 'kill' | 'delete' | 'pause' | 'resume' | 'update' | 'events'

/** The container ID has STATUS, in which OPERATION is not allowed. */
export class WrongStatus extends ContainerError {
  readonly operation: Operation
  readonly id: string
  readonly status: Status

  constructor(operation: Operation, id: string, status: Status, allowed: readonly Status[]) {
    super(
      'wrong-status',
      `cannot ${operation} container "${id}": it is ${status}, not ${allowed.join(' or ')}`,
    )
    this.operation = operation
    this.id = id
    this.status = status
  }
}

/** Throws WrongStatus unless the container of STATE has one of the statuses ALLOWED. */
export function requireStatus(
  { id, status }: { readonly id: string; readonly status: Status },
  operation: Operation,
  allowed: readonly Status[],
): void {
  if (!allowed.includes(status)) throw new WrongStatus(operation, id, status, allowed)
}
