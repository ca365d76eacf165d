// Mirrors of a registry are tried first, each once, in the operator's order; the registry itself comes last
// and decides. A mirror that failed rests for a while. A mirror is a registry like any other: it uses its own
// http, CA and credentials, never those of the origin.

import { AppError, RegistryError } from '../contract/errors.ts'
import type { Reference } from './reference.ts'
import type { Mirror, Registries } from './registry-config.ts'

/** A mirror that is down costs a wait, so it is skipped for this long. */
const REST_MS = 30_000

export type AskAt<T> = (ref: Reference, once: boolean) => Promise<T>

function mirrored(ref: Reference, { registry, prefix }: Mirror): Reference {
  return {
    ...ref,
    registry,
    repository: prefix === undefined ? ref.repository : `${prefix}/${ref.repository}`,
  }
}

/** ERROR of the registry itself, with the PROBLEMS of its mirrors. */
function withMirrors(error: unknown, problems: readonly string[]): unknown {
  if (!(error instanceof RegistryError) || problems.length === 0) return error
  const { registryCode, retryable } = error
  return new RegistryError(`${error.message}; its mirrors failed before: ${problems.join('; ')}`, {
    registryCode,
    retryable,
    cause: error,
  })
}

/** A function that runs ASK at the mirrors of REF and then at its own registry. */
export function createMirrors(
  registries: Registries,
): <T>(ref: Reference, ask: AskAt<T>, signal?: AbortSignal) => Promise<T> {
  /** When the rest of a mirror ends; bounded by the operator's file. */
  const resting = new Map<string, number>()
  return async (ref, ask, signal) => {
    const problems: string[] = []
    for (const mirror of registries.of(ref.registry).mirrors) {
      if ((resting.get(mirror.registry) ?? 0) > performance.now()) continue
      try {
        return await ask(mirrored(ref, mirror), true)
      } catch (error) {
        if (signal?.aborted === true || !(error instanceof AppError)) throw error
        if (error.retryable) resting.set(mirror.registry, performance.now() + REST_MS)
        problems.push(error.message)
      }
    }
    try {
      return await ask(ref, false)
    } catch (error) {
      throw withMirrors(error, problems)
    }
  }
}
