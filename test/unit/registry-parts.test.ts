// The parts of the registry client that need no registry: challenges, proxies, the file of registries, logins
// in files, which hosts may get a secret, and how long a failure is remembered.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { RegistryError } from '../../services/contract/errors.ts'
import { isSameDomain } from '../../services/registry/authorization.ts'
import { parseChallenges } from '../../services/registry/challenge.ts'
import { createCredentials } from '../../services/registry/credentials.ts'
import { createFailureMemory } from '../../services/registry/failure-memory.ts'
import { removeLogin, writeLogin } from '../../services/registry/login-file.ts'
import { openRegistryClient } from '../../services/registry/open-registry.ts'
import { readProxyRule } from '../../services/registry/proxy.ts'
import { parseRegistries, readRegistries } from '../../services/registry/registry-config.ts'
import { REGISTRIES_FILE_DEFAULT } from '../../services/platform/config.ts'

t.test('challenges are parsed, also several in one header', async (t) => {
  const bearer = {
    scheme: 'bearer',
    parameters: { realm: 'https://a/t', service: 'x"y', scope: 'repository:a/b:pull,push' },
  }
  const written = 'Bearer realm="https://a/t",service="x\\"y",scope="repository:a/b:pull,push"'
  t.match(parseChallenges(written), [bearer])
  t.match(parseChallenges(`Basic realm=x, ${written}`), [
    { scheme: 'basic', parameters: { realm: 'x' } },
    bearer,
  ])
  t.match(parseChallenges(`${written} , BASIC Realm="a, Bearer b"`), [
    bearer,
    { scheme: 'basic', parameters: { realm: 'a, Bearer b' } },
  ])
  t.same(
    parseChallenges('Negotiate, NTLM TlRMTVNTUAAC==, Basic realm = "x"').map((c) => c.scheme),
    ['negotiate', 'ntlm', 'basic'],
  )
  t.same(parseChallenges(undefined), [])
  t.same(parseChallenges('=,;"a'), [])
  t.equal(parseChallenges('Basic a="b" '.repeat(100)).length, 8)
  t.equal(
    parseChallenges('Bearer __proto__="x"')[0]?.parameters['__proto__'],
    'x',
    '__proto__ is an ordinary key',
  )
  for (const hostile of [
    'a'.repeat(1e6),
    'Bearer a="'.repeat(1e5),
    `Bearer ${'\\"'.repeat(1e5)}`,
    `Bearer a="${'\\'.repeat(1e6)}`,
    ', '.repeat(1e6),
  ])
    t.ok(parseChallenges(hostile).length <= 8)
})

t.test('a realm may get a secret when it is in the registry’s domain', async (t) => {
  const same = [
    ['registry-1.docker.io', 'auth.docker.io'],
    ['registry.gitlab.com', 'gitlab.com'],
    ['a.b.example.co.uk', 'example.co.uk'],
  ]
  const other = [
    ['a.co.uk', 'b.co.uk'],
    ['registry.example.com', 'example.com.evil.net'],
    ['10.0.0.1', '10.0.0.2'],
    ['localhost', 'localhost'],
    ['evil-docker.io', 'docker.io'],
    ['io', 'docker.io'],
  ]
  for (const [a, b] of same) t.ok(isSameDomain(a!, b!), `${a} and ${b}`)
  for (const [a, b] of other) t.notOk(isSameDomain(a!, b!), `${a} and ${b}`)
})

t.test('proxies', async (t) => {
  const rule = readProxyRule({
    HTTPS_PROXY: 'http://secure:1',
    https_proxy: 'http://lower:1',
    HTTP_PROXY: 'plain:2',
    NO_PROXY: 'example.com, .lan,10.0.0.0/8 [::9],special.net:8443,fd00::/8,192.168.1.7',
  })
  const through = (url: string): string | undefined => rule(new URL(url))?.host
  t.equal(through('https://ghcr.io/'), 'lower:1', 'the lower-case name wins')
  t.equal(through('http://ghcr.io/'), 'plain:2')
  for (const url of [
    'https://example.com',
    'https://a.example.com',
    'http://registry.lan:5000',
    'http://10.1.2.3',
    'https://192.168.1.7:5000',
    'https://[fd00::1]',
    'https://special.net:8443',
  ])
    t.equal(through(url), undefined, url)
  for (const url of [
    'https://notexample.com',
    'https://special.net',
    'https://11.0.0.1',
    'https://[fe00::1]',
    'https://192.168.1.8',
  ])
    t.equal(through(url), 'lower:1', url)
  for (const url of ['http://localhost:5000', 'http://127.9.9.9', 'http://[::1]:5000', 'https://x.localhost'])
    t.equal(through(url), undefined, `${url} is this machine`)
  t.equal(readProxyRule({ HTTPS_PROXY: 'http://p', NO_PROXY: '*' })(new URL('https://a.b')), undefined)
  t.throws(() => readProxyRule({ HTTP_PROXY: 'ftp://user:secret@x' }), {
    code: 'ERR_INVALID_REQUEST',
    message: /^HTTP_PROXY: (?!.*secret)/,
  })
})

t.test('the file of registries', async (t) => {
  t.test('has the settings of a registry under each of its names', async (t) => {
    const { of, ofHost } = parseRegistries({
      registries: {
        'index.docker.io': { mirrors: ['https://Mirror.lan:5000/hub/', 'other.lan'] },
        'Registry.LAN': { http: true },
        'tls.lan:443': { insecure: true },
      },
    })
    t.match(of('docker.io'), {
      mirrors: [{ registry: 'Mirror.lan:5000', prefix: 'hub' }, { registry: 'other.lan' }],
      insecure: false,
    })
    t.match(ofHost('registry-1.docker.io'), { mirrors: [{}, {}] })
    t.equal(of('registry.lan').http, true)
    t.equal(ofHost('tls.lan')?.insecure, true)
    t.match(of('else'), { mirrors: [], insecure: false, tokenHosts: [] })
    t.equal(ofHost('else'), undefined)
  })

  t.test('is refused with every fault at once', async (t) => {
    const bad = {
      other: 1,
      registries: {
        'a b': {},
        b: [],
        c: {
          mirror: [],
          mirrors: 'x',
          http: 'yes',
          ca: 'relative.pem',
          cert: '/dev/null',
          tokenHosts: ['a/b'],
        },
        d: { mirrors: ['a/B', 'user@host'], ca: '/no/such.pem' },
      },
    }
    try {
      parseRegistries(bad)
      t.fail('it was taken')
    } catch (error) {
      t.same(
        (error as { faults: Array<{ path: string }> }).faults.map((f) => f.path),
        [
          'other',
          'registries["a b"]',
          'registries["b"]',
          'registries["c"].mirror',
          'registries["c"].ca',
          'registries["c"].cert',
          'registries["c"].http',
          'registries["c"]',
          'registries["c"].tokenHosts',
          'registries["c"].mirrors',
          'registries["d"].ca',
          'registries["d"].mirrors[0]',
          'registries["d"].mirrors[1]',
        ],
      )
    }
    const file = join(
      t.testdir({ 'bad.pem': '-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n' }),
      'bad.pem',
    )
    t.throws(() => parseRegistries({ registries: { a: { ca: file } } }), {
      code: 'ERR_INVALID_REQUEST',
      message: /^registries\["a"\]\.ca: is not a certificate/,
    })
    t.throws(() => parseRegistries({ registries: { a: { cert: file, key: file } } }), {
      code: 'ERR_INVALID_REQUEST',
      message: /^registries\["a"\]: its certificates cannot be used/,
    })
    t.throws(
      () =>
        openRegistryClient({
          env: { SSL_CERT_FILE: '/no/such' },
          dataDir: '/no',
          registriesFile: REGISTRIES_FILE_DEFAULT,
        }),
      { code: 'ERR_INVALID_REQUEST', message: /^SSL_CERT_FILE: \/no\/such cannot be read \(ENOENT\)/ },
    )
    for (const value of [
      null,
      [],
      'x',
      { registries: [] },
      { registries: Object.fromEntries(Array.from({ length: 257 }, (_, i) => [`r${i}`, {}])) },
    ])
      t.throws(() => parseRegistries(value), { code: 'ERR_INVALID_REQUEST' })
  })

  t.test('may be missing only when it was not named', async (t) => {
    const file = join(t.testdir({ 'bad.json': '{' }), 'none.json')
    t.doesNotThrow(() => readRegistries(file, { optional: true }))
    t.throws(() => readRegistries(file, { optional: false }), {
      code: 'ERR_INVALID_REQUEST',
      message: /none\.json: cannot be read \(ENOENT\)/,
    })
    t.throws(() => readRegistries(join(t.testdirName, 'bad.json'), { optional: true }), {
      message: /bad\.json: is not JSON/,
    })
  })
})

t.test('logins in files', async (t) => {
  const auth = (pair: string): { auth: string } => ({ auth: Buffer.from(pair).toString('base64') })
  const find = async (config: unknown, registry: string) => {
    const file = join(t.testdir(), `${Math.random()}.json`)
    writeFileSync(file, typeof config === 'string' ? config : JSON.stringify(config))
    return await createCredentials({ files: [join(t.testdirName, 'missing.json'), file], env: {} }).find(
      registry,
    )
  }

  t.test('are found under every key that tools write', async (t) => {
    for (const [key, registry] of [
      ['https://index.docker.io/v1/', 'docker.io'],
      ['docker.io', 'docker.io'],
      ['registry-1.docker.io', 'docker.io'],
      ['ghcr.io', 'ghcr.io'],
      ['https://ghcr.io/v2/', 'ghcr.io'],
      ['http://LOCALHOST:5000', 'localhost:5000'],
    ] as const)
      t.match(
        await find({ auths: { other: auth('x:y'), [key]: auth('me:a:b') } }, registry),
        { credential: { kind: 'password', username: 'me', password: 'a:b' }, problems: [] },
        key,
      )
    for (const registry of ['cr.io', 'ghcr.io:443', 'hcr.io'])
      t.equal((await find({ auths: { 'ghcr.io': auth('a:b') } }, registry)).credential, undefined, registry)
  })

  t.test('are passwords, identity tokens or bearer tokens', async (t) => {
    t.match(await find({ auths: { a: { username: 'u', password: 'p' } } }, 'a'), {
      credential: { username: 'u', password: 'p' },
    })
    t.match(await find({ auths: { a: { ...auth('u:'), identitytoken: 'i' } } }, 'a'), {
      credential: { kind: 'identity', token: 'i' },
    })
    t.match(await find({ auths: { a: { registrytoken: 'r' } } }, 'a'), {
      credential: { kind: 'bearer', token: 'r' },
    })
    for (const entry of [
      {},
      null,
      'x',
      { auth: 5 },
      auth('nocolon'),
      auth(':p'),
      auth('u:'),
      { username: 'u', password: 'p\r\nx-evil: 1' },
    ]) {
      t.same(await find({ auths: { a: entry } }, 'a'), { problems: [] }, JSON.stringify(entry))
    }
  })

  t.test('that cannot be read are reported without their content', async (t) => {
    for (const text of ['{"auths": {"a": {"auth": "c2VjcmV0', '[]', 'secret', '"x"']) {
      const { credential, problems } = await find(text, 'a')
      t.equal(credential, undefined)
      t.match(problems, [/\.json is not a JSON object/])
      t.notMatch(problems.join(), /secret|c2VjcmV0/)
    }
    t.same(await find('', 'a'), { problems: [] })
  })

  t.test('of a slow helper do not delay the end of a process', async (t) => {
    const folder = t.testdir({ 'config.json': '{"credsStore":"slow"}' })
    writeFileSync(
      join(folder, 'docker-credential-slow'),
      `#!/bin/sh\necho $$ >${folder}/begun\nexec sleep 1000\n`,
      { mode: 0o755 },
    )
    const credentials = createCredentials({
      files: [join(folder, 'config.json')],
      env: { PATH: `${folder}:${process.env['PATH']}` },
    })
    const found = credentials.find('a')
    while (!existsSync(join(folder, 'begun'))) await sleep(5)
    credentials.close?.()
    t.match(await found, { problems: ['docker-credential-slow was stopped'] })
  })

  t.test('are written and removed without touching the others', async (t) => {
    const file = join(t.testdir(), 'new/credentials.json')
    await writeLogin(file, 'docker.io', { username: 'me', password: 'p' })
    await writeLogin(file, 'ghcr.io', { username: 'me', password: 'q' })
    await writeLogin(file, 'ghcr.io', { username: 'me', password: 'r' })
    t.same(JSON.parse(readFileSync(file, 'utf8')), {
      auths: { 'https://index.docker.io/v1/': auth('me:p'), 'ghcr.io': auth('me:r') },
    })
    t.equal(await removeLogin(file, 'docker.io'), true)
    t.equal(await removeLogin(file, 'docker.io'), false)
    t.same(JSON.parse(readFileSync(file, 'utf8')), { auths: { 'ghcr.io': auth('me:r') } })
    mkdirSync(join(t.testdirName, 'broken'))
    writeFileSync(join(t.testdirName, 'broken/credentials.json'), '{')
    await t.rejects(
      writeLogin(join(t.testdirName, 'broken/credentials.json'), 'a', { username: 'u', password: 'p' }),
      { message: /is not a JSON object/ },
      'an invalid file is not replaced',
    )
  })
})

t.test('a slow failure is repeated at once for the next caller; a quick one is not remembered', async (t) => {
  const notAgain = createFailureMemory()
  let asked = 0
  const fail =
    (afterMs: number, retryable = true) =>
    async (): Promise<never> => {
      asked++
      await sleep(afterMs)
      throw new RegistryError(`failure ${asked}`, { registryCode: 'UNREACHABLE', retryable })
    }
  await t.rejects(notAgain('a', fail(1050)), { message: 'failure 1' })
  await t.rejects(notAgain('a', fail(0)), { message: 'failure 1' })
  await t.rejects(notAgain('b', fail(0)), { message: 'failure 2' })
  await t.rejects(notAgain('b', fail(0)), { message: 'failure 3' })
  await t.rejects(notAgain('c', fail(1050, false)), { message: 'failure 4' })
  t.equal(await notAgain('c', async () => 'fine'), 'fine', 'a permanent failure is not remembered')
})
