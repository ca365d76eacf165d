// Job data in both directions: an Invocation as the data of a gateway's job, and the data of any job as a
// call. Anyone with access to Redis can write a job, so every field is checked and bounded here; behind this
// file job data is trusted.

import { encodeBody } from '../contract/call-end.ts'
import { InvalidRequest, TooLarge, type Fault } from '../contract/errors.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import { INLINE_MAX_BYTES, type Invocation, type InvocationRequest } from '../contract/invocation.ts'

/** The name of jobs whose data describes a whole HTTP-like request. */
export const REQUEST_JOB = 'request'
/** Version of the layout of a gateway's job data. */
const LAYOUT = 1
const CALL_ID_MAX = 200
/** The gateway's limit for all headers together, so that no call that it accepted is refused here. */
const LINE_MAX_CHARS = 16_384
const HEADERS_MAX = 100
const HEADER_NAME_MAX = 256

const CALL_ID = /^[A-Za-z0-9_.-]{1,200}$/
const GATEWAY_ID = /^[A-Za-z0-9-]{1,64}$/
const METHOD = /^[A-Za-z]{1,16}$/
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9a-z-]+$/
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/
const HAS_NUL = /\0/

/**
 * A job as BullMQ gives it; `dataText` is the JSON text in Redis, `data` the value that BullMQ parsed from
 * it.
 */
export interface RawJob {
  readonly function: string
  readonly id: string
  readonly name: unknown
  readonly dataText: string
  readonly data: unknown
  readonly timestampMs: number
}

/** A call without its request. */
export interface Envelope {
  readonly callId: string
  /** The gateway that waits for the reply. */
  readonly replyTo?: string
  readonly acceptedAtMs: number
  readonly expiresAtMs?: number
  /** The body is in the call's body key, not in `request`. */
  readonly bodyStored: boolean
}

export interface Call extends Envelope {
  readonly request: InvocationRequest
}

export interface GatewayJob {
  readonly data: Readonly<Record<string, unknown>>
  /** Stored in a key beside the job. */
  readonly storedBody?: Uint8Array
}

/** Whether TEXT may be a call id; BullMQ refuses ids that are integers. */
export function isCallId(text: string): boolean {
  return CALL_ID.test(text) && !/^\d+$/.test(text)
}

export function isGatewayId(text: unknown): text is string {
  return typeof text === 'string' && GATEWAY_ID.test(text)
}

/** The call id of a job that was not added by a gateway. */
export function callIdOfJob(name: string, jobId: string): string {
  return `${name}~${jobId.replace(/[^A-Za-z0-9_.-]/g, '_')}`.slice(0, CALL_ID_MAX)
}

/** INVOCATION as the data of a job; a body over INLINE_MAX_BYTES is kept apart. */
export function encodeJob(
  invocation: Invocation,
  facts: { acceptedAtMs: number; replyTo?: string; expiresAtMs?: number },
): GatewayJob {
  const { body, ...request } = invocation.request
  const stored = body.byteLength > INLINE_MAX_BYTES
  const inline = stored ? undefined : encodeBody(body)
  const data = {
    v: LAYOUT,
    ...facts,
    ...request,
    ...(inline === undefined
      ? { bodyStored: true }
      : inline.encoding === 'utf8'
        ? { body: inline.body }
        : { bodyBase64: inline.body }),
  }
  return stored ? { data, storedBody: body } : { data }
}

function parseHeaders(value: unknown, faults: Fault[]): Record<string, string> {
  if (value === undefined) return {}
  if (!isPlainObject(value)) {
    faults.push({ path: 'headers', problem: 'must be an object of strings' })
    return {}
  }
  const entries = Object.entries(value)
  if (entries.length > HEADERS_MAX)
    faults.push({ path: 'headers', problem: `has more than ${HEADERS_MAX} items` })
  const headers: Array<[string, string]> = []
  for (const [written, text] of entries.slice(0, HEADERS_MAX)) {
    const name = written.toLowerCase()
    if (name.length > HEADER_NAME_MAX || !HEADER_NAME.test(name))
      faults.push({ path: 'headers', problem: 'contains an invalid header name' })
    else if (typeof text !== 'string' || text.length > LINE_MAX_CHARS || HAS_NUL.test(text)) {
      faults.push({
        path: `headers.${name}`,
        problem: `must be a string of at most ${LINE_MAX_CHARS} characters without NUL`,
      })
    } else headers.push([name, text])
  }
  return Object.fromEntries(headers) // defines own properties, even "__proto__"
}

function parseBody(data: Record<string, unknown>, bodyMaxBytes: number, faults: Fault[]): Uint8Array {
  const { body, bodyBase64 } = data
  if (body !== undefined && bodyBase64 !== undefined)
    faults.push({ path: 'bodyBase64', problem: 'cannot be combined with body' })
  if (bodyBase64 !== undefined) {
    if (typeof bodyBase64 !== 'string' || !BASE64.test(bodyBase64)) {
      faults.push({ path: 'bodyBase64', problem: 'must be base64' })
      return new Uint8Array()
    }
    return checkSize(Buffer.from(bodyBase64, 'base64'), bodyMaxBytes)
  }
  if (body === undefined || body === null) return new Uint8Array()
  // As in a plain job, the body may be any JSON value.
  return checkSize(Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)), bodyMaxBytes)
}

function checkSize(body: Uint8Array, bodyMaxBytes: number): Uint8Array {
  if (body.byteLength > bodyMaxBytes)
    throw new TooLarge(`the body has ${body.byteLength} bytes; the limit is ${bodyMaxBytes}`)
  return body
}

function parseLine(
  data: Record<string, unknown>,
  field: 'path' | 'query',
  fallback: string,
  faults: Fault[],
): string {
  const value = data[field] ?? fallback
  if (typeof value === 'string' && value.length <= LINE_MAX_CHARS && !HAS_NUL.test(value)) return value
  faults.push({
    path: field,
    problem: `must be a string of at most ${LINE_MAX_CHARS} characters without NUL`,
  })
  return fallback
}

function parseRequest(data: Record<string, unknown>, bodyMaxBytes: number): InvocationRequest {
  const faults: Fault[] = []
  const method = data['method'] ?? 'POST'
  if (typeof method !== 'string' || !METHOD.test(method))
    faults.push({ path: 'method', problem: 'must be an HTTP method' })
  const path = parseLine(data, 'path', '/', faults)
  if (!path.startsWith('/')) faults.push({ path: 'path', problem: 'must begin with "/"' })
  const query = parseLine(data, 'query', '', faults).replace(/^\?/, '')
  const headers = parseHeaders(data['headers'], faults)
  const body = parseBody(data, bodyMaxBytes, faults)
  if (faults.length > 0) throw new InvalidRequest(faults)
  return { method: String(method).toUpperCase(), path, query, headers, body }
}

function parsePlain(job: RawJob, bodyMaxBytes: number): InvocationRequest {
  const isString = typeof job.data === 'string'
  const body = checkSize(Buffer.from(isString ? job.data : job.dataText), bodyMaxBytes)
  const contentType = isString ? 'text/plain; charset=utf-8' : 'application/json'
  return { method: 'POST', path: '/', query: '', headers: { 'content-type': contentType }, body }
}

/** JOB as a call.  Throws InvalidRequest that lists every wrong field, or TooLarge. */
export function parseJob(job: RawJob, bodyMaxBytes: number): Call {
  if (job.name !== REQUEST_JOB) return { ...parseEnvelope(job), request: parsePlain(job, bodyMaxBytes) }
  const { data } = job
  if (!isPlainObject(data))
    throw new InvalidRequest([{ path: '', problem: `the data of a "${REQUEST_JOB}" job must be an object` }])
  return { ...parseEnvelope(job, data), request: parseRequest(data, bodyMaxBytes) }
}

/** Whose call JOB is and which gateway waits for it, also when its request is invalid. */
export const envelopeOf = (job: RawJob): Envelope =>
  parseEnvelope(job, job.name === REQUEST_JOB && isPlainObject(job.data) ? job.data : undefined)

function parseEnvelope(job: RawJob, data?: Record<string, unknown>): Envelope {
  if (data?.['v'] !== LAYOUT || !isCallId(job.id))
    return { callId: callIdOfJob(job.function, job.id), acceptedAtMs: job.timestampMs, bodyStored: false }
  const { replyTo, acceptedAtMs, expiresAtMs, bodyStored } = data
  return {
    callId: job.id,
    ...(isGatewayId(replyTo) && { replyTo }),
    acceptedAtMs:
      typeof acceptedAtMs === 'number' && acceptedAtMs >= 0 && Number.isFinite(acceptedAtMs)
        ? acceptedAtMs
        : job.timestampMs,
    ...(typeof expiresAtMs === 'number' && { expiresAtMs }),
    bodyStored: bodyStored === true,
  }
}

/** Whether a gateway added this job; only then is a large result kept outside the job. */
export function isGatewayCall(call: Pick<Call, 'callId'>, jobId: string): boolean {
  return call.callId === jobId
}
