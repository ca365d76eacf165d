// Platforms as users write them ("linux/arm64/v8", "arm64", "linux/x86_64") in the terms of the OCI image
// index.

import type { Platform } from '../../contract/image.ts'

const ARCHITECTURES: Readonly<Record<string, { readonly architecture: string; readonly variant?: string }>> =
  {
    amd64: { architecture: 'amd64' },
    x86_64: { architecture: 'amd64' },
    'x86-64': { architecture: 'amd64' },
    '386': { architecture: '386' },
    i386: { architecture: '386' },
    arm64: { architecture: 'arm64' },
    aarch64: { architecture: 'arm64' },
    arm: { architecture: 'arm', variant: 'v7' },
    armhf: { architecture: 'arm', variant: 'v7' },
    armel: { architecture: 'arm', variant: 'v6' },
  }
/** Architectures with only one name. */
const OTHERS = ['loong64', 'mips64le', 'ppc64le', 'riscv64', 's390x']
/** The variant that an architecture implies. */
const IMPLIED: Readonly<Record<string, string>> = { amd64: 'v1', arm64: 'v8' }

/** TEXT as a platform, or undefined if it is not one of Linux containers. */
export function parsePlatform(text: string): Platform | undefined {
  const parts = text.toLowerCase().split('/')
  if (parts.length > 3) return undefined
  const [os, name, written] = parts.length === 1 && parts[0] !== 'linux' ? ['linux', parts[0]!] : parts
  const known = Object.hasOwn(ARCHITECTURES, name ?? '')
    ? ARCHITECTURES[name!]!
    : OTHERS.includes(name ?? '')
      ? { architecture: name! }
      : undefined
  if (os !== 'linux' || known === undefined || (written !== undefined && !/^v?\d{1,2}$/.test(written)))
    return undefined
  const variant = written === undefined ? known.variant : written.startsWith('v') ? written : `v${written}`
  return {
    os,
    architecture: known.architecture,
    ...(variant !== undefined && IMPLIED[known.architecture] !== variant && { variant }),
  }
}

/** "linux/arm/v7" */
export function formatPlatform({ os, architecture, variant }: Platform): string {
  return variant === undefined || variant === ''
    ? `${os}/${architecture}`
    : `${os}/${architecture}/${variant}`
}
