// One blob as one stream of exactly as many bytes as its descriptor says, over several responses if needed:
// after a cut connection the rest is requested (RFC 9110 §14, Range). The reader must verify the digest. A
// registry cannot hold the reader for ever: resumes are counted, each must bring bytes, and a trickle counts
// as a cut.

import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { ContentError, RegistryError } from '../contract/errors.ts'
import { unreachable, type RegistryResponse } from './transport.ts'

export interface BlobSource {
  /** For messages: "blob sha256:…". */
  readonly what: string
  readonly registry: string
  readonly sizeBytes: number
  /** The 200 or 206 that answers a request for the bytes from OFFSET on.  Throws for every other answer. */
  readonly open: (offset: number) => Promise<RegistryResponse>
  /** Within this time some bytes must arrive. */
  readonly requestTimeoutMs: number
  readonly signal?: AbortSignal
}

const RESUMES_MAX = 16
const RESUME_PAUSE_MS = 100
/** The rate over a whole request timeout below which a transfer is given up. */
const RATE_MIN_BYTES_PER_S = 1024
/** A trickling connection is replaced by a new one only if it has brought this much. */
const TRICKLE_PROGRESS_MIN_BYTES = 1024 ** 2
const BUFFERED_BYTES = 512 * 1024

type Body = RegistryResponse['body']

/** End a body that will not be read. */
function drop(body: Body): void {
  body.on('error', () => {}).destroy()
}

function refuse(response: RegistryResponse, { what }: BlobSource, why: string): never {
  drop(response.body)
  throw new ContentError(`${what} ${why}`, 'ERR_DIGEST_MISMATCH')
}

/** How many bytes of RESPONSE precede OFFSET.  Refuses one that does not reach exactly to the end. */
function checkResponse(source: BlobSource, response: RegistryResponse, offset: number): number {
  const { sizeBytes } = source
  const isPart = response.status === 206
  const length = response.header('content-length')
  const expected = isPart ? sizeBytes - offset : sizeBytes
  if (length !== undefined && Number(length) !== expected)
    refuse(response, source, `has ${length} bytes, but the manifest says ${expected}`)
  if (!isPart) return offset // the whole blob again: a registry may ignore Range
  const range = response.header('content-range') ?? 'none'
  const wanted = `bytes ${offset}-${sizeBytes - 1}/`
  if (offset === 0 || (range !== `${wanted}${sizeBytes}` && range !== `${wanted}*`)) {
    refuse(
      response,
      source,
      `was requested from byte ${offset} to its end, but the registry sent "${range.slice(0, 100)}"`,
    )
  }
  return 0
}

/**
 * The blob of SOURCE.  Errors of the first response are thrown; later ones destroy the stream.
 */
export async function openBlob(source: BlobSource): Promise<Readable> {
  const first = await source.open(0)
  return createBlobStream(source, first, checkResponse(source, first, 0))
}

function createBlobStream(source: BlobSource, first: RegistryResponse, firstSkip: number): Readable {
  const { what, registry, sizeBytes, requestTimeoutMs, signal } = source
  const rateMinBytes = Math.ceil((RATE_MIN_BYTES_PER_S * requestTimeoutMs) / 1000)
  let body: Body | undefined
  let received = 0
  let skip = 0
  let sinceOpen = 0
  let resumes = 0
  let window = { bytes: 0, held: false }

  const stream = new Readable({
    highWaterMark: BUFFERED_BYTES,
    read() {
      body?.resume()
    },
    destroy(error, done) {
      clearInterval(watch)
      if (body) drop(body)
      body = undefined
      done(error)
    },
  })

  /** One response ended, perhaps before the blob did. */
  function ended(from: Body, error: unknown, isTrickle = false): void {
    if (from !== body) return
    drop(from)
    body = undefined
    if (received === sizeBytes) {
      clearInterval(watch)
      stream.push(null)
      return
    }
    const problem =
      error === undefined
        ? new ContentError(`${what} ended after ${received} of ${sizeBytes} bytes`, 'ERR_DIGEST_MISMATCH')
        : unreachable(registry, error)
    const isWorthIt = sinceOpen > (isTrickle ? TRICKLE_PROGRESS_MIN_BYTES : 0)
    if (signal?.aborted === true) stream.destroy(signal.reason as Error)
    else if (!isWorthIt || resumes >= RESUMES_MAX) stream.destroy(problem)
    else resume().catch((failure: unknown) => stream.destroy(failure as Error))
  }

  async function resume(): Promise<void> {
    resumes++
    await sleep(RESUME_PAUSE_MS * (0.5 + Math.random() / 2), undefined, signal && { signal })
    if (stream.destroyed) return
    const response = await source.open(received)
    const bytes = checkResponse(source, response, received)
    if (stream.destroyed) drop(response.body)
    else attach(response.body, bytes)
  }

  function take(from: Body, piece: Buffer): void {
    if (from !== body) return
    const chunk = skip === 0 ? piece : piece.subarray(Math.min(skip, piece.length))
    skip -= piece.length - chunk.length
    window.bytes += piece.length
    received += chunk.length
    sinceOpen += chunk.length
    if (received > sizeBytes)
      stream.destroy(
        new ContentError(
          `${what} is longer than the ${sizeBytes} bytes that the manifest says`,
          'ERR_DIGEST_MISMATCH',
        ),
      )
    else if (chunk.length > 0 && !stream.push(chunk)) {
      window.held = true // the reader is slow, not the registry
      from.pause()
    }
  }

  function attach(next: Body, bytesBefore: number): void {
    body = next
    skip = bytesBefore
    sinceOpen = 0
    window = { bytes: 0, held: false }
    next
      .on('data', (piece: Buffer) => take(next, piece))
      .on('end', () => ended(next, undefined))
      .on('error', (error) => ended(next, error))
      .on('close', () => ended(next, new Error('the connection was closed')))
  }

  const watch = setInterval(() => {
    const { bytes, held } = window
    const from = body
    window = { bytes: 0, held: from?.isPaused() === true }
    if (from && !held && bytes < rateMinBytes)
      ended(
        from,
        new RegistryError(
          `registry ${registry} sent ${bytes} bytes of ${what} in ${requestTimeoutMs} ms, which is too slow`,
          { registryCode: 'UNREACHABLE', retryable: true },
        ),
        true,
      )
  }, requestTimeoutMs)

  attach(first.body, firstSkip)
  return stream
}
