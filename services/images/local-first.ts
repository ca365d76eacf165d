// Manifests and blobs from the store if it has them, else from a registry.  Layers from the registry can be
// stored packed on their way to the unpacker, because save and push need them packed.
// The readers of the bytes (layer.ts, documents.ts) check them, wherever they come from.

import { createReadStream } from 'node:fs'
import { PassThrough, Readable } from 'node:stream'
import { NotFound } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import type { RegistryClient } from '../registry/registry.ts'
import { formatReference, type Reference } from '../registry/reference.ts'
import type { ImageStore } from './store.ts'

export type ImageSource = Pick<RegistryClient, 'manifest' | 'blob'>

export interface LocalFirstDeps {
  readonly store: ImageStore
  /** Without one, anything that the store lacks is an error. */
  readonly registry?: ImageSource
  /** Store the packed layers, too. */
  readonly keepPacked?: boolean
}

/** BODY unchanged, while a copy goes into STORE; it ends when the copy is stored. */
async function* tee(store: ImageStore, body: Readable, { digest, size }: Descriptor): AsyncGenerator<Buffer> {
  const copy = new PassThrough()
  copy.on('error', () => {
    /* putBlob throws it, too */
  })
  const kept = store.putBlob(copy, { digest, size })
  kept.catch(() => {
    /* awaited below */
  })
  try {
    for await (const piece of body as AsyncIterable<Buffer>) {
      if (copy.destroyed || !copy.write(piece))
        await Promise.race([
          new Promise((resolve) => {
            copy.once('drain', resolve)
          }),
          kept,
        ])
      yield piece
    }
    copy.end()
    await kept
  } finally {
    // An incomplete copy must not become a blob.
    if (!copy.writableEnded) copy.destroy(new Error('the layer was not read to its end'))
    await kept.catch(() => undefined)
  }
}

/** A source for the puller: the store first, then the registry. */
export function createLocalFirst({ store, registry, keepPacked = false }: LocalFirstDeps): ImageSource {
  function remote(ref: Reference, digest: string): ImageSource {
    if (registry) return registry
    throw new NotFound(
      `${formatReference(ref)} cannot be completed: ${digest} is neither in the archive nor in the image store`,
      'ERR_NOT_FOUND',
    )
  }

  return {
    manifest: async (ref, digest, signal) => await remote(ref, digest).manifest(ref, digest, signal),

    async blob(ref, descriptor, signal) {
      if (await store.hasBlob(descriptor.digest, descriptor.size))
        return createReadStream(store.blobPath(descriptor.digest))
      const body = await remote(ref, descriptor.digest).blob(ref, descriptor, signal)
      return keepPacked ? Readable.from(tee(store, body, descriptor), { objectMode: false }) : body
    },
  }
}
