// Manifests and blobs from the store where it has them, from a registry where it has not.  What comes from
// the registry can be kept packed on its way to the unpacker, because save and push need it so.
// Bytes are checked by whoever reads them (layer.ts, pull.ts), wherever they came from.

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
  /** Without one, what the store does not have is an error. */
  readonly registry?: ImageSource
  /** Keep layers packed, too. */
  readonly keepPacked?: boolean
}

/** BODY as it is, with a copy going into STORE; it ends when the copy is kept. */
async function* tee(store: ImageStore, body: Readable, { digest, size }: Descriptor): AsyncGenerator<Buffer> {
  const copy = new PassThrough()
  copy.on('error', () => {
    /* putBlob says it, too */
  })
  const kept = store.putBlob(copy, { digest, size })
  kept.catch(() => {
    /* whoever waits for it below hears of it */
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
    // Only a copy that has ended may become a blob.
    if (!copy.writableEnded) copy.destroy(new Error('the layer was not read to its end'))
    await kept.catch(() => undefined)
  }
}

/** What pull.ts takes for a registry. */
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
