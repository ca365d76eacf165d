// Pushes an index of existing images: one name for several platforms (image-spec, image-index.md). The config
// of each image says which platform it is for.

import { defined } from '../contract/defined.ts'
import { ContentError } from '../contract/errors.ts'
import type { Descriptor } from '../contract/image.ts'
import { copyImage, type CopyRequest, type CopyResult } from './copy.ts'
import { OCI_INDEX, parseImageConfig } from '../registry/manifest.ts'
import { platformText } from '../registry/platform.ts'
import { pushManifest } from '../registry/push-manifest.ts'

export interface IndexRequest extends Omit<CopyRequest, 'source' | 'digest'> {
  /** Images, or indexes whose entries are included. */
  readonly parts: ReadonlyArray<Pick<CopyRequest, 'source' | 'digest'>>
}

export interface IndexResult {
  readonly digest: string
  readonly entries: readonly Descriptor[]
}

async function entriesOf(
  { source }: Pick<CopyRequest, 'source'>,
  { digest, bytes, document }: CopyResult,
): Promise<readonly Descriptor[]> {
  if ('manifests' in document) return document.manifests
  const config = await source.read(document.config)
  if (!config)
    throw new ContentError(
      `config ${document.config.digest} is not in the store; pull the image again`,
      'ERR_INVALID_CONTENT',
    )
  const { os, architecture, variant } = parseImageConfig(config)
  return [
    {
      mediaType: document.mediaType,
      digest,
      size: bytes.length,
      platform: { os, architecture, ...defined({ variant }) },
    },
  ]
}

/** Refuses two images for one platform: a pull would always take the first. */
function checkPlatforms(entries: readonly Descriptor[]): void {
  const seen = new Map<string, string>()
  for (const entry of entries.filter(({ platform }) => platform !== undefined && platform.os !== 'unknown')) {
    const platform = platformText(entry)
    const other = seen.get(platform)
    if (other !== undefined && other !== entry.digest)
      throw new ContentError(
        `there are two images for ${platform}: ${other} and ${entry.digest}`,
        'ERR_INVALID_CONTENT',
      )
    seen.set(platform, entry.digest)
  }
}

/**
 * Push all PARTS into the repository of `to`, and an index of them under its tag.
 * Throws RegistryError, ContentError, the signal's reason.
 */
export async function pushIndex({ parts, ...request }: IndexRequest): Promise<IndexResult> {
  const { registry, repository } = request.to
  const entries: Descriptor[] = []
  for (const part of parts) {
    const copied = await copyImage({ ...request, ...part, to: { registry, repository } })
    entries.push(...(await entriesOf(part, copied)))
  }
  const distinct = [...new Map(entries.map((entry) => [entry.digest, entry])).values()]
  checkPlatforms(distinct)
  const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: distinct }))
  return { digest: await pushManifest(request.registry, request.to, OCI_INDEX, index), entries: distinct }
}
