// The details of an image for display: creation time, platform, history. They come from the config in the
// store (image-spec, config.md), which is untrusted: strings are bounded here and made printable by the
// caller.

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
  /** RFC 3339, if the image has it. */
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

/** VALUE as an RFC 3339 time, if it is a time. */
function timeOf(value: unknown): { createdAt?: string } {
  const time = Date.parse(textOf(value))
  return Number.isNaN(time) ? {} : { createdAt: new Date(time).toISOString() }
}

/** The details in the config BYTES.  Throws ContentError when they are not an image config. */
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

/** The details of IMAGE in STORE.  Throws ContentError when its config is missing or invalid. */
export async function readDetails(store: ImageStore, image: StoredImage): Promise<ImageDetails> {
  const bytes = await store.readBlob(image.configDigest)
  if (!bytes)
    throw new ContentError(
      `the config ${image.configDigest} of image ${image.digest} is missing or damaged; pull the image again`,
      'ERR_INVALID_CONTENT',
    )
  return parseDetails(bytes)
}
