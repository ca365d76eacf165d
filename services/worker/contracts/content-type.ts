// Which content type a function's stdout has.  stdout carries no headers, so this follows OpenFaaS's
// classic watchdog: the variable `content_type` of the function if it has one, else the request's own
// type mirrored; where mirroring makes no sense (forms, none given), text if it is text.

import { isUtf8 } from 'node:buffer'

const NOT_MIRRORED = /^(?:multipart\/|application\/x-www-form-urlencoded)/i
const PRINTABLE = /^[\x20-\x7e]{1,256}$/

/** The type of BODY, the answer to a request of type REQUESTTYPE by a function with ENVVARS. */
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
