// Shared by all `wherry image` commands: opens the image store of the data folder, and finds the image that a
// name, a digest or the start of a digest refers to.

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

/** Shorter text is more likely a typing error than the start of a digest. */
const PREFIX = /^(?:sha256:)?([0-9a-f]{6,64})$/
const AMBIGUOUS_SHOWN_MAX = 5

/** The data folder that OPTIONS and the environment name. */
export function dataFolder({ data }: StoreOptions, { env }: Context): string {
  return resolve(data ?? (env.WHERRY_DATA || DATA_DEFAULT))
}

/** Runs WORK on the image store for the command WHAT. With CREATE, a missing store is created. */
export async function withStore<T>(
  what: string,
  options: StoreOptions,
  context: Context,
  work: (store: ImageStore) => Promise<T>,
  { create = false } = {},
): Promise<T> {
  if (process.getuid?.() !== 0)
    throw new Failure(what, 'the image store belongs to root', {
      remedy: `run it as root (sudo wherry ${what})`,
    })
  const data = dataFolder(options, context)
  const dir = join(data, 'images')
  if (create) {
    try {
      mkdirSync(data, { recursive: true, mode: 0o711 })
    } catch (err) {
      throw new Failure(what, `the data folder ${data} cannot be created (${(err as Error).message})`, {
        remedy: 'choose another with --data',
        cause: err,
      })
    }
  } else if (!existsSync(dir))
    throw new Failure(what, `there is no image store in ${data}`, {
      remedy: 'choose the data folder with --data, or pull an image first',
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

/** TEXT as a full image name, unless it is a digest: "busybox" → "docker.io/library/busybox:latest". */
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
  throw new Failure(what, `${found.length} images start with "${text}" (${shown})`, {
    remedy: 'give more digits',
  })
}

/**
 * The image that TEXT refers to: a name, repository@digest, a digest, or the start of one. Throws Failure,
 * InvalidRequest.
 */
export function findImage(
  what: string,
  store: ImageStore,
  text: string,
): { readonly image: StoredImage; /** If TEXT is one. */ readonly name?: string } {
  const { catalog } = store
  const last = text.slice(text.lastIndexOf('@') + 1)
  const written = isDigest(last) ? last : undefined
  const name = written === undefined && !text.startsWith('sha256:') ? nameOf(text) : undefined
  const digest = written ?? (name === undefined ? undefined : catalog.find(name))
  const image = digest === undefined ? byPrefix(what, catalog.images(), text) : catalog.image(digest)
  if (!image)
    throw new Failure(what, `there is no image "${text}" on this machine`, {
      remedy: 'wherry image ls lists all; wherry image pull fetches one',
    })
  return digest !== undefined && name !== undefined ? { image, name } : { image }
}
