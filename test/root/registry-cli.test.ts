// wherry push as a user runs it: to a registry, under another name, as an index, and to a private registry
// with and without a login. Ctrl-C ends every command that waits for a registry.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { gunzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { createPuller } from '../../services/images/pull.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { createImageStore } from '../../services/images/store.ts'
import { NATIVE_DIR } from '../helpers/container.ts'
import { gzipLayer } from '../helpers/layer.ts'
import { PASSWORD, passwordPart, USER } from '../helpers/registry-auth.ts'
import { noRegistry, startFake, startFakeImage, startRegistry } from '../helpers/registry.ts'
import { COMMAND, runWherry, shortFolder } from '../helpers/wherry.ts'

const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : !existsSync(join(NATIVE_DIR, 'wherry-unpack'))
      ? 'build/native/wherry-unpack is missing: run make native'
      : noRegistry
const layers = [gzipLayer([{ name: 'a', data: 'a' }]), gzipLayer([{ name: 'b', data: 'b' }])]

/** Resolves when SEEN returns true. */
async function until(seen: () => boolean): Promise<void> {
  while (!seen()) await sleep(10)
}

function setup(t: Test) {
  const data = shortFolder(t)
  const registry = createRegistryClient()
  t.teardown(() => registry.close())
  const run = (args: readonly string[], input?: string) =>
    runWherry(args, { env: { WHERRY_DATA: data, HOME: data }, ...(input !== undefined && { input }) })
  const made = (image: string, config: object = {}) =>
    pushImage({ registry, reference: parseReference(image), config: { ...config }, layers })
  return { data, registry, run, made }
}

t.test('wherry push', { skip }, async (t) => {
  const [from, to] = [await startRegistry(t), await startRegistry(t)]

  t.test('sends a pulled image once and reports what it sent', async (t) => {
    const { registry, run, made } = setup(t)
    const digest = await made(`${from}/app:v1`)
    t.match(await run(['image', 'pull', `${from}/app:v1`]), { code: 0 })
    t.match(await run(['push', `${from}/app:v1`, `${to}/team/app:v2`]), {
      code: 0,
      stdout: `pushed ${to}/team/app:v2, ${digest}\n`,
      stderr: /^[0-9a-f]{12} {2}\d+ B in /m,
    })
    t.match(await registry.resolve(parseReference(`${to}/team/app:v2`)), { digest })
    t.match(await run(['push', `${from}/app:v1`, `${to}/team/app:v3`]), { code: 0, stderr: /already exists/ })
    t.match(await run(['push', `${from}/app:v1`, `${from}/other`, '--json']), {
      code: 0,
      stdout: JSON.stringify({ name: `${from}/other:latest`, digest }),
      stderr: /mounted from another repository/,
    })
    t.match(await run(['image', 'tag', `${from}/app:v1`, `${to}/team/app:v2`]), { code: 0 })
    t.match(
      await run(['push', `${from}/app:v1`, `${to}/team/third`]),
      { code: 0, stderr: /mounted from another repository/ },
      'where another of its names was pushed',
    )
    t.match(await run(['push', `${from}/app:v1`, '-q']), {
      code: 0,
      stdout: `pushed ${from}/app:v1, ${digest}\n`,
      stderr: '',
    })
  })

  t.test('fetches layers that are stored only unpacked from their source', async (t) => {
    const { data, registry, run, made } = setup(t)
    const image = `${from}/worker:v1`
    const digest = await made(image)
    const store = createImageStore({ dir: join(data, 'images') })
    const puller = createPuller({ store, registry, nativeDir: NATIVE_DIR })
    await puller.ensure(parseReference(image), digest)
    await puller.stop()
    store.catalog.tag(image, digest)
    store.close()
    t.match(await run(['push', image, `${to}/worker`]), { code: 0 })
    t.match(await registry.resolve(parseReference(`${to}/worker`)), { digest })
  })

  t.test('of an index with one stored platform sends that one and names the others', async (t) => {
    const { registry, run, made } = setup(t)
    const own = await made(`${from}/multi:own`)
    await made(`${from}/multi:other`, { architecture: 's390x' })
    t.match(await run(['push', '--index', `${from}/multi:v1`, `${from}/multi:own`, `${from}/multi:other`]), {
      code: 0,
      stdout: /an index of 2\n$/,
    })
    t.match(await run(['image', 'pull', `${from}/multi:v1`]), { code: 0 })
    t.match(await run(['push', `${from}/multi:v1`, `${to}/multi:v1`]), {
      code: 0,
      stdout: `pushed ${to}/multi:v1, ${own}`,
      stderr: /only the platform of this machine is stored here; not pushed: linux\/s390x/,
    })
    t.match(await run(['push', '--index', `${to}/multi:v2`, `${from}/multi:own`, `${from}/multi:other`]), {
      code: 0,
      stdout: /an index of 2\n$/,
    })
    t.match(await registry.resolve(parseReference(`${to}/multi:v2`)), {
      mediaType: 'application/vnd.oci.image.index.v1+json',
    })
  })

  t.test('to a registry with a password requires a login and says so in one line', async (t) => {
    const { run, made } = setup(t)
    const closed = await startRegistry(t, { more: passwordPart(shortFolder(t)) })
    await made(`${from}/app:v1`)
    t.match(await run(['image', 'pull', `${from}/app:v1`]), { code: 0 })
    t.match(await run(['push', `${from}/app:v1`, `${closed}/app`]), {
      code: 1,
      stderr: new RegExp(
        `^wherry: push: registry ${closed} requires a login: .*; run wherry login ${closed} \\(ERR_REGISTRY\\)$`,
        'm',
      ),
    })
    t.match(await run(['login', closed, '-u', USER, '--password-stdin'], PASSWORD), { code: 0 })
    t.match(await run(['push', `${from}/app:v1`, `${closed}/app`]), { code: 0 })
    t.match(await run(['image', 'pull', `${closed}/app`]), { code: 0 }, 'the same login pulls')
    t.match(
      await run(['login', from, '-u', USER, '--password-stdin'], PASSWORD),
      { code: 0, stdout: /^saved the login of .* in .* without checking it/ },
      'at a registry that does not ask for one',
    )
  })

  t.test('with wrong arguments shows the right ones', async (t) => {
    const { run, made } = setup(t)
    const digest = await made(`${from}/app:v1`)
    await run(['image', 'pull', `${from}/app:v1`])
    for (const [args, stderr] of [
      [[`${from}/none`], /there is no image/],
      [['a', 'b', 'c'], /one image and one destination/],
      [[digest], /includes no destination/],
      [[digest.slice(7, 15)], /includes no destination/],
      [[`${from}/app:v1`, `x@sha256:${'a'.repeat(64)}`], /the digest is that of the image/],
      [[`${from}/app:v1`, 'UPPER/x y'], /not an image reference/],
    ] as const) {
      const ended = await run(['push', ...args])
      t.match(ended, { stderr })
      t.not(ended.code, 0)
    }
  })
})

t.test('Ctrl-C ends a command, whatever it waits for, and leaves nothing behind', { skip }, async (t) => {
  const { data, run } = setup(t)
  const drafts = (): readonly string[] =>
    existsSync(join(data, 'images/tmp')) ? readdirSync(join(data, 'images/tmp')) : []
  /** `wherry ARGS`, interrupted when ARRIVED resolves. */
  const interrupted = async (args: readonly string[], arrived: Promise<unknown>) => {
    const child = spawn(COMMAND, [...args, '--data', data], {
      stdio: ['pipe', 'ignore', 'pipe'],
      env: { ...process.env, HOME: data, DOCKER_CONFIG: data },
    })
    const said = child.stderr.setEncoding('utf8').toArray()
    await arrived
    child.kill('SIGINT')
    const [code] = await once(child, 'close')
    return { code, stderr: (await said).join('') }
  }
  /**
   * An image whose server does not answer requests for which HANGS returns true, and a promise of the first
   * such request.
   */
  const hanging = async (hangs: (method: string, path: string) => boolean) => {
    const arrived = Promise.withResolvers<void>()
    const { host } = await startFakeImage(t, {
      layers: [gzipLayer([{ name: 'a', data: 'a' }])].map(({ bytes, mediaType }) => ({
        bytes,
        mediaType,
        diffId: digestOf(gunzipSync(bytes)),
      })),
      intercept({ method = '', url = '' }, response) {
        if (!hangs(method, url)) return false
        if (method === 'GET' && url.includes('/blobs/'))
          response.writeHead(200, { 'content-type': 'application/octet-stream' }).write('x')
        arrived.resolve()
        return true
      },
    })
    return { image: `${host}/test/image`, arrived: arrived.promise }
  }

  for (const [name, hangs] of [
    ['the tag', (method) => method === 'HEAD'],
    ['the manifest', (method, path) => method === 'GET' && path.includes('/manifests/')],
    ['a blob, in the middle', (_method, path) => path.includes('/blobs/')],
  ] as ReadonlyArray<readonly [string, (method: string, path: string) => boolean]>)
    t.test(`a pull that waits for ${name}`, async (t) => {
      const { image, arrived } = await hanging(hangs)
      t.match(await interrupted(['image', 'pull', image], arrived), {
        code: 1,
        stderr: /^wherry: image pull: interrupted$/m,
      })
      t.same(drafts(), [])
    })

  t.test('a push that waits for a response of the registry or of an image to join', async (t) => {
    const good = await hanging(() => false)
    t.match(await run(['image', 'pull', good.image]), { code: 0 })
    const to = await hanging((method) => method === 'HEAD')
    t.match(await interrupted(['push', good.image, to.image], to.arrived), {
      code: 1,
      stderr: /^wherry: push: interrupted$/m,
    })
    const part = await hanging((method) => method === 'HEAD')
    t.match(await interrupted(['push', '--index', good.image, part.image], part.arrived), {
      code: 1,
      stderr: /^wherry: push: interrupted$/m,
    })
  })

  t.test('a load whose archive does not arrive', async (t) => {
    const child = interrupted(
      ['image', 'load'],
      until(() => drafts().length > 0),
    )
    t.match(await child, { code: 1, stderr: /^wherry: image load: interrupted$/m })
    t.same(drafts(), [])
  })

  t.test('a pull that waits for a credential helper, which ends too', async (t) => {
    const host = await startFake(t, (_request, response) => {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end()
    })
    writeFileSync(join(data, 'config.json'), '{"credsStore":"slow"}')
    writeFileSync(
      join(data, 'docker-credential-slow'),
      `#!/bin/sh\necho $$ >${data}/begun\nexec sleep 1000\n`,
      { mode: 0o755 },
    )
    const begun = (): string =>
      existsSync(join(data, 'begun')) ? readFileSync(join(data, 'begun'), 'utf8').trim() : ''
    const path = process.env['PATH']
    process.env['PATH'] = `${data}:${path}`
    t.teardown(() => {
      process.env['PATH'] = path
    })
    t.match(
      await interrupted(
        ['image', 'pull', `${host}/a`],
        until(() => begun() !== ''),
      ),
      { code: 1, stderr: /^wherry: image pull: interrupted$/m },
    )
    await until(() => !existsSync(`/proc/${begun()}`))
    t.pass('the helper is gone')
  })
})

t.test(
  'wherry login prompts at a terminal and does not echo the password',
  { skip: skip || (existsSync('/usr/bin/script') ? false : 'script (bsdutils) is not installed') },
  async (t) => {
    const { data } = setup(t)
    const host = await startRegistry(t, { more: passwordPart(shortFolder(t)) })
    const child = spawn('script', ['-qec', `${COMMAND} login ${host} --data ${data}`, '/dev/null'], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, HOME: data },
    })
    let shown = ''
    const answers: Array<readonly [string, string]> = [
      ['Username: ', USER],
      ['Password: ', PASSWORD],
    ]
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      shown += text
      if (answers[0] && shown.endsWith(answers[0][0])) child.stdin.write(`${answers.shift()![1]}\r`)
    })
    const [code] = await once(child, 'close')
    t.equal(code, 0, shown)
    t.match(shown, `logged in to ${host} as ${USER}`)
    t.notMatch(shown, PASSWORD)
  },
)
