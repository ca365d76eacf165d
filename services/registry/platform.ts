// Chooses the image of an index that runs on this machine, by OCI's os, architecture and variant ("linux",
// "arm64", "v8").  Variants are tried best first; for amd64 /proc/cpuinfo says which levels the CPU supports.

import { readFileSync } from 'node:fs'
import { ContentError } from '../contract/errors.ts'
import type { Descriptor, ImageConfig, Index, Platform } from '../contract/image.ts'
import { DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST } from './manifest.ts'

export interface HostPlatform {
  readonly os: 'linux'
  readonly architecture: string
  /** Best first; '' is "no variant written". */
  readonly variants: readonly string[]
}

/** How many platforms of an index a message lists. */
const SHOWN_MAX = 20
const PLATFORMS: Readonly<Record<string, HostPlatform>> = {
  arm64: { os: 'linux', architecture: 'arm64', variants: ['v8', ''] },
  arm: { os: 'linux', architecture: 'arm', variants: ['v7', 'v6', 'v5', ''] },
}

/** The flags that each level of amd64 adds, as /proc/cpuinfo spells them (psABI for x86-64, table 3.1). */
const AMD64_LEVELS: ReadonlyArray<readonly [string, readonly string[]]> = [
  ['v2', ['cx16', 'lahf_lm', 'popcnt', 'sse4_1', 'sse4_2', 'ssse3']],
  ['v3', ['abm', 'avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'movbe', 'xsave']],
  ['v4', ['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl']],
]

/** The variants of amd64 that a CPU with FLAGS runs, best first. */
function amd64Variants(flags: ReadonlySet<string>): readonly string[] {
  const missing = AMD64_LEVELS.findIndex(([, needed]) => !needed.every((flag) => flags.has(flag)))
  const levels = AMD64_LEVELS.slice(0, missing < 0 ? undefined : missing).map(([level]) => level)
  return [...levels.toReversed(), '', 'v1']
}

/** The CPU's flags, or none when they cannot be read. */
function readCpuFlags(): ReadonlySet<string> {
  try {
    return new Set(/^flags\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '))
  } catch {
    return new Set() // no /proc: the lowest level runs everywhere
  }
}

/** The platform of a machine whose processor Node calls ARCH and which has FLAGS. */
export function hostPlatform(arch: string = process.arch, flags?: ReadonlySet<string>): HostPlatform {
  if (arch === 'x64')
    return { os: 'linux', architecture: 'amd64', variants: amd64Variants(flags ?? readCpuFlags()) }
  return PLATFORMS[arch] ?? { os: 'linux', architecture: arch, variants: [''] }
}

/**
 * A host that runs images for PLATFORM, which need not be this machine's: of the architecture's levels, the
 * given one and those below it.
 */
export function platformsFor({ architecture, variant = '' }: Platform): HostPlatform {
  const levels =
    architecture === 'amd64'
      ? [...AMD64_LEVELS.map(([level]) => level).toReversed(), '', 'v1']
      : (PLATFORMS[architecture]?.variants ?? [''])
  const at = variant === '' ? 0 : levels.indexOf(variant)
  return { os: 'linux', architecture, variants: at < 0 ? [variant, ...levels] : levels.slice(at) }
}

/** "linux/arm/v7", or "unknown". */
export function platformText({ platform }: Descriptor): string {
  return [platform?.os, platform?.architecture, platform?.variant].filter(Boolean).join('/') || 'unknown'
}

/**
 * Some registries nest an index in an index (image-spec, image-index.md): the one for HOST, or one without a
 * platform.
 */
function findNested({ manifests }: Index, host: HostPlatform): Descriptor | undefined {
  const indexes = manifests.filter((m) => m.mediaType === OCI_INDEX || m.mediaType === DOCKER_INDEX)
  return (
    indexes.find((m) => m.platform?.os === host.os && m.platform.architecture === host.architecture) ??
    indexes.find((m) => m.platform === undefined)
  )
}

/**
 * BuildKit keeps attestations about an image in the same index, as if they were images for another platform.
 */
function isAttestation({ annotations }: Descriptor): boolean {
  return annotations?.['vnd.docker.reference.type'] !== undefined
}

/**
 * The image of INDEX for HOST, or a nested index that may have it. Throws ContentError
 * ERR_UNSUPPORTED_MEDIA_TYPE that lists the platforms.
 */
export function choosePlatform(index: Index, host: HostPlatform): Descriptor {
  const images = index.manifests.filter(
    (m) => (m.mediaType === OCI_MANIFEST || m.mediaType === DOCKER_MANIFEST) && !isAttestation(m),
  )
  const fitting = images.filter(
    (m) => m.platform?.os === host.os && m.platform.architecture === host.architecture,
  )
  for (const variant of host.variants) {
    const found = fitting.find((m) => (m.platform?.variant ?? '') === variant)
    if (found) return found
  }
  // An index of one image without a platform: its config will say whether it fits.
  if (images.length === 1 && images[0]!.platform === undefined) return images[0]!
  const nested = findNested(index, host)
  if (nested) return nested
  const there = images.slice(0, SHOWN_MAX).map(platformText).join(', ') || 'no platform at all'
  throw new ContentError(
    `the image is not available for ${host.os}/${host.architecture}; it is for ${there}`,
    'ERR_UNSUPPORTED_MEDIA_TYPE',
  )
}

/** Unknown variants are accepted: the program will run or fail. */
function runsVariant({ architecture, variants }: HostPlatform, variant: string): boolean {
  return variants.includes(variant) || !(architecture === 'amd64' ? /^v[234]$/ : /^v[5-7]$/).test(variant)
}

/**
 * Throws ContentError when CONFIG, of an image that was named directly, is not for HOST; ISHERE says that
 * HOST is this machine.
 */
export function checkPlatform(config: ImageConfig, host: HostPlatform, isHere = true): void {
  const { os, architecture, variant } = config
  if (
    os === host.os &&
    architecture === host.architecture &&
    (variant === undefined || runsVariant(host, variant))
  )
    return
  const made = `${os || 'an unnamed system'}/${architecture || 'an unnamed processor'}${variant === undefined ? '' : `/${variant}`}`
  throw new ContentError(
    `the image is for ${made}, ${isHere ? 'this machine is' : 'the requested platform is'} ${host.os}/${host.architecture}`,
    'ERR_UNSUPPORTED_MEDIA_TYPE',
  )
}
