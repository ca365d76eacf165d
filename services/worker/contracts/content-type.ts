// The content type of a function's stdout. stdout carries no headers, so this follows OpenFaaS's classic
// watchdog: the function's variable `content_type` wins, else the request's type is mirrored. Where mirroring
// makes no sense (forms, no type), UTF-8 output is plain text and anything else an octet stream.

import { isUtf8 } from 'node:buffer'

const NOT_MIRRORED = /^(?:multipart\/|application\/x-www-form-urlencoded)/i
const PRINTABLE = /^[\x20-\x7e]{1,256}$/

/** The type of BODY, with which a function with ENVVARS responds to a request of type REQUESTTYPE. */
export function responseContentType(
  envVars: Readonly<Record<string, string>>,
  requestType: string | undefined,
  body: Uint8Array,
): string {
  const chosen =
    envVars['content_type'] ??
    (requestType !== undefined && !NOT_MIRRORED.test(requestType) ? requestType : undefined)
  if (chosen !== undefined && PRINTABLE.test(chosen)) return chosen
  return isUtf8(body) ? 'text/plain; charset=utf-8' : 'application/octet-stream'
}
