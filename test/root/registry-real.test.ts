// The registry client with a real docker-registry that requires authentication: passwords, tokens, TLS,
// mirrors, client certificates. Needs no root, but the docker-registry of this tier.

import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openRegistryClient } from '../../services/registry/open-registry.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import type { RegistryClient } from '../../services/registry/registry.ts'
import { gzipLayer } from '../helpers/layer.ts'
import {
  makeCertificate,
  PASSWORD,
  passwordPart,
  startTokenServer,
  tlsPart,
  tokenPart,
  USER,
} from '../helpers/registry-auth.ts'
import { noRegistry, startRegistry } from '../helpers/registry.ts'
import { runWherry, shortFolder } from '../helpers/wherry.ts'

const skip = noRegistry || (existsSync('/usr/bin/openssl') ? false : 'openssl is not installed')
const LAYER = gzipLayer([{ name: 'a', data: 'a' }])

interface Setup {
  readonly registries?: object
  readonly auths?: object
  readonly docker?: object
  readonly env?: Record<string, string>
}

/** A data folder, a HOME, a file of registries, and a client that uses them. */
function setup(t: Test, { registries = {}, auths, docker, env = {} }: Setup = {}) {
  const dataDir = shortFolder(t)
  const home = join(dataDir, 'home')
  mkdirSync(join(home, '.docker'), { recursive: true })
  const registriesFile = join(dataDir, 'registries.json')
  writeFileSync(registriesFile, JSON.stringify({ registries }))
  if (auths) writeFileSync(join(dataDir, 'credentials.json'), JSON.stringify({ auths }))
  if (docker) writeFileSync(join(home, '.docker/config.json'), JSON.stringify(docker))
  const all = { PATH: process.env['PATH'] ?? '', HOME: home, ...env }
  const client = openRegistryClient({ env: all, dataDir, registriesFile })
  t.teardown(() => client.close())
  return {
    client,
    dataDir,
    home,
    registriesFile,
    env: { HOME: home, WHERRY_REGISTRIES: registriesFile, WHERRY_DATA: dataDir, ...env },
  }
}

const basic = (password = PASSWORD): { auth: string } => ({
  auth: Buffer.from(`${USER}:${password}`).toString('base64'),
})
const push = (registry: RegistryClient, image: string): Promise<string> =>
  pushImage({ registry, reference: parseReference(image), config: {}, layers: [LAYER] })

t.test('a registry with passwords', { skip }, async (t) => {
  const host = await startRegistry(t, { more: passwordPart(shortFolder(t)) })
  const image = `${host}/private/app:v1`

  t.test('accepts pushes and pulls with a login, and tells others what to do', async (t) => {
    const { client } = setup(t, { auths: { [host]: basic() } })
    const digest = await push(client, image)
    t.match(await client.resolve(parseReference(image)), { digest })
    const nobody = setup(t).client
    await t.rejects(nobody.resolve(parseReference(image)), {
      registryCode: 'UNAUTHORIZED',
      message: new RegExp(`no credentials are stored for it; run wherry login ${host}$`),
    })
    const wrong = setup(t, { auths: { [host]: basic('wrong') } }).client
    await t.rejects(wrong.resolve(parseReference(image)), {
      registryCode: 'UNAUTHORIZED',
      message: /refuses the login/,
    })
  })

  t.test('accepts a login made after the client was created', async (t) => {
    const { client, dataDir } = setup(t)
    await t.rejects(client.resolve(parseReference(image)))
    writeFileSync(
      join(dataDir, 'credentials.json'),
      JSON.stringify({ auths: { [`http://${host}/v1/`]: basic() } }),
    )
    t.match(await client.resolve(parseReference(image)), { digest: /^sha256:/ })
  })

  t.test(
    'wherry login checks the password and stores it readable by its owner alone, and logout removes it',
    async (t) => {
      const { client, env, dataDir } = setup(t)
      const args = ['login', host, '-u', USER, '--password-stdin']
      t.match(await runWherry(args, { env, input: 'wrong' }), {
        code: 1,
        stderr: new RegExp(`registry ${host} refuses the login`),
      })
      t.notOk(existsSync(join(dataDir, 'credentials.json')))
      const done = await runWherry(args, { env, input: `${PASSWORD}\n` })
      t.match(done, { code: 0, stdout: `logged in to ${host} as ${USER}`, stderr: '' })
      t.notMatch(`${done.stdout}${done.stderr}`, PASSWORD)
      t.equal(statSync(join(dataDir, 'credentials.json')).mode & 0o777, 0o600)
      t.match(await client.resolve(parseReference(image)), { digest: /^sha256:/ })
      t.match(await runWherry(['logout', `http://${host}/`], { env }), {
        code: 0,
        stdout: `logged out of ${host}\n`,
      })
      t.same(JSON.parse(readFileSync(join(dataDir, 'credentials.json'), 'utf8')), { auths: {} })
      t.match(await runWherry(['logout', host], { env }), { code: 1, stderr: /there is no login/ })
    },
  )
})

t.test('a registry with tokens over TLS', { skip }, async (t) => {
  const folder = shortFolder(t)
  const tls = makeCertificate(folder)
  const signer = makeCertificate(folder, 'signer')
  const tokens = await startTokenServer(t, { signer, tls })
  const host = await startRegistry(t, { http: tlsPart(tls), more: tokenPart(tokens.realm, signer) })
  const image = `${host}/team/app:v1`
  const known = { http: false, ca: tls.cert, tokenHosts: [tokens.host] }
  const registries = { [host]: known, [tokens.host]: { http: false, ca: tls.cert } }

  t.test('gives one token for many requests, and the right to push only with a login', async (t) => {
    const { client } = setup(t, { registries, auths: { [host]: basic() } })
    const before = tokens.requests.length
    const digest = await push(client, image)
    t.same(tokens.requests.slice(before), [`GET ${USER} repository:team/app:pull,push`])
    const anonymous = setup(t, { registries }).client
    t.match(await anonymous.resolve(parseReference(image)), { digest })
    await t.rejects(push(anonymous, image), { code: 'ERR_REGISTRY', message: /refuses access/ })
    const wrong = setup(t, { registries, auths: { [host]: basic('wrong') } }).client
    await t.rejects(wrong.resolve(parseReference(image)), {
      registryCode: 'UNAUTHORIZED',
      message: /token service .* refuses the login \(401\)/,
    })
  })

  t.test('gives ten requests at once one token', async (t) => {
    const { client } = setup(t, { registries, auths: { [host]: basic() } })
    const before = tokens.requests.length
    await Promise.all(
      Array.from({ length: 10 }, () => client.manifest(parseReference(image), 'latest').catch(() => {})),
    )
    t.equal(tokens.requests.length - before, 1)
  })

  t.test('accepts an identity token of docker login, exchanged by POST', async (t) => {
    const closed = await startTokenServer(t, { signer, tls, isClosed: true, refreshToken: 'refresh-me' })
    const second = await startRegistry(t, { http: tlsPart(tls), more: tokenPart(closed.realm, signer) })
    const settings = { [second]: { ...known, tokenHosts: [closed.host] }, [closed.host]: { ca: tls.cert } }
    const { client } = setup(t, {
      registries: settings,
      docker: { auths: { [second]: { identitytoken: 'refresh-me' } } },
    })
    await push(client, `${second}/team/app`)
    t.same(closed.requests, ['POST refresh_token repository:team/app:pull,push'])
  })

  t.test('accepts a password by POST where the token service does not support GET', async (t) => {
    const posting = await startTokenServer(t, { signer, tls, postOnly: true })
    const second = await startRegistry(t, { http: tlsPart(tls), more: tokenPart(posting.realm, signer) })
    const settings = { [second]: { ...known, tokenHosts: [posting.host] }, [posting.host]: { ca: tls.cert } }
    const { client } = setup(t, { registries: settings, auths: { [second]: basic() } })
    await push(client, `${second}/team/app`)
    t.same(posting.requests, [
      `GET ${USER} repository:team/app:pull,push`,
      'POST password repository:team/app:pull,push',
    ])
  })

  t.test('gets a new token when the old one has expired', async (t) => {
    const brief = await startTokenServer(t, { signer, tls, lifetimeS: 1 })
    const second = await startRegistry(t, { http: tlsPart(tls), more: tokenPart(brief.realm, signer) })
    const settings = { [second]: known, [brief.host]: { ca: tls.cert } }
    const { client } = setup(t, { registries: settings })
    for (let i = 0; brief.requests.length < 2; i++)
      await t.rejects(client.resolve(parseReference(`${second}/a:${i}`)), {
        code: 'ERR_REGISTRY',
        registryCode: 'MANIFEST_UNKNOWN',
      })
  })

  t.test('does not get the login through a realm in another domain', async (t) => {
    const { client } = setup(t, {
      registries: { ...registries, [host]: { ...known, tokenHosts: [] } },
      auths: { localhost: basic(), [host]: basic() },
    })
    const elsewhere = `localhost:${host.split(':')[1]}`
    const other = setup(t, {
      registries: { ...registries, [elsewhere]: { http: false, ca: tls.cert } },
      auths: { [elsewhere]: basic() },
    })
    const before = tokens.requests.length
    await t.rejects(other.client.resolve(parseReference(`${elsewhere}/team/app:v1`)), {
      registryCode: 'UNAUTHORIZED',
      message:
        /another domain, which does not get the login; if that is right, add 127\.0\.0\.1:\d+ to tokenHosts/,
    })
    t.equal(tokens.requests.length, before)
    t.match(
      await client.resolve(parseReference(image)),
      { digest: /^sha256:/ },
      'another port of the same host over https is trusted',
    )
  })

  t.test('is refused without its CA, with advice; SSL_CERT_FILE and insecure work, too', async (t) => {
    const stranger = setup(t, { registries: { [host]: { http: false } } }).client
    await t.rejects(stranger.resolve(parseReference(image)), {
      registryCode: 'UNREACHABLE',
      message: /self-signed certificate.*; set its CA in the file of registries, or in SSL_CERT_FILE/,
    })
    const byFile = setup(t, {
      registries: { [host]: { http: false } },
      env: { SSL_CERT_FILE: tls.cert },
    }).client
    t.match(await byFile.resolve(parseReference(image)), { digest: /^sha256:/ })
    const insecure = setup(t, {
      registries: { [host]: { http: false, insecure: true }, [tokens.host]: { insecure: true } },
    }).client
    t.match(await insecure.resolve(parseReference(image)), { digest: /^sha256:/ })
    const plain = setup(t, { registries: { [host]: { http: true } } }).client
    await t.rejects(plain.resolve(parseReference(image)), { code: 'ERR_REGISTRY' })
  })
})

t.test(
  'a registry that requires a client certificate gets the configured one, and no other registry does',
  { skip },
  async (t) => {
    const folder = shortFolder(t)
    const tls = makeCertificate(folder)
    const own = makeCertificate(folder, 'client')
    const host = await startRegistry(t, { http: tlsPart(tls, own.cert) })
    const { client } = setup(t, {
      registries: { [host]: { http: false, ca: tls.cert, cert: own.cert, key: own.key } },
    })
    const digest = await push(client, `${host}/a`)
    t.match(await client.resolve(parseReference(`${host}/a`)), { digest })
    const without = setup(t, { registries: { [host]: { http: false, ca: tls.cert } } }).client
    await t.rejects(without.resolve(parseReference(`${host}/a`)), {
      code: 'ERR_REGISTRY',
      registryCode: 'UNREACHABLE',
    })
  },
)

t.test('mirrors', { skip }, async (t) => {
  const [origin, mirror] = [
    await startRegistry(t),
    await startRegistry(t, { more: passwordPart(shortFolder(t)) }),
  ]
  const writer = setup(t, { auths: { [mirror]: basic() } }).client
  const onlyMirror = await push(writer, `${mirror}/hub/app:both`)
  const onlyOrigin = await pushImage({
    registry: writer,
    reference: parseReference(`${origin}/app:both`),
    config: { config: { User: '1' } },
    layers: [LAYER],
  })
  const registries = { [origin]: { mirrors: ['127.0.0.1:1', `${mirror}/hub`] } }

  t.test('are tried first, in order, with their own logins', async (t) => {
    const { client } = setup(t, { registries, auths: { [mirror]: basic() } })
    t.match(await client.resolve(parseReference(`${origin}/app:both`)), { digest: onlyMirror })
    t.match(
      await client.manifest(parseReference(`${origin}/app`), onlyOrigin),
      { mediaType: /manifest/ },
      'an image that no mirror has comes from the registry itself',
    )
  })

  t.test('that refuse us are skipped; when all fail, the message names each', async (t) => {
    const { client } = setup(t, { registries })
    t.match(await client.resolve(parseReference(`${origin}/app:both`)), { digest: onlyOrigin })
    await t.rejects(client.resolve(parseReference(`${origin}/none`)), {
      registryCode: 'MANIFEST_UNKNOWN',
      message: /does not have image none:latest.*; its mirrors failed before: registry .* requires a login/,
    })
  })

  t.test('are not pushed to', async (t) => {
    const { client } = setup(t, { registries, auths: { [mirror]: basic() } })
    const digest = await push(client, `${origin}/pushed`)
    await t.rejects(writer.resolve(parseReference(`${mirror}/hub/pushed`)), {
      code: 'ERR_REGISTRY',
      registryCode: 'MANIFEST_UNKNOWN',
    })
    t.match(await client.resolve(parseReference(`${origin}/pushed`)), { digest })
  })
})

t.test('Docker’s credential helpers run, within bounds', { skip }, async (t) => {
  const host = await startRegistry(t, { more: passwordPart(shortFolder(t)) })
  const image = parseReference(`${host}/none`)
  const helper = (t: Test, script: string): Record<string, string> => {
    const folder = shortFolder(t)
    writeFileSync(join(folder, 'docker-credential-test'), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
    return { PATH: `${folder}:${process.env['PATH']}` }
  }
  const answer = `read -r server; [ "$1 $server" = "get ${host}" ] && printf '{"ServerURL":"x","Username":"${USER}","Secret":"${PASSWORD}"}'`
  for (const [name, docker] of [
    ['credsStore', { credsStore: 'test' }],
    ['credHelpers', { credHelpers: { [host]: 'test' }, credsStore: 'missing' }],
  ] as const) {
    t.test(`${name} answers`, async (t) => {
      const { client } = setup(t, { docker, env: helper(t, answer) })
      await t.rejects(client.resolve(image), { code: 'ERR_REGISTRY', registryCode: 'MANIFEST_UNKNOWN' })
    })
  }
  const bad: ReadonlyArray<readonly [string, string, RegExp]> = [
    ['that fails', 'echo secret-text; exit 3', /docker-credential-test exited with code 3\)/],
    ['that talks without end', 'exec cat /dev/zero', /printed more than 262144 bytes/],
    ['that answers nonsense', 'echo secret-text', /did not answer with a user name and a secret/],
  ]
  for (const [name, script, message] of bad) {
    t.test(`one ${name} is named, and its output is not shown`, async (t) => {
      const { client } = setup(t, { docker: { credsStore: 'test' }, env: helper(t, script) })
      await t.rejects(client.resolve(image), { registryCode: 'UNAUTHORIZED', message })
      await client.resolve(image).catch((error: Error) => t.notMatch(error.message, 'secret-text'))
    })
  }
  t.test('one that is not installed is named', async (t) => {
    const { client } = setup(t, { docker: { credsStore: '../evil' } })
    await t.rejects(client.resolve(image), { message: /the name of a credential helper must be/ })
    const missing = setup(t, { docker: { credsStore: 'missing' } }).client
    await t.rejects(missing.resolve(image), { message: /docker-credential-missing is not installed/ })
  })
})
