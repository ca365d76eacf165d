// Which of an index's images runs on this machine, in the words of the OCI index ("linux", "amd64", "v8").
// Variants are tried best first; those that need to look at the CPU (amd64/v2 …) are not taken.

import { ContentError } from '../contract/errors.ts'
import type { Descriptor, ImageConfig, Index } from '../contract/image.ts'
import { DOCKER_MANIFEST, OCI_MANIFEST } from './manifest.ts'

export interface HostPlatform {
  readonly os: 'linux'
  readonly architecture: string
  /** Best first; '' is "no variant written". */
  readonly variants: readonly string[]
}

/** So many of an index's platforms are listed in a message. */
const SHOWN_MAX = 20
const PLATFORMS: Readonly<Record<string, HostPlatform>> = {
  x64: { os: 'linux', architecture: 'amd64', variants: ['', 'v1'] },
  arm64: { os: 'linux', architecture: 'arm64', variants: ['v8', ''] },
  arm: { os: 'linux', architecture: 'arm', variants: ['v7', 'v6', 'v5', ''] },
}

/** The platform of a machine with Node's name ARCH for its processor. */
export function hostPlatform (arch: string = process.arch): HostPlatform {
  return PLATFORMS[arch] ?? { os: 'linux', architecture: arch, variants: [''] }
}

function platformText ({ platform }: Descriptor): string {
  return [platform?.os, platform?.architecture, platform?.variant].filter(Boolean).join('/') || 'unknown'
}

/** The image of INDEX for HOST.  Throws ContentError ERR_UNSUPPORTED_MEDIA_TYPE that lists what there is. */
export function choosePlatform (index: Index, host: HostPlatform): Descriptor {
  const images = index.manifests.filter(m => m.mediaType === OCI_MANIFEST || m.mediaType === DOCKER_MANIFEST)
  const fitting = images.filter(m => m.platform?.os === host.os && m.platform.architecture === host.architecture)
  for (const variant of host.variants) {
    const found = fitting.find(m => (m.platform?.variant ?? '') === variant)
    if (found) return found
  }
  // An index of one image that nobody labelled: its config will say whether it fits.
  if (images.length === 1 && images[0]!.platform === undefined) return images[0]!
  const there = images.slice(0, SHOWN_MAX).map(platformText).join(', ') || 'no platform at all'
  throw new ContentError(`the image is not there for ${host.os}/${host.architecture}; it is for ${there}`, 'ERR_UNSUPPORTED_MEDIA_TYPE')
}

/** Throws ContentError when an image made for another machine was named directly. */
export function checkPlatform (config: ImageConfig, host: HostPlatform): void {
  if (config.os === host.os && config.architecture === host.architecture) return
  const made = `${config.os || 'an unnamed system'}/${config.architecture || 'an unnamed processor'}`
  throw new ContentError(`the image is for ${made}, this machine is ${host.os}/${host.architecture}`, 'ERR_UNSUPPORTED_MEDIA_TYPE')
}
