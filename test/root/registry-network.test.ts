// The registry client and the network between it and a registry: proxies, redirects from https, foreign
// names.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { join } from 'node:path'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { openRegistryClient } from '../../services/registry/open-registry.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { gzipLayer } from '../helpers/layer.ts'
import { startProxy } from '../helpers/proxy.ts'
import { makeCertificate, tlsPart } from '../helpers/registry-auth.ts'
import { noRegistry, startFake, startRegistry } from '../helpers/registry.ts'
import { shortFolder } from '../helpers/wherry.ts'

const skip = noRegistry || (existsSync('/usr/bin/openssl') ? false : 'openssl is not installed')

function clientFor(t: Test, registries: object, env: Record<string, string> = {}) {
  const dataDir = shortFolder(t)
  const registriesFile = join(dataDir, 'registries.json')
  writeFileSync(registriesFile, JSON.stringify({ registries }))
  const client = openRegistryClient({ env, dataDir, registriesFile })
  t.teardown(() => client.close())
  return client
}

t.test('a proxy', { skip }, async (t) => {
  const NAME = 'registry.example:5000'
  const folder = shortFolder(t)
  const push = (client: ReturnType<typeof clientFor>) =>
    pushImage({
      registry: client,
      reference: parseReference(`${NAME}/a`),
      config: {},
      layers: [gzipLayer([{ name: 'a', data: 'a' }])],
    })

  t.test('is used for http, with the proxy’s password', async (t) => {
    const proxy = await startProxy(t, await startRegistry(t))
    const client = clientFor(t, { [NAME]: { http: true } }, { HTTP_PROXY: `http://user:pass@${proxy.host}` })
    const digest = await push(client)
    t.match(await client.resolve(parseReference(`${NAME}/a`)), { digest })
    t.ok(
      proxy.requests.every((request) => request.endsWith('Basic dXNlcjpwYXNz')),
      'every request has it',
    )
    t.match(proxy.requests[0], `HEAD http://${NAME}/v2/a/blobs/sha256:`)
  })

  t.test('is used for https by CONNECT and cannot read the traffic', async (t) => {
    const tls = makeCertificate(folder, 'registry.example')
    const host = await startRegistry(t, { http: tlsPart(tls) })
    const proxy = await startProxy(t, host)
    // The certificate is for 127.0.0.1 and must not be accepted for another name.
    const strict = clientFor(t, { [NAME]: { ca: tls.cert } }, { https_proxy: proxy.host })
    await t.rejects(strict.resolve(parseReference(`${NAME}/a`)), {
      registryCode: 'UNREACHABLE',
      message: /altnames/i,
    })
    const client = clientFor(t, { [NAME]: { insecure: true } }, { https_proxy: proxy.host })
    const digest = await push(client)
    t.match(await client.resolve(parseReference(`${NAME}/a`)), { digest })
    t.ok(
      proxy.requests.every((request) => request === `CONNECT ${NAME}`),
      proxy.requests.join(),
    )
  })

  t.test('is not used for this machine nor for the hosts in NO_PROXY', async (t) => {
    const registry = await startRegistry(t)
    const proxy = await startProxy(t, registry)
    const client = clientFor(t, { [NAME]: { http: true } }, { HTTP_PROXY: proxy.host, NO_PROXY: '.example' })
    await t.rejects(client.resolve(parseReference(`${registry}/none`)), {
      code: 'ERR_REGISTRY',
      registryCode: 'MANIFEST_UNKNOWN',
    })
    await t.rejects(client.resolve(parseReference(`${NAME}/none`)), {
      code: 'ERR_REGISTRY',
      registryCode: 'UNREACHABLE',
    })
    t.same(proxy.requests, [])
  })

  t.test('that refuses us gives an error without its password', async (t) => {
    const proxy = await startProxy(t, '127.0.0.1:1', { refuses: true })
    for (const [settings, variable] of [
      [{ http: true }, 'HTTP_PROXY'],
      [{}, 'HTTPS_PROXY'],
    ] as const) {
      const client = clientFor(t, { [NAME]: settings }, { [variable]: `http://user:hidden@${proxy.host}` })
      await t.rejects(client.resolve(parseReference(`${NAME}/a`)), {
        code: 'ERR_REGISTRY',
        registryCode: 'UNREACHABLE',
        message: /^(?!.*hidden).*407/,
      })
    }
  })

  t.test('does not let a redirect lead to this machine', async (t) => {
    let location = ''
    const registry = await startFake(t, (_request, response) => {
      response.writeHead(307, { location }).end()
    })
    const proxy = await startProxy(t, registry)
    const client = clientFor(t, { [NAME]: { http: true } }, { HTTP_PROXY: proxy.host })
    for (location of [
      'http://127.0.0.1:1/',
      'http://localhost:1/',
      'http://0.0.0.0:1/',
      'http://[::]:1/',
      'http://127.1:1/',
      'http://2130706433:1/',
      'http://[::ffff:127.0.0.1]:1/',
      'http://[::ffff:0.0.0.0]:1/',
    ]) {
      await t.rejects(
        client.resolve(parseReference(`${NAME}/a`)),
        { code: 'ERR_REGISTRY', registryCode: 'REDIRECT', message: /to an address of this machine/ },
        location,
      )
    }
  })
})

t.test('a redirect from https to http is refused', { skip }, async (t) => {
  const tls = makeCertificate(shortFolder(t))
  let asked = 0
  const plain = await startFake(t, (_request, response) => {
    asked++
    response.end()
  })
  const server = createServer(
    { cert: readFileSync(tls.cert), key: readFileSync(tls.key) },
    (_request, response) => {
      response.writeHead(307, { location: `http://${plain}/` }).end()
    },
  )
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
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const client = clientFor(t, { [host]: { http: false, ca: tls.cert } })
  await t.rejects(client.resolve(parseReference(`${host}/a`)), {
    registryCode: 'REDIRECT',
    message: /from https to http/,
  })
  t.equal(asked, 0)
})
