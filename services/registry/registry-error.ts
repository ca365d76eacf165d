// A registry's error response as one RegistryError with the registry's own code (distribution-spec, "Error
// Codes").  Everything in the body comes from a stranger: it is bounded, made printable, and stripped of the
// credentials that some registries quote back.

import { RegistryError } from '../contract/errors.ts'
import { readBounded } from './bounded-body.ts'
import type { Reference } from './reference.ts'
import type { RegistryResponse } from './transport.ts'

const ERROR_BYTES_MAX = 64 * 1024
const ERROR_TIMEOUT_MS = 5000

const CODE_BY_STATUS: Readonly<Record<number, string>> = {
  401: 'UNAUTHORIZED',
  403: 'DENIED',
  404: 'MANIFEST_UNKNOWN',
  405: 'UNSUPPORTED',
  429: 'TOOMANYREQUESTS',
}

/** The first error of a registry's error document (distribution-spec, "Error Codes"), if it is one. */
function parseErrors(
  bytes: Uint8Array,
  authorization: string | undefined,
): { code?: string; detail?: string } {
  try {
    const first: { code?: unknown; message?: unknown } | undefined = JSON.parse(
      Buffer.from(bytes).toString('utf8'),
    )?.errors?.[0]
    return {
      ...(typeof first?.code === 'string' && /^[A-Z0-9_]{1,64}$/.test(first.code) && { code: first.code }),
      ...(typeof first?.message === 'string' && {
        detail: withoutSecrets(first.message, authorization)
          .replace(/[^\x20-\x7e]/g, '?')
          .slice(0, 200),
      }),
    }
  } catch {
    return {} // a proxy's HTML page: only the status is known
  }
}

function problemText(
  ref: Reference,
  code: string,
  detail: string | undefined,
  { status, authorization, url }: RegistryResponse,
): string {
  const image = `${ref.repository}${ref.digest === undefined ? `:${ref.tag}` : `@${ref.digest}`}`
  switch (code) {
    case 'MANIFEST_UNKNOWN':
    case 'NAME_UNKNOWN':
    case 'NOT_FOUND':
      return `registry ${ref.registry} does not have image ${image} (${code}); push it first or check the name`
    case 'BLOB_UNKNOWN':
      return `registry ${ref.registry} lost a part of image ${image} (${code}); push it again`
    case 'UNAUTHORIZED':
    case 'DENIED':
      return authorization?.startsWith('Basic ')
        ? `registry ${ref.registry} refuses the login for ${image} (${code}); check user and password, then run wherry login ${ref.registry}`
        : `registry ${ref.registry} refuses access to ${image} (${code}); it may not exist, or be private (run wherry login ${ref.registry})`
    case 'TOOMANYREQUESTS':
      return `registry ${ref.registry} reached its rate limit (${code}); try again later`
    default: {
      // https servers answer 400 to plain http; without this hint the cause is hard to find.
      const hint =
        code === 'UNKNOWN' && status === 400 && url.protocol === 'http:'
          ? '; the request used plain http: if the registry uses https, set "http": false in the file of registries'
          : ''
      return `registry ${ref.registry} answered ${status} for ${image} (${code}${detail === undefined ? '' : `: ${detail}`})${hint}`
    }
  }
}

/** TEXT from a registry, without the AUTHORIZATION that it may quote. */
function withoutSecrets(text: string, authorization: string | undefined): string {
  const value = authorization?.slice(authorization.indexOf(' ') + 1) ?? ''
  const password = authorization?.startsWith('Basic ')
    ? Buffer.from(value, 'base64')
        .toString('utf8')
        .replace(/^[^:]*:/, '')
    : ''
  return [value, password]
    .filter((secret) => secret !== '')
    .reduce((rest, secret) => rest.replaceAll(secret, '***'), text)
}

/** The error body, or nothing when it cannot be read: then the status must do. */
async function readErrorBody(ref: Reference, response: RegistryResponse): Promise<Uint8Array> {
  try {
    return await readBounded(
      response.body,
      ERROR_BYTES_MAX,
      'an error message',
      ref.registry,
      ERROR_TIMEOUT_MS,
    )
  } catch {
    return Buffer.alloc(0)
  }
}

/** The error RESPONSE as RegistryError with the registry's own code.  Reads the body. */
export async function registryError(ref: Reference, response: RegistryResponse): Promise<RegistryError> {
  const { code, detail } = parseErrors(await readErrorBody(ref, response), response.authorization)
  const registryCode =
    code ?? CODE_BY_STATUS[response.status] ?? (response.status >= 500 ? 'UNAVAILABLE' : 'UNKNOWN')
  return new RegistryError(problemText(ref, registryCode, detail, response), {
    registryCode,
    retryable: response.status === 429 || response.status >= 500,
  })
}
