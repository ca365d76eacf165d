// The request as environment variables, in the form of OpenFaaS's classic watchdog (cgi_headers):
// Http_Method, Http_Path, Http_Query, Http_Host, Http_ContentLength and one Http_<Header_With_Underscores>
// per header. Pure. The name of every variable that comes from a header begins with "Http_".

import type { Invocation } from '../../contract/invocation.ts'

const HEADERS_MAX = 128
/** Libraries that ignore case take Http_Proxy for a proxy setting (httpoxy, CVE-2016-5385). */
const NOT_PASSED = new Set(['proxy'])
const VALUE_MAX_CHARS = 8 * 1024

/** "x-forwarded-for" → "X_Forwarded_For", as Go's canonical header form with underscores. */
function variableName(header: string): string {
  return header
    .split('-')
    .map((part) => part.charAt(0).toUpperCase() + part.slice(1).toLowerCase())
    .join('_')
}

/** The variables for INVOCATION. */
export function requestEnvironment(invocation: Invocation): Record<string, string> {
  const { request } = invocation
  const env: Record<string, string> = {
    Http_Method: request.method,
    Http_Path: request.path,
    Http_Query: request.query,
    Http_ContentLength: String(request.body.length),
    WHERRY_FUNCTION: invocation.function,
    WHERRY_CALL_ID: invocation.callId,
    WHERRY_ATTEMPT: String(invocation.attempt),
  }
  for (const [name, value] of Object.entries(request.headers).slice(0, HEADERS_MAX)) {
    if (/^[A-Za-z0-9-]{1,128}$/.test(name) && !NOT_PASSED.has(name.toLowerCase()))
      env[`Http_${variableName(name)}`] = value.replaceAll('\0', '').slice(0, VALUE_MAX_CHARS)
  }
  env['Http_Content_Length'] = String(request.body.length)
  env['Http_X_Call_Id'] = invocation.callId
  return env
}
