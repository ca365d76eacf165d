// What every `wherry image` command begins with: the data folder's image store, and the image that a person
// means by a name, a digest or the beginning of one. Knows options and wording; what is in a store is image's
// to know.

import { existsSync, mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { digestOfHex, HEX, isDigest } from '../../contract/digest.ts'
import type { StoredImage } from '../../images/catalog.ts'
import { formatReference, parseReference } from '../../registry/reference.ts'
import { createImageStore, type ImageStore } from '../../images/store.ts'
import { DATA_DEFAULT } from '../connect.ts'
import type { Context } from '../context.ts'
import { Failure } from '../failure.ts'
import { shortDigest } from '../terminal.ts'

export interface StoreOptions {
  readonly data?: string
  readonly json?: boolean
}

/** Shorter beginnings of digests are more likely a typing error. */
const PREFIX = /^(?:sha256:)?([0-9a-f]{6,64})$/
const AMBIGUOUS_SHOWN_MAX = 5

/** The data folder that OPTIONS and the environment name. */
export function dataFolder({ data }: StoreOptions, { env }: Context): string {
  return resolve(data ?? (env.WHERRY_DATA || DATA_DEFAULT))
}

/** Run WORK for the command WHAT on the image store; with CREATE, one that is not there yet is made. */
export async function withStore<T>(
  what: string,
  options: StoreOptions,
  context: Context,
  work: (store: ImageStore) => Promise<T>,
  { create = false } = {},
): Promise<T> {
  if (process.getuid?.() !== 0)
    throw new Failure(what, 'the image store belongs to root', {
      remedy: `run it as root (sudo npx wherry ${what})`,
    })
  const data = dataFolder(options, context)
  const dir = join(data, 'images')
  if (create) {
    try {
      mkdirSync(data, { recursive: true, mode: 0o711 })
    } catch (err) {
      throw new Failure(what, `the data folder ${data} cannot be made (${(err as Error).message})`, {
        remedy: 'choose another with --data',
        cause: err,
      })
    }
  } else if (!existsSync(dir))
    throw new Failure(what, `there is no image store in ${data}`, {
      remedy: 'say which data folder with --data, or pull an image first',
    })
  const store = createImageStore({
    dir,
    onNote: (text) => {
      context.stderr.write(`wherry: ${what}: ${text}\n`)
    },
  })
  try {
    return await work(store)
  } finally {
    store.close()
  }
}

/** TEXT as the name of an image here, if it can be one: "busybox" → "docker.io/library/busybox:latest". */
export function nameOf(text: string): string | undefined {
  if (HEX.test(text)) return undefined
  const ref = parseReference(text)
  return ref.digest === undefined ? formatReference(ref) : undefined
}

function byPrefix(what: string, images: readonly StoredImage[], text: string): StoredImage | undefined {
  const prefix = PREFIX.exec(text)?.[1]
  if (prefix === undefined) return undefined
  const found = images.filter((image) =>
    [image.digest, image.manifestDigest, image.configDigest].some((digest) =>
      digest.startsWith(digestOfHex(prefix)),
    ),
  )
  if (found.length <= 1) return found[0]
  const shown = found
    .slice(0, AMBIGUOUS_SHOWN_MAX)
    .map((image) => shortDigest(image.digest))
    .join(', ')
  throw new Failure(what, `${found.length} images begin with "${text}" (${shown})`, {
    remedy: 'write more of the digest',
  })
}

/**
 * The image that TEXT means: a name, repository@digest, a digest, or the beginning of one. Throws Failure,
 * InvalidRequest.
 */
export function findImage(
  what: string,
  store: ImageStore,
  text: string,
): { readonly image: StoredImage; /** When TEXT is one. */ readonly name?: string } {
  const { catalog } = store
  const last = text.slice(text.lastIndexOf('@') + 1)
  const written = isDigest(last) ? last : undefined
  const name = written === undefined && !text.startsWith('sha256:') ? nameOf(text) : undefined
  const digest = written ?? (name === undefined ? undefined : catalog.find(name))
  const image = digest === undefined ? byPrefix(what, catalog.images(), text) : catalog.image(digest)
  if (!image)
    throw new Failure(what, `there is no image "${text}" here`, {
      remedy: 'wherry image ls shows all; wherry image pull gets one',
    })
  return digest !== undefined && name !== undefined ? { image, name } : { image }
}
