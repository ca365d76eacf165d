// A real registry (Debian's docker-registry, the CNCF distribution server) for one test, and a fake one (a
// plain node:http server) for behaviour that a real one never shows.

import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { hostPlatform } from '../../services/registry/platform.ts'

const REGISTRY_PROGRAM = '/usr/bin/docker-registry'
const LOG_CHARACTERS_MAX = 65_536

/** The reason to skip tests with a real registry, or false. */
export const noRegistry: string | false = existsSync(REGISTRY_PROGRAM)
  ? false
  : 'docker-registry is not installed'

/**
 * Start a registry with a temporary folder, which ends with T; MORE are lines of its configuration. Returns
 * "127.0.0.1:PORT".
 */
export async function startRegistry(
  t: Test,
  { http = '', more = [] }: { http?: string; more?: readonly string[] } = {},
): Promise<string> {
  // Not t.testdir, which is one folder for all registries of a test.
  const folder = await mkdtemp(join(tmpdir(), 'wherry-registry-'))
  const file = join(folder, 'registry.yml')
  await writeFile(
    file,
    [
      'version: 0.1',
      'log: { level: info, formatter: json }',
      `storage: { filesystem: { rootdirectory: ${join(folder, 'registry')} } }`,
      `http: { addr: "127.0.0.1:0"${http} }`,
      ...more,
      '',
    ].join('\n'),
  )
  const child = spawn('setpriv', ['--pdeathsig', 'SIGKILL', '--', REGISTRY_PROGRAM, 'serve', file], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => resolve())
  })
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
    await rm(folder, { recursive: true, force: true })
  })
  let log = ''
  return await new Promise((resolve, reject) => {
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-LOG_CHARACTERS_MAX)
      const address = /listening on (127\.0\.0\.1:\d+)/.exec(log)
      if (address) resolve(address[1]!)
    })
    child.once('error', reject)
    child.once('exit', (code) => reject(new Error(`docker-registry exited with ${code}: ${log}`)))
  })
}

/** Serve LISTENER on a free port until T ends.  Returns "127.0.0.1:PORT". */
export async function startFake(t: Test, listener: RequestListener): Promise<string> {
  const server = createServer(listener)
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  t.teardown(
    () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  )
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the fake has no port')
  return `127.0.0.1:${address.port}`
}

export interface FakeImage {
  readonly host: string
  readonly digest: string
  /** "GET /v2/a/blobs/sha256:…" in the order of arrival. */
  readonly requests: string[]
}

export interface FakeImageOptions {
  readonly layers: ReadonlyArray<{
    readonly bytes: Uint8Array
    readonly mediaType: string
    readonly diffId: string
  }>
  /** Changes the manifest before it is serialized. */
  readonly manifest?: (manifest: Record<string, unknown>) => Record<string, unknown>
  readonly contentType?: string
  /** May answer a request itself; returns true if it did. */
  readonly intercept?: (request: IncomingMessage, response: ServerResponse) => boolean
}

/** A fake registry that serves one image as "test/image:latest", with the faults that the test sets. */
export async function startFakeImage(t: Test, options: FakeImageOptions): Promise<FakeImage> {
  const { layers, manifest: change = (m) => m, contentType, intercept } = options
  const config = Buffer.from(
    JSON.stringify({
      os: 'linux',
      architecture: hostPlatform().architecture,
      config: {},
      rootfs: { type: 'layers', diff_ids: layers.map((l) => l.diffId) },
    }),
  )
  const describe = (bytes: Uint8Array, mediaType: string): object => ({
    mediaType,
    digest: digestOf(bytes),
    size: bytes.length,
  })
  const manifest = Buffer.from(
    JSON.stringify(
      change({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        config: describe(config, 'application/vnd.oci.image.config.v1+json'),
        layers: layers.map((l) => describe(l.bytes, l.mediaType)),
      }),
    ),
  )
  const blobs = new Map([config, ...layers.map((l) => l.bytes)].map((bytes) => [digestOf(bytes), bytes]))
  const requests: string[] = []
  const host = await startFake(t, (request, response) => {
    const path = request.url ?? ''
    requests.push(`${request.method} ${path}`)
    if (intercept?.(request, response)) return
    const isManifest =
      path === '/v2/test/image/manifests/latest' || path === `/v2/test/image/manifests/${digestOf(manifest)}`
    const bytes = isManifest ? manifest : blobs.get(path.slice(path.lastIndexOf('/') + 1))
    if (!bytes) {
      response
        .writeHead(404, { 'content-type': 'application/json' })
        .end('{"errors":[{"code":"BLOB_UNKNOWN"}]}')
      return
    }
    response
      .writeHead(200, {
        'content-length': bytes.length,
        'content-type': isManifest
          ? (contentType ?? 'application/vnd.oci.image.manifest.v1+json')
          : 'application/octet-stream',
        ...(isManifest && { 'docker-content-digest': digestOf(manifest) }),
      })
      .end(request.method === 'HEAD' ? undefined : bytes)
  })
  return { host, digest: digestOf(manifest), requests }
}
