// Which of an index's images runs on this machine, in the words of the OCI index ("linux", "amd64", "v8").
// Variants are tried best first: what the CPU has of amd64's levels is in /proc/cpuinfo; nothing above it is
// taken.

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

/** So many of an index's platforms are listed in a message. */
const SHOWN_MAX = 20
const PLATFORMS: Readonly<Record<string, HostPlatform>> = {
  arm64: { os: 'linux', architecture: 'arm64', variants: ['v8', ''] },
  arm: { os: 'linux', architecture: 'arm', variants: ['v7', 'v6', 'v5', ''] },
}

/** What each level of amd64 adds to the one before, in the kernel's words (psABI for x86-64, table 3.1). */
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

/** The CPU's own words for what it can do; none where they cannot be had. */
function readCpuFlags(): ReadonlySet<string> {
  try {
    return new Set(/^flags\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '))
  } catch {
    return new Set() // no /proc: the lowest level runs everywhere
  }
}

/** The platform of a machine with Node's name ARCH for its processor, which can do FLAGS. */
export function hostPlatform(arch: string = process.arch, flags?: ReadonlySet<string>): HostPlatform {
  if (arch === 'x64')
    return { os: 'linux', architecture: 'amd64', variants: amd64Variants(flags ?? readCpuFlags()) }
  return PLATFORMS[arch] ?? { os: 'linux', architecture: arch, variants: [''] }
}

/**
 * Who runs images for PLATFORM, another than this machine's: of an architecture's levels, the one that is
 * written and those below it.
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
 * Some registries nest an index in an index (image-spec, image-index.md): the one for HOST, or one that
 * nobody labelled.
 */
function findNested({ manifests }: Index, host: HostPlatform): Descriptor | undefined {
  const indexes = manifests.filter((m) => m.mediaType === OCI_INDEX || m.mediaType === DOCKER_INDEX)
  return (
    indexes.find((m) => m.platform?.os === host.os && m.platform.architecture === host.architecture) ??
    indexes.find((m) => m.platform === undefined)
  )
}

/**
 * BuildKit keeps what it says about an image in the same index, as if it were one for a platform of its own.
 */
function isAttestation({ annotations }: Descriptor): boolean {
  return annotations?.['vnd.docker.reference.type'] !== undefined
}

/**
 * The image of INDEX for HOST, or the index in it where that may be. Throws ContentError
 * ERR_UNSUPPORTED_MEDIA_TYPE that lists what there is.
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
  // An index of one image that nobody labelled: its config will say whether it fits.
  if (images.length === 1 && images[0]!.platform === undefined) return images[0]!
  const nested = findNested(index, host)
  if (nested) return nested
  const there = images.slice(0, SHOWN_MAX).map(platformText).join(', ') || 'no platform at all'
  throw new ContentError(
    `the image is not there for ${host.os}/${host.architecture}; it is for ${there}`,
    'ERR_UNSUPPORTED_MEDIA_TYPE',
  )
}

/** Variants that nobody has numbered are let through: the program will tell. */
function runsVariant({ architecture, variants }: HostPlatform, variant: string): boolean {
  return variants.includes(variant) || !(architecture === 'amd64' ? /^v[234]$/ : /^v[5-7]$/).test(variant)
}

/**
 * Throws ContentError when an image that is not for HOST was named directly; ISHERE says that HOST is this
 * machine.
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
    `the image is for ${made}, ${isHere ? 'this machine is' : 'wanted is one for'} ${host.os}/${host.architecture}`,
    'ERR_UNSUPPORTED_MEDIA_TYPE',
  )
}
