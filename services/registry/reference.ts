// Image references as people write them: [registry/]repository[:tag][@digest], with Docker's defaults
// (distribution/reference, the grammar in reference.go and normalize.go), and the URL of their registry.

import { HEX, isDigest } from '../contract/digest.ts'
import { defined } from '../contract/defined.ts'
import { InvalidRequest } from '../contract/errors.ts'
import { isLoopback } from './proxy.ts'

export interface Reference {
  /** "docker.io", "localhost:5000", "[::1]:5000" … */
  readonly registry: string
  readonly repository: string
  /** "latest" when neither tag nor digest was written. */
  readonly tag?: string
  readonly digest?: string
}

const REFERENCE_CHARACTERS_MAX = 1024
const REPOSITORY_CHARACTERS_MAX = 255
const DOCKER_HUB = 'docker.io'
const DOCKER_HUB_HOST = 'registry-1.docker.io'

const LABEL = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])'
const REGISTRY = new RegExp(`^(?:${LABEL}(?:\\.${LABEL})*|\\[[a-fA-F0-9:]+\\])(?::([0-9]{1,5}))?$`)
const COMPONENT = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/
const TAG = /^[\w][\w.-]{0,127}$/

function refuse(text: string, why: string): never {
  const shown = text.length > 100 ? `${text.slice(0, 100)}…` : text
  throw new InvalidRequest(
    [{ path: 'image', problem: `"${shown}" is not an image reference: ${why}` }],
    'ERR_INVALID_REFERENCE',
  )
}

/**
 * A first part without ".", ":" or capitals is a path on Docker Hub, except "localhost" (normalize.go,
 * splitDockerDomain).
 */
function splitRegistry(name: string): { registry: string; repository: string } {
  const slash = name.indexOf('/')
  const first = name.slice(0, Math.max(slash, 0))
  const isRegistry =
    first !== '' && (/[.:]/.test(first) || first === 'localhost' || first !== first.toLowerCase())
  let registry = isRegistry ? first : DOCKER_HUB
  let repository = isRegistry ? name.slice(slash + 1) : name
  if (registry === 'index.docker.io') registry = DOCKER_HUB
  if (registry === DOCKER_HUB && !repository.includes('/')) repository = `library/${repository}`
  return { registry, repository }
}

function checkName(text: string, registry: string, repository: string): void {
  if (!isRegistryName(registry)) refuse(text, `"${registry}" is not the name of a registry`)
  if (repository.length > REPOSITORY_CHARACTERS_MAX)
    refuse(text, `the repository is longer than ${REPOSITORY_CHARACTERS_MAX} characters`)
  if (repository !== repository.toLowerCase()) refuse(text, 'the repository must be lower case')
  if (!isRepositoryName(repository)) {
    refuse(
      text,
      'a repository consists of lower-case letters and digits, with single ".", "_", "__" or "-" between them',
    )
  }
}

/** TEXT as a Reference.  Throws InvalidRequest ERR_INVALID_REFERENCE with path "image". */
export function parseReference(text: string): Reference {
  if (text === '') refuse(text, 'it is empty')
  if (text.length > REFERENCE_CHARACTERS_MAX)
    refuse(text, `it is longer than ${REFERENCE_CHARACTERS_MAX} characters`)
  if (/^https?:\/\//i.test(text))
    refuse(text, 'write it without "https://"; the file of registries says which registries use plain http')
  if (HEX.test(text)) refuse(text, 'a registry cannot find an image by its id; write repository@sha256:…')
  const at = text.indexOf('@')
  const digest = at < 0 ? undefined : text.slice(at + 1)
  const named = at < 0 ? text : text.slice(0, at)
  const colon = named.lastIndexOf(':')
  const hasTag = colon > named.lastIndexOf('/')
  const tag = hasTag ? named.slice(colon + 1) : undefined
  const { registry, repository } = splitRegistry(hasTag ? named.slice(0, colon) : named)
  checkName(text, registry, repository)
  if (tag !== undefined && !TAG.test(tag)) refuse(text, `"${tag.slice(0, 130)}" is not a tag`)
  if (digest !== undefined && !isDigest(digest))
    refuse(text, 'the digest must be sha256: and 64 hexadecimal digits')
  if (digest === undefined) return { registry, repository, tag: tag ?? 'latest' }
  return { registry, repository, ...defined({ tag }), digest }
}

/** The reference in full: "docker.io/library/busybox:latest". */
export function formatReference(ref: Reference): string {
  return `${ref.registry}/${ref.repository}${ref.tag === undefined ? '' : `:${ref.tag}`}${ref.digest === undefined ? '' : `@${ref.digest}`}`
}

/** Whether NAME can be the registry of a reference ("host", "host:port", "[::1]:5000"). */
export function isRegistryName(name: string): boolean {
  const match = REGISTRY.exec(name)
  const port = Number(match?.[1] ?? 1)
  // "1.2.3.999" and "[:::]" match the pattern but are not addresses
  return (
    match !== null &&
    name.length <= REPOSITORY_CHARACTERS_MAX &&
    URL.canParse(`https://${name}`) &&
    port >= 1 &&
    port <= 65_535
  )
}

/** Whether NAME can be the repository of a reference, or the beginning of one. */
export function isRepositoryName(name: string): boolean {
  return name.length <= REPOSITORY_CHARACTERS_MAX && name.split('/').every((part) => COMPONENT.test(part))
}

/** The canonical spelling of REGISTRY: lower case, and one name for Docker Hub's three. */
export function canonicalRegistry(registry: string): string {
  const name = registry.toLowerCase()
  return name === DOCKER_HUB_HOST || name === 'index.docker.io' ? DOCKER_HUB : name
}

/**
 * The origin of REGISTRY in canonical form (lower case, no default port). HTTP says whether it uses plain
 * http; by default only loopback addresses do.
 */
export function registryUrl(registry: string, http?: boolean): string {
  const isHub = canonicalRegistry(registry) === DOCKER_HUB
  const isPlain = http ?? isLoopback(registry.replace(/:[0-9]+$/, ''))
  return new URL(`${isPlain ? 'http' : 'https'}://${isHub ? DOCKER_HUB_HOST : registry}`).origin
}
