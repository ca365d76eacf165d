// A manifest or index into a repository (distribution-spec 1.1, "Pushing Manifests").

import { digestOf } from '../contract/digest.ts'
import { RegistryError } from '../contract/errors.ts'
import type { Reference } from './reference.ts'
import { registryError } from './registry-error.ts'
import type { RegistryClient } from './registry.ts'
import { discardBody } from './transport.ts'

/** Upload a manifest or index under the reference's tag, or its digest.  Returns its digest. */
export async function pushManifest(
  registry: RegistryClient,
  ref: Reference,
  mediaType: string,
  bytes: Uint8Array,
): Promise<string> {
  const digest = digestOf(bytes)
  const answer = await registry.call(ref, {
    method: 'PUT',
    target: `/v2/${ref.repository}/manifests/${ref.tag ?? digest}`,
    body: () => bytes,
    actions: 'pull,push',
    headers: { 'content-type': mediaType, 'content-length': String(bytes.length) },
  })
  if (answer.status !== 201) throw await registryError(ref, answer)
  await discardBody(answer)
  const taken = answer.header('docker-content-digest') ?? digest
  if (taken === digest) return digest
  throw new RegistryError(
    `registry ${ref.registry} stored the manifest ${digest} as ${taken.slice(0, 100)}`,
    { registryCode: 'DIGEST_INVALID', retryable: false },
  )
}
