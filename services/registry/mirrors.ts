// Mirrors of a registry: asked first, each once, in the order the operator wrote them; the registry itself is
// asked last and has the last word. Knows which of them failed a moment ago. Refuses to know what is asked. A
// mirror is a registry of its own: its http, CA and credentials are those written about it, never the
// origin's.

import { AppError, RegistryError } from '../contract/errors.ts'
import type { Reference } from './reference.ts'
import type { Mirror, Registries } from './registry-config.ts'

/** A mirror that is down costs a wait; it is left alone for so long. */
const REST_MS = 30_000

export type AskAt<T> = (ref: Reference, once: boolean) => Promise<T>

function mirrored(ref: Reference, { registry, prefix }: Mirror): Reference {
  return {
    ...ref,
    registry,
    repository: prefix === undefined ? ref.repository : `${prefix}/${ref.repository}`,
  }
}

/** ERROR of the registry itself, and why its mirrors were no help. */
function withMirrors(error: unknown, problems: readonly string[]): unknown {
  if (!(error instanceof RegistryError) || problems.length === 0) return error
  const { registryCode, retryable } = error
  return new RegistryError(`${error.message}; before that, of its mirrors: ${problems.join('; ')}`, {
    registryCode,
    retryable,
    cause: error,
  })
}

/** A function that asks for REF at its mirrors and then at its own registry. */
export function createMirrors(
  registries: Registries,
): <T>(ref: Reference, ask: AskAt<T>, signal?: AbortSignal) => Promise<T> {
  /** Until when a mirror rests; as many as the operator wrote down. */
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
