// Downloads a file by http or https, for ADD in builds. It uses the transport of registries and so its rules:
// checked redirects, never from https to http, bounded waits and retries.

import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { digestOfHex } from '../contract/digest.ts'
import { ContentError, RegistryError } from '../contract/errors.ts'
import { createConnections, type ConnectionDeps } from './connections.ts'
import { readProxyRule } from './proxy.ts'
import { readPem } from './registry-config.ts'
import { createTransport, discardBody, unreachable } from './transport.ts'

const FILE_BYTES_MAX = 4 * 1024 ** 3
const REQUEST_TIMEOUT_MS = 30_000

type Network = Pick<ConnectionDeps, 'proxyOf' | 'roots'>

export interface DownloadRequest {
  readonly url: string
  /** Must not exist yet. */
  readonly path: string
  /** The "sha256:…" that the file must have. */
  readonly checksum: string | undefined
  readonly signal: AbortSignal
}

export type Download = (request: DownloadRequest) => Promise<void>

/** A download that uses the proxies and CAs named in ENV, the process's environment. */
export function createDownload(env: Readonly<Record<string, string | undefined>>): Download {
  const rootsFile = env['SSL_CERT_FILE'] || undefined
  const network = {
    proxyOf: readProxyRule(env),
    ...(rootsFile !== undefined && { roots: readPem('SSL_CERT_FILE', rootsFile) }),
  }
  return (request) => downloadFile(request, network)
}

/** ERROR of the transport, which speaks of registries, reworded for a file at URL. */
function downloadError(url: string, error: unknown): unknown {
  if (!(error instanceof RegistryError)) return error
  return new RegistryError(`${url} could not be downloaded: ${error.message.replace(/^registry /, '')}`, {
    registryCode: error.registryCode,
    retryable: error.retryable,
    cause: error,
  })
}

/**
 * Download URL into the new file PATH, mode 600, with the server's Last-Modified as its time, or 1970. Throws
 * RegistryError when that fails, ContentError when the file is too large or has another checksum.
 */
async function downloadFile(
  { url, path, checksum, signal }: DownloadRequest,
  network: Network,
): Promise<void> {
  const transport = createTransport({
    requestTimeoutMs: REQUEST_TIMEOUT_MS,
    connections: createConnections({ ...network, requestTimeoutMs: REQUEST_TIMEOUT_MS }),
  })
  const target = new URL(url)
  const { host } = target
  try {
    const response = await transport
      .request({ registry: host, url: target, method: 'GET', headers: {}, signal })
      .catch((error: unknown) => {
        throw downloadError(url, error)
      })
    if (response.status !== 200) {
      await discardBody(response)
      throw new RegistryError(`${url} could not be downloaded: ${host} answered ${response.status}`, {
        registryCode: 'UNKNOWN',
        retryable: response.status >= 500,
      })
    }
    const hash = createHash('sha256')
    let sizeBytes = 0
    const file = await open(path, 'wx', 0o600)
    try {
      for await (const piece of response.body as AsyncIterable<Buffer>) {
        sizeBytes += piece.length
        if (sizeBytes > FILE_BYTES_MAX)
          throw new ContentError(`${url} is larger than ${FILE_BYTES_MAX} bytes`, 'ERR_CONTENT_LIMIT')
        hash.update(piece)
        await file.writeFile(piece)
      }
      const changedAt = new Date(Date.parse(response.header('last-modified') ?? '') || 0)
      await file.utimes(changedAt, changedAt)
    } catch (error) {
      if (signal.aborted) throw signal.reason
      throw downloadError(url, unreachable(host, error))
    } finally {
      await file.close()
    }
    const digest = digestOfHex(hash.digest('hex'))
    if (checksum !== undefined && digest !== checksum)
      throw new ContentError(
        `${url} should have the checksum ${checksum}, but has ${digest}`,
        'ERR_DIGEST_MISMATCH',
      )
  } finally {
    await transport.close()
  }
}
