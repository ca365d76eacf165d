// What points at images in the registries that have them: SBOMs, provenance, signatures, for `wherry image
// inspect`. Knows how long a person waits for it, and that an image is shown without it, too. Refuses to know
// what is in them: nothing here is checked, so nothing here may decide anything.

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

/** For all images of a command together. */
const WAIT_MAX_MS = 5000
/** Repositories that are asked about one image. */
const PLACES_MAX = 4

/**
 * The repositories that may have IMAGE: where it came from, and those of its names. Names of Docker Hub are
 * mostly names of this machine alone, and what was built here came from its base's repository: both are only
 * asked when they agree.
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
 * What points at each of IMAGES, by the image's digest. Images that no registry is known to have are left
 * out; so are those whose registries do not answer within WAIT_MAX_MS, with a line on stderr.
 */
export async function findArtifacts(
  images: readonly StoredImage[],
  options: AccessOptions,
  context: Context,
): Promise<ReadonlyMap<string, readonly FoundArtifact[]>> {
  const found = new Map<string, readonly FoundArtifact[]>()
  const registry = openRegistryClient({ ...registryAccess(options, context), requestTimeoutMs: WAIT_MAX_MS })
  const controller = new AbortController()
  // Not the signal alone: looking for a login does not hear of it.
  const late = new Promise<never>((_resolve, reject) => {
    controller.signal.addEventListener('abort', () => {
      reject(controller.signal.reason)
    })
  })
  late.catch(() => undefined) // each race below hears of it
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
              `wherry: image inspect: what ${place} has about ${shortDigest(image.digest)} is not known: ${printable(err.message)}; --offline does not ask\n`,
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
