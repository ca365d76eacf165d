// The registry client against a fake server that does what a real registry never does: cut and slow
// responses, wrong ranges, loops, theft of credentials. Tests for known classes of vulnerabilities name the
// CVE.

import { randomBytes } from 'node:crypto'
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import type { Credentials } from '../../services/registry/credentials.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient, type RegistryClientOptions } from '../../services/registry/registry.ts'
import { parseRegistries } from '../../services/registry/registry-config.ts'
import { startFake } from '../helpers/registry.ts'

const BYTES = randomBytes(200_000)
const BLOB = { mediaType: 'application/octet-stream', digest: digestOf(BYTES), size: BYTES.length }
const PASSWORD = 's3cret-Password'
const login: Credentials = {
  find: async () => ({ credential: { kind: 'password', username: 'me', password: PASSWORD }, problems: [] }),
}

function clientFor(t: Test, options: RegistryClientOptions = {}) {
  const client = createRegistryClient({ requestTimeoutMs: 60_000, ...options })
  t.teardown(() => client.close())
  return client
}

/** A fake registry that answers with LISTENER, its client, and the requests it got. */
async function setup(t: Test, listener: RequestListener, options: RegistryClientOptions = {}) {
  const requests: IncomingMessage[] = []
  const host = await startFake(t, (request, response) => {
    requests.push(request)
    listener(request, response)
  })
  const client = clientFor(t, options)
  const ref = parseReference(`${host}/a`)
  return {
    host,
    client,
    requests,
    ref,
    read: async (blob = BLOB) => await buffer(await client.blob(ref, blob)),
  }
}

/**
 * A server that passes its connections to TAKE until T ends.  Returns "127.0.0.1:PORT".
 */
async function startRaw(t: Test, take: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}))
    take(socket)
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  t.teardown(
    () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  )
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** "bytes=5-" → 5 */
const offsetOf = ({ headers }: IncomingMessage): number =>
  Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? 0)

/**
 * Send BYTES from START, or from the requested offset, up to STOP; then cut the connection if bytes are left.
 */
function sendPart(
  request: IncomingMessage,
  response: ServerResponse,
  stop: number,
  status = offsetOf(request) > 0 ? 206 : 200,
): void {
  const start = status === 206 ? offsetOf(request) : 0
  const range =
    status === 206 ? { 'content-range': `bytes ${start}-${BYTES.length - 1}/${BYTES.length}` } : {}
  response.writeHead(status, { 'content-length': BYTES.length - start, ...range })
  if (stop >= BYTES.length) response.end(BYTES.subarray(start))
  else
    response.write(BYTES.subarray(start, stop), () => {
      request.socket.destroySoon()
    })
}

t.test('a blob whose connection is cut', async (t) => {
  t.test('at every tenth of it arrives whole, by Range', async (t) => {
    const { read, requests } = await setup(t, (request, response) =>
      sendPart(request, response, offsetOf(request) + BYTES.length / 10),
    )
    t.ok((await read()).equals(BYTES))
    t.equal(requests.length, 10)
    t.ok(requests.slice(1).every((request) => offsetOf(request) > 0))
  })

  t.test('at any single place arrives whole', async (t) => {
    for (const at of [1, 2, 1000, 65_535, 65_536, 65_537, BYTES.length - 1]) {
      const { read, requests } = await setup(t, (request, response) =>
        sendPart(request, response, offsetOf(request) > 0 ? BYTES.length : at),
      )
      t.ok((await read()).equals(BYTES), `cut after ${at}`)
      t.equal(requests.length, 2)
    }
  })

  t.test('arrives whole from a registry that ignores Range and sends all of it again', async (t) => {
    let stop = 0
    const { read } = await setup(t, (request, response) =>
      sendPart(request, response, (stop += BYTES.length / 4), 200),
    )
    t.ok((await read()).equals(BYTES))
  })

  t.test('arrives whole from a registry that answers Range with 416', async (t) => {
    const { read, requests } = await setup(t, (request, response) => {
      if (offsetOf(request) > 0) response.writeHead(416, { 'content-range': `bytes */${BYTES.length}` }).end()
      else sendPart(request, response, requests.length === 1 ? 1000 : BYTES.length)
    })
    t.ok((await read()).equals(BYTES))
    t.same(requests.map(offsetOf), [0, 1000, 0])
  })

  t.test('fails when a new connection brings nothing', async (t) => {
    const { read, requests } = await setup(t, (request, response) => sendPart(request, response, 1000))
    await t.rejects(read(), { registryCode: 'UNREACHABLE', retryable: true, message: /^registry / })
    t.equal(requests.length, 2)
  })

  t.test('fails after too many connections that bring one byte each', async (t) => {
    const { read, requests } = await setup(t, (request, response) =>
      sendPart(request, response, offsetOf(request) + 1),
    )
    await t.rejects(read(), { code: 'ERR_REGISTRY', registryCode: 'UNREACHABLE' })
    t.equal(requests.length, 17)
  })

  t.test('continues from the registry itself when its mirror dies', async (t) => {
    const mirror = await setup(t, (request, response) =>
      offsetOf(request) > 0 ? request.socket.destroy() : sendPart(request, response, 1000),
    )
    const origin = await startFake(t, (request, response) => sendPart(request, response, BYTES.length))
    const client = clientFor(t, {
      registries: parseRegistries({ registries: { [origin]: { mirrors: [mirror.host] } } }),
    })
    t.ok((await buffer(await client.blob(parseReference(`${origin}/a`), BLOB))).equals(BYTES))
  })

  const wrong: ReadonlyArray<readonly [string, Record<string, string>]> = [
    ['of another place', { 'content-range': `bytes 0-${BYTES.length - 1}/${BYTES.length}` }],
    ['one byte early', { 'content-range': `bytes 999-${BYTES.length - 1}/${BYTES.length}` }],
    ['that stops early', { 'content-range': `bytes 1000-${BYTES.length - 2}/${BYTES.length}` }],
    ['of a longer blob', { 'content-range': `bytes 1000-${BYTES.length - 1}/${BYTES.length + 1}` }],
    ['without Content-Range', {}],
    ['in many parts', { 'content-type': 'multipart/byteranges; boundary=x' }],
    [
      'of another length',
      { 'content-range': `bytes 1000-${BYTES.length - 1}/${BYTES.length}`, 'content-length': '7' },
    ],
  ]
  for (const [name, headers] of wrong) {
    t.test(`is refused when the rest is a range ${name}`, async (t) => {
      const { read } = await setup(t, (request, response) => {
        if (offsetOf(request) === 0) sendPart(request, response, 1000)
        else
          response
            .writeHead(206, headers)
            .end(headers['content-length'] === '7' ? 'seven b' : BYTES.subarray(1000))
      })
      await t.rejects(read(), { code: 'ERR_DIGEST_MISMATCH' })
    })
  }

  t.test('ends with the signal’s reason when it is aborted', async (t) => {
    const stop = new AbortController()
    const { client, ref } = await setup(t, (request, response) => {
      response.writeHead(200, { 'content-length': BYTES.length }).write(BYTES.subarray(0, 1000))
    })
    const stream = await client.blob(ref, BLOB, stop.signal)
    stream.once('data', () => stop.abort(new Error('not any more')))
    await t.rejects(buffer(stream), { message: 'not any more' })
  })
})

t.test('a registry that is slow on purpose', async (t) => {
  const trickle = async (response: ServerResponse): Promise<void> => {
    for (let i = 0; !response.destroyed; i++) {
      response.write('x')
      await sleep(10)
    }
  }

  t.test('with a blob, a byte at a time, gets an error', async (t) => {
    const { read } = await setup(
      t,
      (_request, response) => {
        response.writeHead(200, { 'content-length': BYTES.length })
        void trickle(response)
      },
      { requestTimeoutMs: 1500 },
    )
    await t.rejects(read(), {
      registryCode: 'UNREACHABLE',
      message: /sent \d+ bytes of blob .* in 1500 ms, which is too slow/,
    })
  })

  for (const [name, start, more] of [
    ['its headers, a byte at a time,', 'HTTP/1.1 200 OK\r\nx: ', 'a'],
    ['nothing but early hints', '', 'HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n'],
  ] as const)
    t.test(`with ${name} gets an error`, async (t) => {
      const host = await startRaw(t, (socket) => {
        socket.write(start)
        const timer = setInterval(() => socket.write(more), 20)
        socket.once('close', () => clearInterval(timer))
      })
      const client = clientFor(t, { requestTimeoutMs: 300 })
      await t.rejects(client.resolve(parseReference(`${host}/a`)), {
        code: 'ERR_REGISTRY',
        registryCode: 'UNREACHABLE',
      })
    })

  t.test('is not confused with a slow reader', async (t) => {
    const large = Buffer.alloc(8 * 1024 ** 2, BYTES) // more than the buffers hold
    const { client, ref, requests } = await setup(
      t,
      (_request, response) => {
        response.writeHead(200, { 'content-length': large.length }).end(large)
      },
      { requestTimeoutMs: 1000 },
    )
    const stream = await client.blob(ref, { ...BLOB, digest: digestOf(large), size: large.length })
    await sleep(2500)
    t.ok((await buffer(stream)).equals(large))
    t.equal(requests.length, 1, 'it was not given up and asked again')
  })
})

t.test('a registry that does not answer does not delay an aborted caller', async (t) => {
  /** Half of the connect timeout of 10 s, after which a connection ends by itself. */
  const LOOKS_MAX = 500
  for (const [name, http] of [
    ['before there is a connection', false],
    ['before there is an answer', true],
  ] as const)
    t.test(name, async (t) => {
      const reached = Promise.withResolvers<Socket>()
      const host = await startRaw(t, (socket) => socket.once('data', () => reached.resolve(socket)))
      const client = clientFor(t, {
        requestTimeoutMs: 60_000,
        registries: parseRegistries({ registries: { [host]: { http } } }),
      })
      const giveUp = new AbortController()
      const asked = client
        .resolve(parseReference(`${host}/a`), giveUp.signal)
        .catch((error: Error) => error.message)
      const socket = await reached.promise
      giveUp.abort(new Error('enough'))
      t.equal(
        await Promise.race([
          asked,
          new Promise((resolve) => {
            setImmediate(resolve, 'the call still waits')
          }),
        ]),
        'enough',
      )
      await client.close()
      for (let looks = 0; looks < LOOKS_MAX && !socket.closed; looks++) await sleep(10)
      t.ok(socket.closed, 'its connection does not keep the process')
      await t.rejects(
        client.resolve(parseReference(`${host}/a`)),
        { code: 'ERR_STOPPING' },
        'a closed client makes no new connections',
      )
    })
})

t.test('a manifest with a generic Content-Type, or none, is recognized by its content', async (t) => {
  const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
  const document = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: BLOB.digest, size: 1 },
      layers: [],
    }),
  )
  for (const type of ['application/json; charset=utf-8', 'application/octet-stream', 'text/plain', '']) {
    const { client, ref } = await setup(t, (request, response) => {
      response.writeHead(200, {
        ...(type !== '' && { 'content-type': type }),
        'content-length': document.length,
        'docker-content-digest': digestOf(document),
      })
      response.end(request.method === 'HEAD' ? undefined : document)
    })
    t.same(
      await client.resolve(ref),
      { digest: digestOf(document), mediaType: MANIFEST, size: document.length },
      type,
    )
  }
  const page = await setup(t, (request, response) => {
    response
      .writeHead(200, { 'content-type': 'text/html' })
      .end(request.method === 'HEAD' ? undefined : '<html>')
  })
  await t.rejects(page.client.resolve(page.ref), {
    code: 'ERR_UNSUPPORTED_MEDIA_TYPE',
    message: /"text\/html"/,
  })
})

t.test('a registry in trouble', async (t) => {
  t.test('sends Retry-After and is retried then', async (t) => {
    const answers = [429, 503, 500, 200]
    const { client, ref, requests } = await setup(t, (_request, response) => {
      const status = answers.shift() ?? 200
      response
        .writeHead(status, {
          'retry-after': '0',
          'docker-content-digest': BLOB.digest,
          'content-length': 5,
          'content-type': 'application/vnd.oci.image.manifest.v1+json',
        })
        .end()
    })
    t.match(await client.resolve(ref), { digest: BLOB.digest })
    t.equal(requests.length, 4)
  })

  t.test('is not retried for ever, and not at all when Retry-After is too far away', async (t) => {
    const always = await setup(t, (_request, response) => {
      response.writeHead(503, { 'retry-after': '0' }).end()
    })
    await t.rejects(always.client.manifest(always.ref, BLOB.digest), {
      registryCode: 'UNAVAILABLE',
      retryable: true,
      message: /answered 503/,
    })
    t.equal(always.requests.length, 4)
    const late = await setup(t, (_request, response) => {
      response.writeHead(429, { 'retry-after': new Date(Date.now() + 3_600_000).toUTCString() }).end()
    })
    await t.rejects(late.client.manifest(late.ref, BLOB.digest), {
      registryCode: 'TOOMANYREQUESTS',
      retryable: true,
      message: /rate limit/,
    })
    t.equal(late.requests.length, 1)
  })

  t.test('that expects https but gets plain http is reported with a hint', async (t) => {
    const { client, ref } = await setup(t, (_request, response) => {
      response.writeHead(400).end('Client sent an HTTP request to an HTTPS server.\n')
    })
    await t.rejects(client.resolve(ref), {
      registryCode: 'UNKNOWN',
      message:
        /answered 400 .*; the request used plain http: if the registry uses https, set "http": false in/,
    })
  })

  t.test('that keeps answering 429 is an error: the client does not fail open', async (t) => {
    const { client, ref } = await setup(t, (_request, response) => {
      response.writeHead(429, { 'retry-after': '999', 'docker-content-digest': BLOB.digest }).end()
    })
    await t.rejects(client.resolve(ref), { code: 'ERR_REGISTRY', registryCode: 'TOOMANYREQUESTS' })
  })

  t.test('that sends two lengths for one body is refused (CVE-2026-1525)', async (t) => {
    const server = createServer((socket) => {
      socket
        .on('error', () => {})
        .once('data', () =>
          socket.end('HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 200000\r\n\r\nhello'),
        )
    })
    await new Promise<void>((resolve) => {
      server.listen(0, '127.0.0.1', resolve)
    })
    t.teardown(
      () =>
        new Promise<void>((resolve) => {
          server.close(() => resolve())
        }),
    )
    const client = clientFor(t)
    await t.rejects(
      client.blob(parseReference(`127.0.0.1:${(server.address() as AddressInfo).port}/a`), BLOB),
      { code: 'ERR_REGISTRY' },
    )
  })

  t.test('that compresses a body many times is not decompressed (CVE-2026-22036)', async (t) => {
    const { read } = await setup(t, (_request, response) => {
      response
        .writeHead(200, {
          'content-length': BYTES.length,
          'content-encoding': Array.from({ length: 1000 }, () => 'gzip').join(', '),
        })
        .end(BYTES)
    })
    t.ok((await read()).equals(BYTES), 'the bytes are taken as they come')
  })
})

t.test('credentials', async (t) => {
  const authorizationOf = (request: IncomingMessage | undefined): string | undefined =>
    request?.headers.authorization
  const basic = `Basic ${Buffer.from(`me:${PASSWORD}`).toString('base64')}`
  const askBasic = (response: ServerResponse): void => {
    response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end()
  }

  t.test('are not sent before a challenge', async (t) => {
    const { client, ref, requests } = await setup(
      t,
      (_request, response) => {
        response.writeHead(404).end()
      },
      { credentials: login },
    )
    await t.rejects(client.manifest(ref, BLOB.digest), {
      code: 'ERR_REGISTRY',
      registryCode: 'MANIFEST_UNKNOWN',
    })
    t.same(requests.map(authorizationOf), [undefined])
  })

  t.test(
    'are exchanged for a token once, also when a refusal arrives after another request got the token',
    async (t) => {
      const late = Promise.withResolvers<void>()
      const tags = new Set<string>()
      const { client, host, requests } = await setup(t, (request, response) => {
        const refuse = (): void => {
          response
            .writeHead(401, { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token"` })
            .end()
        }
        if (request.url?.startsWith('/token')) response.end('{"token":"t","expires_in":300}')
        else if (authorizationOf(request) !== undefined) response.writeHead(404).end()
        else {
          tags.add(request.url!)
          if (tags.size === 1) refuse()
          else void late.promise.then(refuse)
        }
      })
      const asked = ['one', 'two'].map((tag) =>
        t.rejects(client.resolve(parseReference(`${host}/a:${tag}`)), {
          code: 'ERR_REGISTRY',
          registryCode: 'MANIFEST_UNKNOWN',
        }),
      )
      await Promise.race(asked)
      late.resolve()
      await Promise.all(asked)
      t.equal(requests.filter(({ url }) => url?.startsWith('/token')).length, 1)
    },
  )

  t.test('are dropped at a redirect to another origin, and not restored by a redirect back', async (t) => {
    const away = await startFake(t, (request, response) => {
      seen.push(authorizationOf(request))
      response.writeHead(307, { location: `http://${host}/back` }).end()
    })
    const seen: Array<string | undefined> = []
    const { host, requests, read } = await setup(
      t,
      (request, response) => {
        if (request.url === '/back') response.writeHead(200, { 'content-length': BYTES.length }).end(BYTES)
        else if (authorizationOf(request) === undefined) askBasic(response)
        else response.writeHead(307, { location: `http://${away}/blob` }).end()
      },
      { credentials: login },
    )
    t.ok((await read()).equals(BYTES))
    t.same(seen, [undefined])
    t.same(requests.map(authorizationOf), [undefined, basic, undefined])
  })

  t.test('are not sent to another origin whose challenge follows a redirect', async (t) => {
    const seen: Array<string | undefined> = []
    const thief = await startFake(t, (request, response) => {
      seen.push(authorizationOf(request))
      askBasic(response)
    })
    const { read } = await setup(
      t,
      (_request, response) => {
        response.writeHead(302, { location: `http://${thief}/` }).end()
      },
      { credentials: login },
    )
    await t.rejects(read(), { code: 'ERR_REGISTRY', registryCode: 'UNAUTHORIZED' })
    t.same(seen, [undefined])
  })

  t.test('are not sent on when a token service redirects', async (t) => {
    const seen: Array<string | undefined> = []
    const thief = await startFake(t, (request, response) => {
      seen.push(authorizationOf(request))
      response.writeHead(200).end('{"token":"t"}')
    })
    const { host, client, ref, requests } = await setup(
      t,
      (request, response) => {
        if (request.url?.startsWith('/token')) response.writeHead(302, { location: `http://${thief}/` }).end()
        else response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${host}/token"` }).end()
      },
      { credentials: login },
    )
    await t.rejects(client.manifest(ref, BLOB.digest), { code: 'ERR_REGISTRY', registryCode: 'UNAUTHORIZED' })
    t.same(seen, [undefined])
    t.equal(authorizationOf(requests.find((request) => request.url?.startsWith('/token'))), basic)
  })

  for (const [name, realm, message] of [
    [
      'on another port of this machine over http',
      'http://127.0.0.1:1/token',
      /another domain, which does not get the login/,
    ],
    [
      'in another domain over https',
      'https://thief.example.com/token',
      /another domain, which does not get the login/,
    ],
    [
      'a service of the internal network (CVE-2026-12566)',
      'http://169.254.169.254/latest',
      /neither https nor on its own host/,
    ],
    ['a URL with a password', 'https://a:b@127.0.0.1/', /neither https nor on its own host/],
    ['missing', '', /names no realm/],
  ] as const) {
    t.test(`are not sent to a realm that is ${name}`, async (t) => {
      const { client, ref } = await setup(
        t,
        (_request, response) => {
          response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}"` }).end()
        },
        { credentials: login },
      )
      await t.rejects(client.manifest(ref, BLOB.digest), {
        code: 'ERR_REGISTRY',
        registryCode: 'UNAUTHORIZED',
        message,
      })
    })
  }

  t.test('that are refused again and again are not sent in a loop', async (t) => {
    const bearer = await setup(
      t,
      (request, response) => {
        if (request.url?.startsWith('/token')) response.writeHead(200).end('{"token":"t","expires_in":300}')
        else
          response
            .writeHead(401, { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token"` })
            .end()
      },
      { credentials: login },
    )
    await t.rejects(bearer.client.manifest(bearer.ref, BLOB.digest), {
      code: 'ERR_REGISTRY',
      registryCode: 'UNAUTHORIZED',
    })
    t.equal(bearer.requests.length, 3)
    const password = await setup(t, (_request, response) => askBasic(response), { credentials: login })
    await t.rejects(password.client.manifest(password.ref, BLOB.digest), {
      registryCode: 'UNAUTHORIZED',
      message: /refuses the login/,
    })
    t.equal(password.requests.length, 2)
  })

  t.test('never appear in a message, whatever the registry quotes', async (t) => {
    const quoting = async (
      quote: (request: IncomingMessage) => string,
      challenge: (host: string) => string,
    ): Promise<string> => {
      const { client, ref } = await setup(
        t,
        (request, response) => {
          if (request.url?.startsWith('/token'))
            response.writeHead(200).end('{"token":"secret-token-1","expires_in":300}')
          else if (authorizationOf(request) === undefined)
            response.writeHead(401, { 'www-authenticate': challenge(request.headers.host!) }).end()
          else
            response
              .writeHead(400)
              .end(JSON.stringify({ errors: [{ code: 'ODD', message: quote(request) }] }))
        },
        { credentials: login },
      )
      return await client.manifest(ref, BLOB.digest).then(
        () => 'it was taken',
        (error: Error) => `${error.message} ${String(error.cause)}`,
      )
    }
    const bearer = await quoting(
      (request) => `bad header ${request.headers.authorization}`,
      (host) => `Bearer realm="http://${host}/token"`,
    )
    t.match(bearer, /ODD: bad header Bearer \*\*\*/)
    t.notMatch(bearer, 'secret-token-1')
    t.match(
      await quoting(
        (request) => `bad ${request.headers.authorization} for password ${PASSWORD}`,
        () => 'Basic realm="x"',
      ),
      /ODD: bad Basic \*\*\* for password \*\*\*/,
    )
    const { client, ref } = await setup(t, (request, response) => {
      if (request.url?.startsWith('/token')) response.writeHead(200).end(`{"token": ${PASSWORD}`)
      else
        response
          .writeHead(401, { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token"` })
          .end()
    })
    const error = await client.manifest(ref, BLOB.digest).then(
      () => undefined,
      (error: Error) => error,
    )
    t.match(error, { registryCode: 'UNAUTHORIZED', message: /did not answer with JSON/ })
    t.equal(error?.cause, undefined)
  })
})

t.test('redirects in a circle, to another scheme or to a URL with a password are refused', async (t) => {
  for (const [location, message] of [
    ['/v2/a/manifests/latest', /more than 5 times/],
    ['ftp://x/', /to "ftp:"/],
    ['file:///etc/passwd', /to "file:"/],
    ['http://u:p@x/', /with a password/],
    ['http://[', /to no address/],
  ] as const) {
    const { client, ref, requests } = await setup(t, (_request, response) => {
      response.writeHead(301, { location }).end()
    })
    await t.rejects(client.resolve(ref), { registryCode: 'REDIRECT', retryable: false, message })
    t.ok(requests.length <= 6)
  }
})
