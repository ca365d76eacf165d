// Whether an image is signed by one of several public keys, in cosign's three formats: the tag
// sha256-<hex>.sig, the same manifest found by the referrers API, and Sigstore bundles with a DSSE envelope
// (cosign 2.6 and later).  Certificates and transparency logs (keyless signing) are not supported.
// See github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md, and secure-systems-lab/dsse, protocol.md.

import { createPublicKey, verify as verifyBytes, type KeyObject as PublicKey } from 'node:crypto'
import { hexOf } from '../contract/digest.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import { verifyDigest } from './verify-digest.ts'
import { ContentError, InvalidRequest, RegistryError } from '../contract/errors.ts'
import { readBounded } from './bounded-body.ts'
import type { Reference } from './reference.ts'
import {
  cosignTag,
  listReferrers,
  readArtifact,
  type ArtifactLayer,
  type ArtifactManifest,
} from './referrers.ts'
import type { RegistryClient } from './registry.ts'

export type { PublicKey }

export interface SignatureRequest {
  readonly registry: RegistryClient
  readonly ref: Reference
  readonly digest: string
  readonly keys: readonly PublicKey[]
  /** Bounds the search for a valid signature. */
  readonly timeoutMs?: number
}

interface Look extends SignatureRequest {
  readonly signal: AbortSignal
}

const SIMPLE_SIGNING = 'application/vnd.dev.cosign.simplesigning.v1+json'
const BUNDLE = /^application\/vnd\.dev\.sigstore\.bundle(?:\.v0\.\d+)?\+json(?:;version=[\d.]+)?$/
const SIGNATURE_ARTIFACT = 'application/vnd.dev.cosign.artifact.sig.v1+json'
const PAYLOAD_BYTES_MAX = 1024 ** 2
const SIGNATURES_MAX = 64
/** A deployment waits for this, and a hostile registry could list thousands of slow artifacts. */
const TIMEOUT_DEFAULT_MS = 60_000

/** PEM as a public key that may verify: ECDSA, RSA of 2048 bits and more, Ed25519.  Throws InvalidRequest. */
export function parsePublicKey(pem: string, where: string): PublicKey {
  let key: PublicKey
  try {
    if (/PRIVATE KEY/.test(pem)) throw new Error('it is a private key; give the public one')
    key = createPublicKey(pem)
  } catch (err) {
    throw new InvalidRequest([
      { path: where, problem: `is not a public key in PEM (${(err as Error).message})` },
    ])
  }
  const type = key.asymmetricKeyType
  const isWeak = type === 'rsa' && (key.asymmetricKeyDetails?.modulusLength ?? 0) < 2048
  if (isWeak || !['ec', 'rsa', 'ed25519'].includes(type ?? ''))
    throw new InvalidRequest([
      { path: where, problem: 'must be an ECDSA, Ed25519 or RSA key, RSA with 2048 bits or more' },
    ])
  return key
}

function isSignedBy(keys: readonly PublicKey[], bytes: Uint8Array, signature: Uint8Array): boolean {
  return keys.some((key) =>
    verifyBytes(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', bytes, key, signature),
  )
}

function parseObject(bytes: Uint8Array): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'))
    return isPlainObject(value) ? value : undefined
  } catch {
    return undefined // not JSON, so it makes no claim about an image
  }
}

/** The member of VALUE at PATH, or undefined. */
function at(value: unknown, ...path: readonly (string | number)[]): unknown {
  return path.reduce<unknown>(
    (inner, key) =>
      typeof inner === 'object' && inner !== null && Object.hasOwn(inner, key)
        ? (inner as Record<string | number, unknown>)[key]
        : undefined,
    value,
  )
}

/** A payload of simple signing is about one image (SIGNATURE_SPEC.md, "Payloads"). */
function isAboutImage(payload: Uint8Array, digest: string): boolean {
  const said = parseObject(payload)
  const type = at(said, 'critical', 'type')
  return (
    at(said, 'critical', 'image', 'docker-manifest-digest') === digest &&
    (type === 'cosign container image signature' || type === 'atomic container signature')
  )
}

/** DSSE's pre-authentication encoding: the signature covers type and payload with their lengths. */
function dsseBytes(type: string, payload: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`DSSEv1 ${Buffer.byteLength(type)} ${type} ${payload.length} `), payload])
}

/** Whether PAYLOAD is an in-toto statement that signs DIGEST, not just any about it, such as an SBOM. */
function isSignatureStatement(payload: Uint8Array, digest: string): boolean {
  const statement = parseObject(payload)
  const subjects = at(statement, 'subject')
  const isAbout =
    Array.isArray(subjects) &&
    subjects.slice(0, SIGNATURES_MAX).some((subject) => at(subject, 'digest', 'sha256') === hexOf(digest))
  return isAbout && at(statement, 'predicateType') === 'https://sigstore.dev/cosign/sign/v1'
}

function isSignedBundle(bytes: Uint8Array, { keys, digest }: SignatureRequest): boolean {
  const envelope = at(parseObject(bytes), 'dsseEnvelope')
  const [type, payload, signature] = [
    at(envelope, 'payloadType'),
    at(envelope, 'payload'),
    at(envelope, 'signatures', 0, 'sig'),
  ]
  if (typeof type !== 'string' || typeof payload !== 'string' || typeof signature !== 'string') return false
  const statement = Buffer.from(payload, 'base64')
  return (
    isSignedBy(keys, dsseBytes(type, statement), Buffer.from(signature, 'base64')) &&
    isSignatureStatement(statement, digest)
  )
}

async function readLayer({ registry, ref, signal }: Look, layer: ArtifactLayer): Promise<Buffer> {
  const what = `signature ${layer.digest}`
  if (layer.size > PAYLOAD_BYTES_MAX)
    throw new ContentError(`${what} is larger than ${PAYLOAD_BYTES_MAX} bytes`, 'ERR_CONTENT_LIMIT')
  const bytes = await readBounded(await registry.blob(ref, layer, signal), layer.size, what, ref.registry)
  verifyDigest(bytes, layer.digest, what)
  return bytes
}

/**
 * The result of READ, or undefined when the content is invalid: otherwise anyone who may push could hide
 * valid signatures behind an invalid one.
 */
async function readable<T>(read: Promise<T>): Promise<T | undefined> {
  try {
    return await read
  } catch (error) {
    if (error instanceof ContentError) return undefined
    throw error
  }
}

async function hasGoodLayer(request: Look, artifact: ArtifactManifest): Promise<boolean> {
  for (const layer of artifact.layers) {
    if (layer.mediaType === SIMPLE_SIGNING) {
      const signature = layer.annotations['dev.cosignproject.cosign/signature']
      if (signature === undefined) continue
      const payload = await readable(readLayer(request, layer))
      if (
        payload &&
        isSignedBy(request.keys, payload, Buffer.from(signature, 'base64')) &&
        isAboutImage(payload, request.digest)
      )
        return true
    } else if (BUNDLE.test(layer.mediaType)) {
      const bundle = await readable(readLayer(request, layer))
      if (bundle && isSignedBundle(bundle, request)) return true
    }
  }
  return false
}

async function hasGoodArtifact(request: Look): Promise<boolean> {
  const { registry, ref, digest, signal } = request
  const tagged = await readable(readArtifact(registry, ref, cosignTag(digest, 'sig'), signal))
  if (tagged !== undefined && (await hasGoodLayer(request, tagged))) return true
  const referrers = (await listReferrers(registry, ref, digest, signal)).filter(
    (item) =>
      item.artifactType === SIGNATURE_ARTIFACT || item.artifactType === '' || BUNDLE.test(item.artifactType),
  )
  for (const referrer of referrers.slice(0, SIGNATURES_MAX)) {
    const artifact = await readable(readArtifact(registry, ref, referrer.digest, signal))
    if (artifact !== undefined && (await hasGoodLayer(request, artifact))) return true
  }
  return false
}

/**
 * Whether one of the keys has a valid signature of the image DIGEST in REF's repository. Signatures by other
 * keys, of other images, or that cannot be read do not count. Throws RegistryError when the registry cannot
 * tell, ContentError when its list of referrers is too long.
 */
export async function isSigned(request: SignatureRequest): Promise<boolean> {
  const { ref, timeoutMs = TIMEOUT_DEFAULT_MS } = request
  const late = new AbortController()
  const timer = setTimeout(() => {
    late.abort(
      new RegistryError(
        `registry ${ref.registry} did not show all signatures of ${ref.repository} within ${timeoutMs} ms`,
        { registryCode: 'UNREACHABLE', retryable: true },
      ),
    )
  }, timeoutMs)
  try {
    return await hasGoodArtifact({ ...request, signal: late.signal })
  } finally {
    clearTimeout(timer)
  }
}
