// What an image says about itself, for people: when it was made, for what machine, by which steps.  Read
// from the config in the store (image-spec, config.md).  Every text in it is a stranger's: bounded here,
// made printable by whoever shows it.  Refuses to know what any of it means for a container.

import { isPlainObject } from '../contract/plain-object.ts'
import { ContentError } from '../contract/errors.ts'
import type { ImageConfig } from '../contract/image.ts'
import type { StoredImage } from './catalog.ts'
import { parseImageConfig } from '../registry/manifest.ts'
import type { ImageStore } from './store.ts'

export interface HistoryStep {
  readonly createdAt?: string
  readonly createdBy: string
  readonly comment: string
  /** The step made no layer. */
  readonly isEmpty: boolean
}

export interface ImageDetails {
  /** RFC 3339, when the image says so. */
  readonly createdAt?: string
  readonly config: ImageConfig
  readonly labels: Readonly<Record<string, string>>
  readonly exposedPorts: readonly string[]
  readonly volumes: readonly string[]
  readonly history: readonly HistoryStep[]
}

const HISTORY_MAX = 1000
const FIELDS_MAX = 1000
const TEXT_CHARACTERS_MAX = 16_384

type Fields = Readonly<Record<string, unknown>>

function fieldsOf(value: unknown): Fields {
  return isPlainObject(value) ? value : {}
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, TEXT_CHARACTERS_MAX) : ''
}

/** TEXT when it is a time, in one form. */
function timeOf(value: unknown): { createdAt?: string } {
  const time = Date.parse(textOf(value))
  return Number.isNaN(time) ? {} : { createdAt: new Date(time).toISOString() }
}

/** The details of a config's BYTES.  Throws ContentError when they are no image config. */
function parseDetails(bytes: Uint8Array): ImageDetails {
  const config = parseImageConfig(bytes)
  const fields = fieldsOf(JSON.parse(Buffer.from(bytes).toString('utf8')))
  const own = fieldsOf(fields['config'])
  const history: unknown[] = Array.isArray(fields['history']) ? fields['history'] : []
  const labels = Object.entries(fieldsOf(own['Labels'])).slice(0, FIELDS_MAX)
  return {
    ...timeOf(fields['created']),
    config,
    labels: Object.fromEntries(
      labels.map(([name, value]) => [name.slice(0, TEXT_CHARACTERS_MAX), textOf(value)]),
    ),
    exposedPorts: Object.keys(fieldsOf(own['ExposedPorts'])).slice(0, FIELDS_MAX),
    volumes: Object.keys(fieldsOf(own['Volumes'])).slice(0, FIELDS_MAX),
    history: history
      .slice(0, HISTORY_MAX)
      .map(fieldsOf)
      .map((step) => ({
        ...timeOf(step['created']),
        createdBy: textOf(step['created_by']),
        comment: textOf(step['comment']),
        isEmpty: step['empty_layer'] === true,
      })),
  }
}

/** The details of an IMAGE in STORE.  Throws ContentError when its config is not there or is none. */
export async function readDetails(store: ImageStore, image: StoredImage): Promise<ImageDetails> {
  const bytes = await store.readBlob(image.configDigest)
  if (!bytes)
    throw new ContentError(
      `the config ${image.configDigest} of image ${image.digest} is missing or damaged; pull it again`,
      'ERR_INVALID_CONTENT',
    )
  return parseDetails(bytes)
}
