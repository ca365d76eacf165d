// Uploads one blob into one repository (distribution-spec 1.1, "Pushing Blobs"): not at all when it exists,
// by mounting it from another repository, in chunks that resume after a cut, or in one piece. The registry
// verifies the digest at the end.

import { createReadStream } from 'node:fs'
import { pipeline, Transform, type Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { defined } from '../contract/defined.ts'
import { registryError } from './registry-error.ts'
import type { Call } from './call.ts'
import { RegistryError } from '../contract/errors.ts'
import type { Reference } from './reference.ts'
import type { RegistryClient } from './registry.ts'
import { discardBody, type RegistryResponse } from './transport.ts'

export interface Blob {
  readonly digest: string
  readonly size: number
  /** Opens the blob from its start, each time. */
  readonly open: () => Uint8Array | Readable | Promise<Readable>
  /** Opens the bytes from START up to END; without it the blob is sent in one piece. */
  readonly openRange?: (start: number, end: number) => Uint8Array | Readable
}

export type UploadResult = 'present' | 'mounted' | 'uploaded'

export interface UploadOptions {
  /** Another repository of that registry that may have the blob. */
  readonly mountFrom?: string
  /** Gets the number of bytes sent so far; after a cut it may decrease. */
  readonly onSent?: (bytes: number) => void
  readonly signal?: AbortSignal
}

interface Upload extends UploadOptions {
  readonly registry: RegistryClient
  readonly ref: Reference
  readonly blob: Blob
}

/** S3, behind some registries, refuses parts below 5 MiB; a cut costs at most one chunk. */
const CHUNK_BYTES = 16 * 1024 ** 2
const CHUNK_BYTES_MAX = 1024 ** 3
/** Resumes within one upload, and whole uploads of one blob. */
const RESUMES_MAX = 5
const UPLOADS_MAX = 3
const PAUSE_MS = 300
/** Slower transfers time out. */
const RATE_MIN_BYTES_PER_S = 64 * 1024
const RESPONSE_TIMEOUT_MS = 60_000

/** How to open a blob that is FILE. */
export function blobOfFile(file: string): Pick<Blob, 'open' | 'openRange'> {
  return {
    open: () => createReadStream(file),
    openRange: (start, end) => createReadStream(file, { start, end: end - 1 }),
  }
}

function callFor({ signal }: Upload, request: Omit<Call, 'actions' | 'signal'>): Call {
  return { ...request, actions: 'pull,push', ...defined({ signal }) }
}

/** BODY, reporting to ONSENT each piece that is sent; START bytes of the blob were sent before. */
function metered(
  body: Uint8Array | Readable,
  start: number,
  onSent: (bytes: number) => void,
): Uint8Array | Readable {
  if (body instanceof Uint8Array) return body
  let sent = start
  const meter = new Transform({
    transform(piece: Buffer, _encoding, done) {
      sent += piece.length
      onSent(sent)
      done(null, piece)
    },
  })
  pipeline(body, meter, () => {
    /* the meter fails with its source, and undici with the meter */
  })
  return meter
}

interface Part {
  readonly method: 'PUT' | 'PATCH'
  readonly target: URL
  /** Of the blob. */
  readonly start: number
  readonly end: number
  readonly body: () => Uint8Array | Readable | Promise<Readable>
}

/** Send one part, with a timeout that allows for a slow line. */
function sendPart(upload: Upload, { method, target, start, end, body }: Part): Promise<RegistryResponse> {
  const { onSent = () => {} } = upload
  return upload.registry.call(
    upload.ref,
    callFor(upload, {
      method,
      target: target.href,
      timeoutMs: RESPONSE_TIMEOUT_MS + Math.ceil((end - start) / RATE_MIN_BYTES_PER_S) * 1000,
      body: async () => metered(await body(), start, onSent),
      headers: {
        'content-type': 'application/octet-stream',
        'content-length': String(end - start),
        ...(method === 'PATCH' && { 'content-range': `${start}-${end - 1}` }),
      },
    }),
  )
}

/** The URL at which RESPONSE says to continue. */
function locationOf({ ref }: Upload, response: RegistryResponse): URL {
  const location = response.header('location')
  if (location !== undefined && URL.canParse(location, response.url)) return new URL(location, response.url)
  throw new RegistryError(`registry ${ref.registry} opened an upload but sent no address for it`, {
    registryCode: 'UNKNOWN',
    retryable: false,
  })
}

/** "0-1023" → 1024.  Registries send "0-0" for an empty upload, too. */
function offsetOf(response: RegistryResponse): number | undefined {
  const match = /^(?:bytes=)?0-(\d{1,15})$/.exec(response.header('range') ?? '')
  return match ? (match[1] === '0' ? 0 : Number(match[1]) + 1) : undefined
}

async function exists(upload: Upload): Promise<boolean> {
  const { registry, ref, blob } = upload
  const head = await registry.call(
    ref,
    callFor(upload, { method: 'HEAD', target: `/v2/${ref.repository}/blobs/${blob.digest}` }),
  )
  await discardBody(head)
  if (head.status === 200) return true
  if ([401, 403, 429].includes(head.status) || head.status >= 500) throw await registryError(ref, head)
  return false
}

/** A session, or undefined when the blob was mounted. */
async function openSession(upload: Upload, mountFrom?: string): Promise<RegistryResponse | undefined> {
  const { registry, ref, blob } = upload
  const query =
    mountFrom === undefined
      ? ''
      : `?${new URLSearchParams({ mount: blob.digest, from: mountFrom }).toString()}`
  const answer = await registry.call(
    ref,
    callFor(upload, {
      method: 'POST',
      target: `/v2/${ref.repository}/blobs/uploads/${query}`,
      headers: { 'content-length': '0' },
      ...defined({ mountFrom }),
    }),
  )
  if (answer.status === 202 || (answer.status === 201 && mountFrom !== undefined)) {
    await discardBody(answer)
    return answer.status === 202 ? answer : undefined
  }
  if (mountFrom === undefined) throw await registryError(ref, answer)
  await discardBody(answer) // we may not be allowed to read the other repository
  return await openSession(upload)
}

function withDigest(target: URL, digest: string): URL {
  const url = new URL(target)
  url.searchParams.set('digest', digest)
  return url
}

async function finish(upload: Upload, answer: RegistryResponse): Promise<void> {
  if (answer.status !== 201) throw await registryError(upload.ref, answer)
  await discardBody(answer)
}

async function sendWhole(upload: Upload, session: RegistryResponse): Promise<void> {
  const { blob } = upload
  await finish(
    upload,
    await sendPart(upload, {
      method: 'PUT',
      target: withDigest(locationOf(upload, session), blob.digest),
      start: 0,
      end: blob.size,
      body: blob.open,
    }),
  )
  upload.onSent?.(blob.size)
}

/** How far the session at LOCATION got.  Throws a retryable RegistryError when it no longer exists. */
async function askOffset(upload: Upload, location: URL): Promise<{ location: URL; offset: number }> {
  const { registry, ref } = upload
  const answer = await registry.call(ref, callFor(upload, { method: 'GET', target: location.href }))
  await discardBody(answer)
  const offset = offsetOf(answer)
  if (answer.status === 204 && offset !== undefined)
    return {
      location: answer.header('location') === undefined ? location : locationOf(upload, answer),
      offset,
    }
  throw new RegistryError(
    `registry ${ref.registry} lost the upload of ${upload.blob.digest} (${answer.status})`,
    { registryCode: 'BLOB_UPLOAD_UNKNOWN', retryable: true },
  )
}

function invalidUpload({ ref, blob }: Upload, why: string): RegistryError {
  return new RegistryError(`the upload of ${blob.digest} cannot continue: registry ${ref.registry} ${why}`, {
    registryCode: 'BLOB_UPLOAD_INVALID',
    retryable: false,
  })
}

async function sendChunks(
  upload: Upload,
  session: RegistryResponse,
  openRange: NonNullable<Blob['openRange']>,
): Promise<void> {
  const { ref, blob, signal, onSent } = upload
  const least = Number(session.header('oci-chunk-min-length') ?? 0)
  const chunkBytes = Math.min(Math.max(CHUNK_BYTES, Number.isSafeInteger(least) ? least : 0), CHUNK_BYTES_MAX)
  let location = locationOf(upload, session)
  let offset = 0
  for (let cuts = 0; offset < blob.size;) {
    const [start, end] = [offset, Math.min(offset + chunkBytes, blob.size)]
    try {
      const answer = await sendPart(upload, {
        method: 'PATCH',
        target: location,
        start,
        end,
        body: () => openRange(start, end),
      })
      if (answer.status !== 202) throw await registryError(ref, answer)
      await discardBody(answer)
      location = locationOf(upload, answer)
      offset = offsetOf(answer) || end
      // A registry may accept less than it was sent, but not for ever.
      if (offset <= start || (offset < end && ++cuts > RESUMES_MAX))
        throw invalidUpload(upload, `accepted ${offset} bytes of it when ${end} were sent`)
    } catch (error) {
      if (
        !(error instanceof RegistryError && error.retryable) ||
        signal?.aborted === true ||
        ++cuts > RESUMES_MAX
      )
        throw error
      await sleep(PAUSE_MS * cuts, undefined, signal && { signal })
      ;({ location, offset } = await askOffset(upload, location))
    }
    if (offset > end)
      throw invalidUpload(upload, `claims to have ${offset} bytes of it when ${end} were sent`)
    onSent?.(offset)
  }
  await finish(
    upload,
    await sendPart(upload, {
      method: 'PUT',
      target: withDigest(location, blob.digest),
      start: blob.size,
      end: blob.size,
      body: () => new Uint8Array(0),
    }),
  )
}

async function uploadOnce(upload: Upload, inChunks: boolean): Promise<UploadResult> {
  const { blob, mountFrom } = upload
  if (await exists(upload)) return 'present'
  const session = await openSession(upload, mountFrom)
  if (!session) return 'mounted'
  if (inChunks && blob.openRange) await sendChunks(upload, session, blob.openRange)
  else await sendWhole(upload, session)
  return 'uploaded'
}

/** Upload BLOB unless the registry has it.  Throws RegistryError, or the signal's reason. */
export async function uploadBlob(
  registry: RegistryClient,
  ref: Reference,
  blob: Blob,
  options: UploadOptions = {},
): Promise<UploadResult> {
  let inChunks = blob.size > CHUNK_BYTES && blob.openRange !== undefined
  for (let uploads = 1; ; uploads++) {
    try {
      return await uploadOnce({ ...options, registry, ref, blob }, inChunks)
    } catch (error) {
      if (!(error instanceof RegistryError) || options.signal?.aborted === true || uploads >= UPLOADS_MAX)
        throw error
      const isRefused = ['UNAUTHORIZED', 'DENIED', 'REDIRECT'].includes(error.registryCode)
      // Some registries do not take chunks, and each reports that differently.
      if (inChunks && !error.retryable && !isRefused) inChunks = false
      else if (!error.retryable) throw error
      await sleep(PAUSE_MS * uploads, undefined, options.signal && { signal: options.signal })
    }
  }
}
