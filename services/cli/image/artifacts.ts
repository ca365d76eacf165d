// SBOMs, provenance and signatures that registries have for images, for `wherry image inspect`. None of it is
// verified, so nothing may be decided by it. Registries that are slow are skipped.

import { AppError, RegistryError } from '../../contract/errors.ts'
import type { StoredImage } from '../../images/catalog.ts'
import { openRegistryClient } from '../../registry/open-registry.ts'
import { parseReference } from '../../registry/reference.ts'
import { listArtifacts } from '../../registry/referrers.ts'
import type { Context } from '../context.ts'
import { registryAccess, type AccessOptions } from '../registry-access.ts'
import { printable, shortDigest } from '../terminal.ts'

interface FoundArtifact {
  readonly artifactType: string
  readonly digest: string
  readonly sizeBytes: number
}

/** Limit for all images of a command together. */
const WAIT_MAX_MS = 5000
/** Limit of repositories queried for one image. */
const PLACES_MAX = 4

/**
 * The repositories that may have IMAGE: its source and those of its names. A name on Docker Hub is usually
 * only a local name, and the source of an image built here is that of its base, so these two count only if
 * they agree.
 */
function placesOf({ names, source }: Pick<StoredImage, 'names' | 'source'>): readonly string[] {
  if (names.length === 0) return source === undefined ? [] : [source]
  const named = names
    .map(parseReference)
    .map(({ registry, repository }) => ({ registry, place: `${registry}/${repository}` }))
  return [
    ...new Set(
      named
        .filter(({ registry, place }) => place === source || registry !== 'docker.io')
        .map(({ place }) => place),
    ),
  ].slice(0, PLACES_MAX)
}

/**
 * The artifacts of IMAGES by the image's digest. Images without a known registry are omitted. So are those
 * whose registry does not answer within WAIT_MAX_MS, with a line on stderr.
 */
export async function findArtifacts(
  images: readonly StoredImage[],
  options: AccessOptions,
  context: Context,
): Promise<ReadonlyMap<string, readonly FoundArtifact[]>> {
  const found = new Map<string, readonly FoundArtifact[]>()
  const registry = openRegistryClient({ ...registryAccess(options, context), requestTimeoutMs: WAIT_MAX_MS })
  const controller = new AbortController()
  // The signal alone is not enough: the search for a login ignores it.
  const late = new Promise<never>((_resolve, reject) => {
    controller.signal.addEventListener('abort', () => {
      reject(controller.signal.reason)
    })
  })
  late.catch(() => undefined) // the races below handle it
  const timer = setTimeout(() => {
    controller.abort(
      new RegistryError(`no answer within ${WAIT_MAX_MS / 1000} s`, {
        registryCode: 'UNREACHABLE',
        retryable: true,
      }),
    )
  }, WAIT_MAX_MS)
  try {
    await Promise.all(
      images.flatMap((image) =>
        placesOf(image).map(async (place) => {
          try {
            const artifacts = await Promise.race([
              listArtifacts(registry, parseReference(`${place}@${image.digest}`), image, controller.signal),
              late,
            ])
            const before = (found.get(image.digest) ?? []).filter(
              ({ digest }) => !artifacts.some((artifact) => artifact.digest === digest),
            )
            found.set(image.digest, [
              ...before,
              ...artifacts.map(({ artifactType, digest, sizeBytes }) => ({
                artifactType,
                digest,
                sizeBytes,
              })),
            ])
          } catch (err) {
            if (!(err instanceof AppError)) throw err
            context.stderr.write(
              `wherry: image inspect: could not list the artifacts of ${shortDigest(image.digest)} in ${place}: ${printable(err.message)}; --offline skips this\n`,
            )
          }
        }),
      ),
    )
  } finally {
    clearTimeout(timer)
    await registry.close()
  }
  return found
}
